"""The default table, at most 80 columns, for somebody who sees it for the first time; and the long one, a row for each
case. Both are text: colour only underlines what words and marks already say.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from reports.case import LinkStates, find_states
from reports.rows import Flip, Row, default_rows, flips, shown_cases
from reports.schema import Case, Result, Summary
from reports.sentences import closing, head, number, opening, size_text, stopped_first

WIDTH = 80
LONG_WIDTH = 400


def render(result: Result, long: bool = False) -> str:
    """The run as a table with its head and its sentences, or with `long` a row for each case; ends with a newline.

    Bold and colour only where standard output is a terminal and NO_COLOR is unset.
    """
    console = Console(file=io.StringIO(), width=LONG_WIDTH if long else WIDTH, highlight=False, markup=False,
                      emoji=False, force_terminal=sys.stdout.isatty() and not os.environ.get("NO_COLOR"))
    states = find_states(result.blocks)
    for line in opening(result):
        console.print(Text(line, style="bold"))
    if (first := stopped_first(result)) is not None:
        console.print(Text(first, style="bold"), soft_wrap=True)
    if long:
        _print_long(console, result)
    else:
        _print_default(console, result, states)
    if result.end and result.end.elapsed_s and result.end.measuring_s is not None:
        outside = 1 - result.end.measuring_s / result.end.elapsed_s
        console.print(f"{result.end.elapsed_s:.0f} s before this table, {outside:.0%} of them outside measuring loops.")
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"


def _print_default(console: Console, result: Result, states: LinkStates) -> None:
    mode = "isolated" if shown_cases(result, "isolated") else "chained"
    rows = default_rows(result, mode, states)
    chained = default_rows(result, "chained", states) if mode == "isolated" else []
    for line in head(result, mode, states, rows):
        console.print(line)
    console.print()
    console.print(_default_table(rows, result.run.world["size"]))
    if chained:
        calls = max(row.ours.calls for row in chained if row.ours) if any(row.ours for row in chained) else 1
        console.print(f"\nchained: {calls} dependent calls; us and busbw of a call and making the next send buffer")
        console.print(_default_table(chained, result.run.world["size"]))
    if found := flips(result, rows, states, mode):
        console.print("\nwhere the winner changes with the link")
        console.print(_flip_table(found, states))
    console.print()
    for line in closing(result, rows, chained or rows):
        console.print(line)


def _default_table(rows: Sequence[Row], world_size: int) -> Table:
    ours = "auto" if all(row.ours is None or row.ours.algorithm == "auto" for row in rows) else "best"
    with_library = any(row.library for row in rows)
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")

    def add_figures(name: str, width: int) -> None:
        table.add_column(name, justify="right", no_wrap=True, min_width=width)

    add_figures("size\n", 8)
    if with_library:
        add_figures("library\nus", 8)
    add_figures(f"{ours}\nus", 8)
    table.add_column("\nalgorithm", no_wrap=True, min_width=14, max_width=14, overflow="ellipsis")
    if with_library:
        add_figures(f"library/{ours}\n[95 %]", 16)
    if world_size > 1:
        add_figures("busbw\nGB/s", 6)
    add_figures("of\nbound", 5)
    add_figures("\n#wrong", 6)
    for row in rows:
        cells: list[str | Text] = [size_text(row.size_bytes)]
        if with_library:
            cells.append(_cost_cell(row.library, row.library_us))
        cells.append(_cost_cell(row.ours, row.ours_us))
        cells.append(row.algorithm[: 13 if row.better else 14] + ("*" if row.better else ""))
        if with_library:
            cells.append(ratio_cell(row))
        if world_size > 1:
            cells.append(number(row.ours.bus_bw_gb_s if row.ours else None))
        cells.append(_share_cell(row.ours))
        cells.append(Text(_count(row.n_wrong), style="bold red" if row.n_wrong else ""))
        table.add_row(*cells)
    return table


def _cost_cell(case: Case | None, cost: float | None) -> Text | str:
    if case is None or case.status not in ("ok", "wrong"):
        return "-"
    if case.status == "wrong":
        return Text("WRONG", style="bold red")
    summary = case.total_us or case.time_us
    return number(cost if cost is not None else summary.median if summary else None)


def ratio_cell(row: Row) -> str:
    """`1.53 [1.50 1.56]`, at most 16 columns, without brackets where there are too few pairs for an interval."""
    if row.ratio is None:
        return "-"
    ratio, low, high = row.ratio
    return _ratio(ratio) if low is None or high is None else f"{_ratio(ratio)} [{_ratio(low)} {_ratio(high)}]"


def _ratio(value: float) -> str:
    return ">999" if value >= 999.5 else f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}"


def _share_cell(case: Case | None) -> str:
    if case is None or case.share_of_bound is None:
        return "-"
    return f"{min(case.share_of_bound, 9.99):.0%}" + ("!" if case.suspect else "")


def _count(n_wrong: int | None) -> str:
    return "-" if n_wrong is None else str(n_wrong) if n_wrong < 1_000_000 else f"{n_wrong:.0e}"


def _flip_table(found: Sequence[Flip], states: LinkStates) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("size", "round trip", "library us", "ours us", "best of ours us"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("winner", no_wrap=True, max_width=16, overflow="ellipsis")
    for flip in found:
        table.add_row(size_text(flip.size_bytes), f"{states.rtt_ns[flip.state]:.0f} ns", number(flip.library_us),
                      number(flip.ours_us), number(flip.best_us), flip.winner)
    return table


def _print_long(console: Console, result: Result) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("size", "algorithm", "variant", "mode", "place"):
        table.add_column(name, no_wrap=True, justify="right" if name == "size" else "left")
    for name in ("time us", "[95 %]", "consume us", "total us", "p95 us", "algbw GB/s", "busbw GB/s", "bound us",
                 "of bound", "skew us", "rtt ns", "blocks (mixed)", "#wrong"):
        table.add_column(name, no_wrap=True, justify="right")
    table.add_column("status", no_wrap=True)
    for case in sorted(result.cases, key=lambda case: (case.size_bytes, case.mode != "isolated", case.in_place)):
        table.add_row(*_long_cells(case))
    console.print(table)


def _long_cells(case: Case) -> list[str]:
    time = case.time_us
    median_of = [None if summary is None else summary.median for summary in (case.consume_us, case.total_us)]
    label = f"auto: {case.chosen}" if case.chosen else case.library or case.algorithm
    blocks = f"{time.n_blocks} ({case.blocks_mixed})" if time else "-"
    status = case.status if case.reason is None else f"{case.status}: {case.reason}"
    if case.state != "run" and time:
        status += f" ({'the link never settled' if case.state == 'mixed' else 'another state of the link'})"
    return [size_text(case.size_bytes), label, case.variant, case.mode, "in" if case.in_place else "out",
            number(time.median if time else None), _interval_cell(time), *map(number, median_of),
            number(time.p95 if time else None), number(case.alg_bw_gb_s), number(case.bus_bw_gb_s),
            number(case.bound_us), _share_cell(case),
            number(case.arrival_skew_us.median if case.arrival_skew_us else None),
            number(case.link_rtt_ns.median if case.link_rtt_ns else None), blocks, _count(case.n_wrong), status]


def _interval_cell(summary: Summary | None) -> str:
    if summary is None or summary.ci_low is None:
        return "-"
    return f"[{number(summary.ci_low)} {number(summary.ci_high)}]"
