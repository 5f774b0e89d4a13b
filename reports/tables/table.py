"""The default table, at most 80 columns, and the long one with a row for each case."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from reports.store.case import beside, find_states, late_us
from reports.store.schema import Case, Range, Result, Summary
from reports.tables.console import lay_out, plain_table
from reports.tables.footprint import caption, footprint
from reports.tables.rows import Flip, Row, View, cost_us, default_rows, flips, view_of, views
from reports.tables.sentences import count, digits, number, shape_text, shape_words, size_text
from reports.tables.summary import closing, head

LONG_WIDTH = 400
LONG_COLUMNS = (
    "size", "algorithm", "variant", "mode", "place", "time us", "[95 %]", "consume us", "total us",
    "p95 us", "algbw GB/s", "busbw GB/s", "bound us", "of bound", "skew us", "rtt ns", "SNR dB",
    "blocks (mixed)", "#wrong", "status")


def render(result: Result, long: bool = False) -> str:
    """The run as a table with its head and sentences, or with `long` a row for each case; ends with
    a newline."""
    elapsed = []
    if result.end and result.end.elapsed_s and result.end.measuring_s is not None:
        outside = 1 - result.end.measuring_s / result.end.elapsed_s
        elapsed.append(f"{result.end.elapsed_s:.0f} s before this table, {outside:.0%} of them "
                       "outside measuring loops.")
    if long:
        return lay_out(result, [], [("", _long_table(result))], elapsed, LONG_WIDTH)
    states = find_states(result.blocks)
    first, *others = views(result) or [("isolated", None)]
    rows = default_rows(result, first, states)
    tables = [("", _default_table(result, rows, first)), *_lossy_tables(result, first, rows)]
    chained: list[Row] = []
    for view in others:
        if beside(view[1]):
            tables.append((_footprint_title(result, view), footprint(result, view, states)))
            continue
        view_rows = default_rows(result, view, states)
        tables += [(_title(view, first, view_rows), _default_table(result, view_rows, view)),
                   *_lossy_tables(result, view, view_rows)]
        if view[0] == "chained":
            chained = chained or view_rows
    if flipped := flips(result, rows, states, first):
        tables.append(("where the winner changes with the link", _flip_table(flipped)))
    return lay_out(result, head(result, first, states, rows), tables,
                   [*closing(result, rows, chained), *elapsed])


def _title(view: View, first: View, rows: Sequence[Row]) -> str:
    """The differences of a view from the first one."""
    mode, shape = view
    words = shape_words({name: value for name, value in (shape or {}).items()
                         if value != (first[1] or {}).get(name)})
    if late_us(shape):
        words[-1] += ": us are after it has come"
    if mode == "chained":
        calls = max((row.ours.calls for row in rows if row.ours), default=1)
        words.append(f"chained: {calls} dependent calls; us and busbw of a call and making the "
                     "next send buffer")
    return ", ".join(words)


def _footprint_title(result: Result, view: View) -> str:
    chained = ", chained, us of a call" if view[0] == "chained" else ""
    return f"{shape_words(view[1])[-1]}{chained}: {caption(result)}"


def _default_table(result: Result, rows: Sequence[Row], view: View) -> Table:
    is_auto = all(row.ours is None or row.ours.algorithm == "auto" for row in rows)
    ours = "auto" if is_auto else "best"
    has_library, routed = any(row.library for row in rows), any(row.skew for row in rows)
    late = late_us(view[1]) > 0
    has_bandwidth = result.run.world["size"] > 1 and not routed and not late
    width = 7 if routed else 8
    # Each column: whether it is shown, its heading, its least width, and its cells.
    columns: list[tuple[bool, str, int, Callable[[Row], str | Text]]] = [
        (not routed, "size\n", 8, lambda row: row.label),
        (routed, "\nskew", 8, _skew),
        (routed, "experts\nmax/mean", 7, lambda row: number(_load(row, "expert_max_over_mean"))),
        (routed, "\nCV", 4, lambda row: number(_load(row, "expert_cv"))),
        (routed, "ranks\nmax/mean", 7, lambda row: number(_load(row, "rank_max_over_mean"))),
        (routed and not late, "leaves\nMB", 6,
         lambda row: _megabytes(max(_load(row, "leaving_bytes")))),
        (has_library, "library\nus", width, lambda row: _cost(row.library, row.library_us)),
        (True, f"{ours}\nus", width, lambda row: _cost(row.ours, row.ours_us)),
        (not routed, "\nalgorithm", 14, _algorithm),
        (has_library, f"library/{ours}\n[95 %]", 16, _ratio),
        (late, "waits\nus", 6, lambda row: _median(row.ours.arrival_skew_us if row.ours else None)),
        (has_bandwidth, "busbw\nGB/s", 6,
         lambda row: number(row.ours.bus_bw_gb_s if row.ours else None)),
        (not routed and not late, "of\nbound", 5, lambda row: _share_of_bound(row.ours)),
        (True, "\n#wrong", 6,
         lambda row: Text(count(row.n_wrong), style="bold red" if row.n_wrong else "")),
    ]
    shown = {heading: (width, cell) for is_shown, heading, width, cell in columns if is_shown}
    return plain_table({heading: width for heading, (width, _) in shown.items()},
                       [[cell(row) for _, cell in shown.values()] for row in rows])


def _lossy_tables(result: Result, view: View, rows: Sequence[Row]) -> list[tuple[str, Table]]:
    """The quantised algorithms of a view beside the library and `auto`; none without any."""
    cases = [case for case in result.cases
             if view_of(case) == view and case.snr_db and case.algorithm != "auto"]
    if not cases:
        return []
    cost_of = {(row.size_bytes, case.algorithm): _cost(case, median_us) for row in rows
               for case, median_us in ((row.library, row.library_us), (row.ours, row.ours_us))
               if case}
    kinds = dict.fromkeys(kind for case in cases for kind in case.snr_db or ())
    table = plain_table(
        {"size": 8, "algorithm": 14, "us": 8, "library\nus": 8, "auto\nus": 8,
         **{kind.replace(" ", "\n"): 0 for kind in kinds}},
        [[size_text(case.size_bytes), case.algorithm[:22], _cost(case, None),
          *(cost_of.get((case.size_bytes, name), "-") for name in ("library", "auto")),
          *(f"{(case.snr_db or {})[kind]:.1f}" for kind in kinds)]
         for case in sorted(cases, key=lambda case: case.size_bytes)])
    return [("quantised: signal-to-noise ratio against fp64 on three kinds of data, in dB", table)]


def _load(row: Row, name: str) -> Any:
    case = row.ours or row.library
    return case.routing[name] if case and case.routing else None


def _skew(row: Row) -> str:
    """The skew; of a file four digits of its hash, because eight leave no room for `#wrong`."""
    skew = row.label[:9] if row.label.startswith("file:") else row.label
    return skew + "*" * bool(row.better)


def _megabytes(size_bytes: float) -> str:
    """Megabytes in at most six columns, so that `#wrong` stays in the table."""
    megabytes = size_bytes / 1e6
    return f"{megabytes:.1g}" if 0 < size_bytes < 1000 else number(megabytes)


def _cost(case: Case | None, median_us: float | None) -> Text | str:
    if case is None or case.status not in ("ok", "wrong"):
        return "-"
    if case.status == "wrong":
        return Text("WRONG", style="bold red")
    return number(cost_us(case) if median_us is None else median_us)


def _algorithm(row: Row) -> str:
    return f"{row.algorithm[:13]}*" if row.better else row.algorithm[:14]


def _ratio(row: Row) -> str:
    """`1.53 [1.50 1.56]`, at most 16 columns; no brackets if too few pairs give no interval."""
    if row.ratio is None:
        return "-"
    ratio, *ends = (None if value is None else
                    ">999" if value >= 999.5 else f"{value:.{digits(value)}f}"
                    for value in row.ratio)
    return f"{ratio} [{ends[0]} {ends[1]}]" if ends[0] and ends[1] else f"{ratio}"


def _share_of_bound(case: Case | None) -> str:
    if case is None or case.share_of_bound is None:
        return "-"
    return f"{min(case.share_of_bound, 9.99):.0%}" + "!" * case.suspect


def _median(summary: Summary | Range | None) -> str:
    return number(summary.median if summary else None)


def _flip_table(flipped: Sequence[Flip]) -> Table:
    return plain_table(
        dict.fromkeys(("size", "round trip", "library us", "ours us", "best of ours us", "winner"),
                      0),
        [[flip.row.label, f"{flip.rtt_ns:.0f} ns", number(flip.library_us), number(flip.ours_us),
          number(flip.best_us), flip.winner[:16]] for flip in flipped], gap=2)


def _long_table(result: Result) -> Table:
    cases = sorted(result.cases,
                   key=lambda case: (case.size_bytes, case.mode != "isolated", case.in_place))
    return plain_table(dict.fromkeys(LONG_COLUMNS, 0), map(long_cells, cases), gap=2)


def long_cells(case: Case) -> list[str]:
    """The cells of a case, for LONG_COLUMNS."""
    time = case.time_us
    chosen = f": {case.chosen}" if case.chosen else ""
    interval = blocks = "-"
    if time:
        blocks = f"{time.n_blocks} ({case.blocks_mixed})"
    if time and time.ci_low is not None:
        interval = f"[{number(time.ci_low)} {number(time.ci_high)}]"
    snr = " ".join(f"{ratio:.1f}" for ratio in (case.snr_db or {}).values())
    status = case.status if case.reason is None else f"{case.status}: {case.reason}"
    if case.state != "run" and time:
        mixed = case.state == "mixed"
        status += f" ({'the link never settled' if mixed else 'another state of the link'})"
    return [size_text(case.size_bytes),
            f"{case.library or case.algorithm}{chosen} {shape_text(case.shape)}".rstrip(),
            case.variant, case.mode, "in" if case.in_place else "out", _median(time), interval,
            _median(case.consume_us), _median(case.total_us), number(time.p95 if time else None),
            number(case.alg_bw_gb_s), number(case.bus_bw_gb_s), number(case.bound_us),
            _share_of_bound(case), _median(case.arrival_skew_us), _median(case.link_rtt_ns),
            snr or "-", blocks, count(case.n_wrong), status]
