"""The parts of traced steps as a table beside the times of the splits: `breakdown` shows more."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from reports.tables.sentences import number, plain_table
from wiretax.common.grouped import grouped
from wiretax.record.schema import Case, Result
from wiretax.record.traced import TracedSteps

if TYPE_CHECKING:
    from rich.table import Table

HEADINGS = "", "us", "compute", "transport", "waiting", "last", "hides"
ABOUT = (
    "parts of a step, unfused, with timestamps\n"
    "last: the rank that most often comes last; hides: what calls hidden behind the\n"
    "next product would save at most"
)


def parts_tables(result: Result, label: Callable[[Case], str]) -> "list[tuple[str, Table]]":
    """The title and the table, if the run has parts; `label` names the size of a case."""
    if all(each.reason for each in result.traced):
        return []
    rows = [row_of(label(result.cases[each.case]), each) for each in result.traced]
    return [(ABOUT, plain_table(HEADINGS, rows))]


def parts_reasons(result: Result) -> list[str]:
    """Why forms have no parts, a sentence for each reason."""
    untold = grouped([each for each in result.traced if each.reason], lambda each: each.reason)
    return [
        f"no parts of {', '.join(dict.fromkeys(each.form for each in alike))}: {reason}."
        for reason, alike in untold.items()
    ]


def row_of(size: str, traced: TracedSteps) -> Sequence[str]:
    """Means over ranks and steps, as shares of the step."""
    name = f"{size}: {traced.form}"
    if traced.reason:
        return [name] + ["-"] * (len(HEADINGS) - 1)
    compute_us, transport_us, waiting_us, hideable_us = (
        float(np.mean(us))
        for us in (traced.compute_us, traced.transport_us, traced.waiting_us, traced.hideable_us)
    )
    step_us = compute_us + transport_us + waiting_us
    parts = [f"{us / step_us:.0%}" for us in (compute_us, transport_us, waiting_us)]
    rank = int(np.argmax(traced.last_share))
    last = f"{rank}: {traced.last_share[rank]:.0%}"
    return name, number(step_us), *parts, last, f"{hideable_us / step_us:.0%}"
