"""The dashboard's pages that are about many runs at once: what was imported, and what is to be bought."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from reports.dashboard_pages import Page, Section, Table
from reports.imported import Imported, read_imported
from reports.imported_table import render
from reports.procurement import evaluate
from reports.sentences import number, size_text

MOST_IMPORTED_TEXT = 600_000  # characters of all logs together, so that the page stays below 1 MB


def of_imported(paths: Sequence[Path], file: str, name: str) -> Page:
    """What each imported log said, in a row and in full. Raises ResultError for one that cannot be read."""
    found = [read_imported(path) for path in paths]
    page = Page(file, name, "Imported logs", ["Imported, never judged: another benchmark's figures, by its own rules."])
    table = Table("logs", "Every imported log", ["log", "lines", "written by", "benchmark", "ranks", "sizes",
                                                 "most busbw, GB/s", "status"], [_row(one) for one in found])
    page.sections.append(Section("What was imported", table=table))
    share = MOST_IMPORTED_TEXT // max(len(found), 1)
    page.sections += [Section(f"{one.run.imported_from.file}, {one.run.benchmark}, lines "
                              f"{one.run.imported_from.first_line} to {one.run.imported_from.last_line}",
                              text=render(one)[:share], folded=len(found) > 1) for one in found]
    page.reproduce = [("command", "python -m reports import FILE"),
                      ("run ids", "\n".join(one.run.run_id for one in found[:40])),
                      ("command in the logs", "\n".join(dict.fromkeys(" ".join(one.run.argv) for one in found
                                                                      if one.run.argv)) or "not said")]
    return page


def _row(one: Imported) -> list[str]:
    origin, sizes = one.run.imported_from, [case.size_bytes for case in one.cases if case.size_bytes is not None]
    rates = [case.bus_bw_gb_s for case in one.cases if case.bus_bw_gb_s is not None and case.status == "ok"]
    ranks = one.run.world.get("size")
    return [origin.file, f"{origin.first_line} to {origin.last_line}", origin.format, one.run.benchmark,
            "-" if ranks is None else str(ranks),
            f"{size_text(min(sizes))} to {size_text(max(sizes))}" if sizes else "-", number(max(rates, default=None)),
            one.end.status]


def of_procurement(spec: Path, file: str, name: str) -> Page:
    """Candidate machines side by side. Raises ResultError for a spec or a run that cannot be used."""
    found = evaluate(spec)
    page = Page(file, name, f"Procurement: {found.headline}", [f"From {found.title}."], procurement=found)
    page.reproduce = [("command", f"python -m reports procure {spec.name}"),
                      ("run ids", "\n".join(f"{machine.name}: {', '.join(machine.run_ids[:40]) or 'none'}"
                                            for machine in found.machines))]
    return page
