"""The table of peers, other projects' all-reduces, against ours in the same rounds of one run."""

from collections.abc import Sequence

from rich.table import Table

from reports.store.case import LinkStates, is_peer
from reports.store.schema import Result
from reports.store.stats import median_interval
from reports.tables.rows import (
    SizeRow,
    View,
    cost_us,
    costs_of,
    ratio_text,
    ratios_of,
    rounds_of,
    view_of,
)
from reports.tables.sentences import count, number, plain_table, size_text


def peer_tables(
    result: Result, view: View, rows: Sequence[SizeRow], states: LinkStates
) -> list[tuple[str, Table]]:
    """A row for each size and peer; no table without peers. Even rounds, because odd ones chose
    among our variants."""
    cases = [
        case
        for case in result.cases
        if is_peer(case) and view_of(case) == view and case.status != "unsupported"
    ]
    if not cases:
        return []

    even = rounds_of(result.cases, costs_of(result, states, states.longest), 0)
    ours = {row.size_bytes: row.ours for row in rows}
    cells = []

    for case in sorted(cases, key=lambda case: case.size_bytes):
        ratios = ratios_of(case, ours.get(case.size_bytes), even)
        ratio = ratio_text(median_interval(ratios) if len(ratios) else None)
        us = case.status.upper() if case.status != "ok" else number(cost_us(case))
        name = case.library or case.algorithm
        cells.append([size_text(case.size_bytes), name, us, ratio, count(case.n_wrong)])

    mode = ", chained" * (view[0] == "chained")
    return [
        (
            f"peers{mode}: the same buffers, clock and checks",
            plain_table(
                {"size": 8, "peer": 24, "us": 8, "peer/ours [95 %]": 18, "#wrong": 6}, cells
            ),
        )
    ]
