"""The gate's outcome as GitHub's Markdown, for a comment on a pull request."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from reports.store.untrusted import markdown_text
from reports.tables.show import headline_of
from reports.verdicts.gate import INCONCLUSIVE, PASS, Outcome
from reports.verdicts.render import rows_of, sentences

MOST_SHOWN = 6  # cells, in view
MOST_ROWS = 300  # GitHub refuses a comment above 65,536 characters
MOST_LETTERS = 60  # of a heading, which a phone shows in two lines


def as_markdown(outcome: Outcome) -> str:
    """The outcome, the largest effects, and the whole table folded: at most 20 lines are in
    view."""
    sign = {PASS: "✓", INCONCLUSIVE: "?"}.get(outcome.status, "✗")
    lines = heading(f"{sign} {outcome.headline}")
    if comparison := outcome.comparison:
        figures = headline_of(*comparison.variant.launches)
        title, *said = sentences(comparison)
        rows = rows_of(comparison)
        if len(rows) > MOST_ROWS:
            said.append(f"{len(rows) - MOST_ROWS} more rows do not fit here")

        table = [
            f"### {markdown_text(title)}",
            "",
            *listed(said),
            "",
            *table_of(rows[:MOST_ROWS]),
        ]
        lines += ["", f"**{markdown_text(figures)}**", "", *listed(outcome.findings), ""]
        cells = comparison.cells[comparison.is_judged & comparison.cells.high.notna()]
        cells = cells.sort_values("log_ratio", key=abs, ascending=False, kind="stable")
        if largest := [rows[at] for at in cells.index[:MOST_SHOWN]]:
            lines += table_of(largest)
        lines += ["", *folded("all cells", table)]

    return "\n".join([*lines, ""])


def heading(text: str) -> list[str]:
    """The beginning of a verdict as a heading, and below it the whole, if that is longer."""
    title, *rest = textwrap.wrap(text, MOST_LETTERS - len(" ..."), break_on_hyphens=False)
    if not rest:
        return [f"## {markdown_text(title)}"]
    return [f"## {markdown_text(title)} ...", "", markdown_text(text)]


def listed(texts: Sequence[str]) -> list[str]:
    return [f"- {markdown_text(text)}" for text in texts]


def table_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The lines of a table of rows by their headings."""
    cells = [[*rows[0]], *([*row.values()] for row in rows)]
    lines = [f"| {' | '.join(markdown_text(str(text)) for text in texts)} |" for texts in cells]
    return [lines[0], "|---" * len(rows[0]) + "|", *lines[1:]]


def folded(summary: str, lines: Sequence[str]) -> list[str]:
    return [f"<details><summary>{summary}</summary>", "", *lines, "", "</details>"]
