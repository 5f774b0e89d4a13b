"""The steps of a run in its tables: percentiles of a call, or of a whole chain, and slow steps."""

from collections.abc import Sequence

from rich.table import Table

from reports.tables.sentences import number, plain_table
from wiretax.record.effective_steps import LEAST_BLOCKS
from wiretax.record.schema import FIGURES, Case, Estimate
from wiretax.record.tails import PERCENTILES, STEP_FIELDS, steps_needed

HEADINGS = [FIGURES[field].heading for field in STEP_FIELDS]
# The footnotes of a table by what is in its cells.
NOTES = {
    "- (": "- (n): this percentile takes n steps",
    " -]": "[a -]: an upper end takes more steps",
}


def step_text(case: Case, field: str) -> str:
    """The cell of one of STEP_FIELDS: a figure with its interval, of which an end may be unknown,
    `5.1 [4.9 -]`; a share in %; or `- (1000)`, of a percentile that takes 1000 steps."""
    value = getattr(case, field)
    if value is None and case.n_steps and field in PERCENTILES:
        return f"- ({steps_needed(PERCENTILES[field])})"
    if isinstance(value, Estimate):
        scale = 100 if field == "slow_share" else 1
        middle, low, high = (
            number(None if end is None else round(scale * end, 6))
            for end in (value.value, value.ci_low, value.ci_high)
        )
        return middle if low == high == "-" else f"{middle} [{low} {high}]"
    return str(value) if isinstance(value, int) else number(value)


def table_of_steps(
    cases: Sequence[Case], rows: Sequence[dict[str, str]], keys: Sequence[str]
) -> list[tuple[str, Table]]:
    """The table of the steps of cases of one mode, from their `rows` in the long table, of which
    `keys` name one; none without steps."""
    measured = [row for row, case in zip(rows, cases, strict=True) if case.n_steps]
    if not measured:
        return []

    calls = max(case.calls for case in cases)
    is_read = any(case.consume_us for case in cases)
    what = "a call with reading its result" if is_read else "a call"
    if calls > 1:
        what = f"a whole chain of {calls} calls and links"
    names = [*keys, *(name for name in HEADINGS if name in rows[0])]
    cells = [[row[name] for name in names] for row in measured]
    headings = (name.removeprefix("step ").replace(" ", "\n", 1) for name in names)
    every = " ".join(cell for row in cells for cell in row)
    notes = [note for mark, note in NOTES.items() if mark in every]
    figures = (getattr(case, field) for case in cases for field in STEP_FIELDS)
    if any(isinstance(each, Estimate) and each.ci_low is None for each in figures):
        notes.append(f"without [ ]: fewer than {LEAST_BLOCKS} blocks, or steps too alike")
    title = f"{cases[0].mode} steps: us of {what}; slow: over twice P50"
    return [(title, plain_table(headings, cells, notes))]
