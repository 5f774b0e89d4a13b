"""The page of imported logs: figures of other benchmarks."""

from collections.abc import Sequence
from pathlib import Path

from reports.imports.imported import read_imported
from reports.site.page import Banner, Page, Section
from reports.tables.sentences import counted
from reports.tables.show import imported_text


def imported_page(paths: Sequence[Path]) -> Page:
    """The text of imported logs. Raises ResultError for an unusable log."""
    logs = [read_imported(path) for path in paths]
    sections = []

    for log in logs:
        run, origin = log.run, log.run.imported_from
        heading = f"{origin.file}, {run.benchmark}, lines {origin.first_line} to {origin.last_line}"
        sections.append(
            Section(f"{heading}: {log.end.status}", text=imported_text(log), folded=len(logs) > 1)
        )

    return Page(
        "Imported logs",
        Banner(
            counted(len(logs), "imported log"),
            "Shown, never judged: another benchmark's figures, by its own rules.",
        ),
        sections,
        {"command": "python -m reports import FILE"},
    )
