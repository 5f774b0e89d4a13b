"""The default table, at most 80 columns, for somebody who sees it for the first time; and the long one, a row for each
case. Both are text: colour only underlines what words and marks already say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from reports.store.case import LinkStates, beside, find_states, late_us
from reports.store.schema import Case, Range, Result, Summary
from reports.tables.console import plain_console, printed
from reports.tables.footprint import caption, footprint
from reports.tables.rows import Flip, Row, View, cost_us, default_rows, flips, view_of, views
from reports.tables.sentences import (
    closing,
    head,
    label,
    number,
    opening,
    shape_text,
    shape_words,
    size_text,
    stopped_first,
)

WIDTH = 80
LONG_WIDTH = 400


def render(result: Result, long: bool = False) -> str:
    """The run as a table with its head and its sentences, or with `long` a row for each case; ends with a newline.

    Bold and colour only where standard output is a terminal and NO_COLOR is unset.
    """
    console = plain_console(LONG_WIDTH if long else WIDTH)
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
    return printed(console)


def _print_default(console: Console, result: Result, states: LinkStates) -> None:
    first, *more = views(result) or [("isolated", None)]
    rows, chained = default_rows(result, first, states), list[Row]()
    for line in head(result, first, states, rows):
        console.print(line)
    console.print()
    console.print(_default_table(rows, first, result.run.world["size"]))
    _print_lossy(console, result, first, rows)
    for view in more:
        these = default_rows(result, view, states)
        shape = (view[1] or {}).items()
        words = shape_words({name: said for name, said in shape if said != (first[1] or {}).get(name)})
        if late_us(view[1]):
            words[-1] += ": us are after it has come"
        if beside(view[1]):
            words = [shape_words(view[1])[-1], *(["chained, us of a call"] if view[0] == "chained" else [])]
            console.print(f"\n{', '.join(words)}: {caption(result)}")
            console.print(footprint(result, view, states))
            continue
        if view[0] == "chained":
            calls = max((row.ours.calls for row in these if row.ours), default=1)
            words.append(f"chained: {calls} dependent calls; us and busbw of a call and making the next send buffer")
            chained = chained or these
        console.print(f"\n{', '.join(words)}")
        console.print(_default_table(these, view, result.run.world["size"]))
        _print_lossy(console, result, view, these)
    if found := flips(result, rows, states, first):
        console.print("\nwhere the winner changes with the link")
        console.print(_flip_table(found, states))
    console.print()
    for line in closing(result, rows, chained or rows):
        console.print(line)


def _default_table(rows: Sequence[Row], view: View, world_size: int) -> Table:
    ours = "auto" if all(row.ours is None or row.ours.algorithm == "auto" for row in rows) else "best"
    with_library, routed = any(row.library for row in rows), any(row.skew for row in rows)
    late = late_us(view[1]) > 0
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    moves = world_size > 1 and not routed
    columns: list[tuple[bool, str, int, Callable[[Row], str | Text]]] = [
        (not routed, "size\n", 8, label),
        (routed, "\nskew", 8, lambda row: _skew(row) + "*" * bool(row.better)),
        (routed, "experts\nmax/mean", 7, lambda row: number(_load(row, "expert_max_over_mean"))),
        (routed, "\nCV", 4, lambda row: number(_load(row, "expert_cv"))),
        (routed, "ranks\nmax/mean", 7, lambda row: number(_load(row, "rank_max_over_mean"))),
        (routed and not late, "leaves\nMB", 6, lambda row: _megabytes(max(_load(row, "leaving_bytes")))),
        (with_library, "library\nus", 7 if routed else 8, lambda row: _cost_cell(row.library, row.library_us)),
        (True, f"{ours}\nus", 7 if routed else 8, lambda row: _cost_cell(row.ours, row.ours_us)),
        (not routed, "\nalgorithm", 14, lambda row: row.algorithm[: 13 if row.better else 14] + "*" * bool(row.better)),
        (with_library, f"library/{ours}\n[95 %]", 16, _ratio_cell),
        (late, "waits\nus", 6, lambda row: number(_median(row.ours.arrival_skew_us if row.ours else None))),
        (moves and not late, "busbw\nGB/s", 6, lambda row: number(row.ours.bus_bw_gb_s if row.ours else None)),
        (not routed and not late, "of\nbound", 5, lambda row: _share_cell(row.ours)),
        (True, "\n#wrong", 6, lambda row: Text(_count(row.n_wrong), style="bold red" if row.n_wrong else "")),
    ]
    shown = [column[1:] for column in columns if column[0]]
    for name, width, _ in shown:
        table.add_column(name, justify="left" if "algorithm" in name else "right", no_wrap=True, min_width=width)
    for row in rows:
        table.add_row(*(cell(row) for _, _, cell in shown))
    return table


def _print_lossy(console: Console, result: Result, view: View, rows: Sequence[Row]) -> None:
    """What was quantised beside what was not, where anything was."""
    cases = [case for case in result.cases if view_of(case) == view and case.snr_db and case.algorithm != "auto"]
    if not cases:
        return
    of_size = {row.size_bytes: row for row in rows}
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    names = dict.fromkeys(kind for case in cases for kind in case.snr_db or ())
    for name, width in (("size\n", 8), ("\nalgorithm", 14), ("\nus", 8), ("library\nus", 8), ("auto\nus", 8),
                        *((f"{kind.replace(' ', chr(10))}" if " " in kind else f"\n{kind}", 0) for kind in names)):
        table.add_column(name, justify="left" if "algorithm" in name else "right", no_wrap=True, min_width=width)
    for case in sorted(cases, key=lambda case: case.size_bytes):
        row = of_size.get(case.size_bytes)
        auto = row.ours if row and row.ours and row.ours.algorithm == "auto" else None
        table.add_row(size_text(case.size_bytes), case.algorithm[:22], _cost_cell(case, None),
                      _cost_cell(row.library if row else None, row.library_us if row else None),
                      _cost_cell(auto, row.ours_us if row else None),
                      *(f"{(case.snr_db or {})[kind]:.1f}" for kind in names))
    console.print("\nquantised: signal-to-noise ratio against fp64 on three kinds of data, in dB")
    console.print(table)


def _load(row: Row, name: str) -> Any:
    case = row.ours or row.library
    return case.routing[name] if case and case.routing else None


def _skew(row: Row) -> str:
    """Of a file four digits of its hash: with all eight `#wrong` has no room."""
    return label(row)[:9] if label(row).startswith("file:") else label(row)


def _megabytes(size_bytes: float) -> str:
    """In at most six columns: a wider one would push `#wrong` out of the table."""
    return number(size_bytes / 1e6) if size_bytes == 0 or size_bytes >= 1000 else f"{size_bytes / 1e6:.1g}"


def _cost_cell(case: Case | None, cost: float | None) -> Text | str:
    if case is None or case.status not in ("ok", "wrong"):
        return "-"
    if case.status == "wrong":
        return Text("WRONG", style="bold red")
    return number(cost_us(case) if cost is None else cost)


def _ratio_cell(row: Row) -> str:
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


def _median(summary: Summary | Range | None) -> float | None:
    return summary.median if summary else None


def _count(n_wrong: int | None) -> str:
    return "-" if n_wrong is None else str(n_wrong) if n_wrong < 1_000_000 else f"{n_wrong:.0e}"


def _flip_table(found: Sequence[Flip], states: LinkStates) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("size", "round trip", "library us", "ours us", "best of ours us"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("winner", no_wrap=True, max_width=16, overflow="ellipsis")
    for flip in found:
        table.add_row(label(flip), f"{states.rtt_ns[flip.state]:.0f} ns", number(flip.library_us),
                      number(flip.ours_us), number(flip.best_us), flip.winner)
    return table


def _print_long(console: Console, result: Result) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    words = ("algorithm", "variant", "mode", "place", "status")
    for name in ("size", *words[:-1], "time us", "[95 %]", "consume us", "total us", "p95 us", "algbw GB/s",
                 "busbw GB/s", "bound us", "of bound", "skew us", "rtt ns", "SNR dB", "blocks (mixed)", "#wrong",
                 "status"):
        table.add_column(name, no_wrap=True, justify="left" if name in words else "right")
    for case in sorted(result.cases, key=lambda case: (case.size_bytes, case.mode != "isolated", case.in_place)):
        table.add_row(*_long_cells(case))
    console.print(table)


def _long_cells(case: Case) -> list[str]:
    time = case.time_us
    medians = [number(_median(summary)) for summary in (
        time, case.consume_us, case.total_us, case.arrival_skew_us, case.link_rtt_ns)]
    interval = "-" if time is None or time.ci_low is None else f"[{number(time.ci_low)} {number(time.ci_high)}]"
    name = case.library or case.algorithm
    label = f"{name}: {case.chosen}" if case.chosen else name
    label += f" {shape_text(case.shape)}" if case.shape else ""
    blocks = f"{time.n_blocks} ({case.blocks_mixed})" if time else "-"
    snr = " ".join(f"{ratio:.1f}" for ratio in case.snr_db.values()) if case.snr_db else "-"
    status = case.status if case.reason is None else f"{case.status}: {case.reason}"
    if case.state != "run" and time:
        status += f" ({'the link never settled' if case.state == 'mixed' else 'another state of the link'})"
    return [size_text(case.size_bytes), label, case.variant, case.mode, "in" if case.in_place else "out",
            medians[0], interval, *medians[1:3], number(time.p95 if time else None), number(case.alg_bw_gb_s),
            number(case.bus_bw_gb_s), number(case.bound_us), _share_cell(case), *medians[3:], snr, blocks,
            _count(case.n_wrong), status]
