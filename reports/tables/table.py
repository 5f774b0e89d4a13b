"""The default table of a run with its head and its sentences, and the table of all cases."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from rich.table import Table
from rich.text import Text

from reports.store.case import LinkStates, beside, find_states, late_us
from reports.store.schema import Case, Range, Result, Summary
from reports.tables import sentences
from reports.tables.conclusions import closing
from reports.tables.footprint import caption, footprint
from reports.tables.headline import headline, points
from reports.tables.long import long_rows
from reports.tables.peers import peer_tables
from reports.tables.rows import Row, View, by_type, cost_us, default_rows, flips, view_of, views
from reports.tables.sentences import (
    lay_out,
    lay_out_brief,
    lay_out_run,
    number,
    plain_table,
    shape_words,
)

ROUTED_COLUMNS = {
    "\nskew": 8,
    "experts\nmax/mean": 7,
    "\nCV": 4,
    "ranks\nmax/mean": 7,
    "leaves\nMB": 6,
}
STATES = {"run": "", "mixed": " (the link never settled)"}
# From this share of the shortest isolated time on, stamps and an empty launch hide a difference
# between algorithms; on AMD's GPUs they take microseconds.
STAMPS_SHARE = 0.25
FLIP_COLUMNS = ("size", "round trip", "library us", "ours us", "our best us", "winner")


def render(result: Result, long: bool = False, brief: bool = False) -> str:
    """The table, at most 80 columns, with all tables, notes and conclusions, or `brief` as many as
    fit a screen; or with `long` a row for each case. Ends with a newline."""
    elapsed = []
    if result.end and result.end.elapsed_s and result.end.measuring_s is not None:
        outside = 1 - result.end.measuring_s / result.end.elapsed_s
        elapsed.append(
            f"{result.end.elapsed_s:.0f} s before this table, {outside:.0%} of them "
            "outside measuring loops."
        )
    if long:
        cells = long_rows(
            sorted(
                result.cases,
                key=lambda case: (case.size_bytes, case.mode != "isolated", case.in_place),
            )
        )
        table = plain_table(dict.fromkeys(cells[0], 0), [row.values() for row in cells], gap=2)
        return lay_out(result, [], [("", table)], elapsed, 400, headline([result], points))
    states = find_states(result.blocks)
    first, *others = views(result)
    rows, chained = default_rows(result, first, states), list[Row]()
    leading = list[tuple[str, Table]]()
    tables = [
        ("", _default_table(result, rows, first)),
        *_lossy_tables(result, first),
        *peer_tables(result, first, rows, states),
    ]
    for view in others:
        if beside(view[1]):
            work = shape_words(view[1])[-1] + ", chained, us of a call" * (view[0] == "chained")
            tables.append((f"{work}: {caption(result)}", footprint(result, view, states)))
            continue
        view_rows = default_rows(result, view, states)
        shown = [
            (_title(view, first, view_rows), _default_table(result, view_rows, view)),
            *_lossy_tables(result, view),
            *peer_tables(result, view, view_rows, states),
        ]
        if view[0] == "chained":
            chained = chained or view_rows
        if not leading and view[0] == "chained" and (stamps := stamps_title(result, first)):
            leading, tables[0] = shown, (stamps, tables[0][1])
        else:
            tables += shown
    if flipped := flips(result, rows, states):
        tables.append(
            (
                "where the winner changes with the link",
                plain_table(dict.fromkeys(FLIP_COLUMNS, 0), flipped, gap=2),
            )
        )
    tables += list(_other_types(result, states))
    title, lines = headline([result], partial(points, rows=rows)), head(result, first, rows)
    conclusions, details = closing(result, rows, chained)
    tables, details = [*leading, *tables], [*details, *elapsed]
    if brief:
        return lay_out_brief(result, title, lines, tables, conclusions, details)
    return lay_out_run(result, title, lines, tables, [*conclusions, *details])


def stamps_title(result: Result, view: View) -> str:
    """The title of an isolated view below the chained one; empty if stamps take little of it."""
    stamps_us = 0.0 if result.run.clock_shared else result.run.link.get("overhead_us", 0.0)
    times_us = [
        case.time_us.median
        for case in result.cases
        if view_of(case) == view and case.time_us and case.status == "ok"
    ]
    if view[0] != "isolated" or not times_us or stamps_us < STAMPS_SHARE * min(times_us):
        return ""
    return f"isolated: two stamps and an empty launch take {number(stamps_us)} us of each time"


def _title(view: View, first: View, rows: Sequence[Row]) -> str:
    mode, shape = view
    words = [word for word in shape_words(shape) if word not in shape_words(first[1])]
    if words and late_us(shape):
        words[-1] += ": us are after it has come"
    if mode == "chained":
        calls = max((row.ours.calls for row in rows if row.ours), default=1)
        words.append(
            f"chained: {calls} dependent calls; us, busbw of a call with its next send buffer"
        )
    return ", ".join(words)


def _other_types(result: Result, states: LinkStates) -> Iterator[tuple[str, Table]]:
    """The tables of all datatypes and operations but the first, under their names."""
    for name, cases in [*by_type(result).items()][1:]:
        part = replace(result, cases=cases)
        for view in views(part):
            rows = default_rows(part, view, states)
            title = ", ".join(filter(None, (name, _title(view, ("", None), rows))))
            yield title, _default_table(part, rows, view)


def _default_table(result: Result, rows: Sequence[Row], view: View) -> Table:
    is_auto = {row.ours.algorithm for row in rows if row.ours} <= {"auto"}
    ours, routed = "auto" if is_auto else "best", any(row.skew for row in rows)
    width = 7 if routed else 8
    columns = {
        "size\n": 8,
        **ROUTED_COLUMNS,
        "library\nus": width,
        f"{ours}\nus": width,
        "\nalgorithm": 14,
        f"library/{ours}\n[95 % in launch]": 16,
        "waits\nus": 6,
        "busbw\nGB/s": 6,
        "of\nbound": 5,
        "\n#wrong": 6,
    }
    cells = [dict(zip(columns, _cells(row), strict=True)) for row in rows]
    unrouted = ["size\n", "\nalgorithm", "busbw\nGB/s", "of\nbound"]
    hidden = unrouted if routed else list(ROUTED_COLUMNS)
    hidden += ["leaves\nMB", "busbw\nGB/s", "of\nbound"] if late_us(view[1]) else ["waits\nus"]
    if result.run.world["size"] == 1:
        hidden.append("busbw\nGB/s")
    if not any(row.library for row in rows):
        hidden += ["library\nus", f"library/{ours}\n[95 % in launch]"]
    shown = {heading: width for heading, width in columns.items() if heading not in hidden}
    return plain_table(shown, [[of_row[heading] for heading in shown] for of_row in cells])


def _cells(row: Row) -> list[str | Text]:
    ours, case = row.ours, row.ours or row.library
    routing = case.routing if case and case.routing else {}
    mark = "*" * bool(row.better)
    # Four digits of a file's hash, because eight leave no room for `#wrong`.
    skew = row.label[:9] if row.label.startswith("file:") else row.label
    leaving_mb = max(routing.get("leaving_bytes", [0])) / 1e6
    algorithm = (ours.chosen or ours.algorithm).partition("+")[0] if ours else "-"
    return [
        row.label,
        skew + mark,
        *(
            number(routing.get(name))
            for name in ("expert_max_over_mean", "expert_cv", "rank_max_over_mean")
        ),
        # At most six columns.
        f"{leaving_mb:.1g}" if 0 < leaving_mb < 1e-3 else number(leaving_mb),
        _cost(row.library, row.library_us),
        _cost(ours, row.ours_us),
        _fit(algorithm, 14 - len(mark)) + mark,
        row.ratio_text,
        _median(ours.arrival_skew_us if ours else None),
        number(ours.bus_bw_gb_s if ours else None),
        _share_of_bound(ours),
        Text(sentences.count(row.n_wrong), style="bold red" if row.n_wrong else ""),
    ]


def _fit(name: str, width: int) -> str:
    """`hierar.._whole`: both ends of a name that is too long, because names differ there."""
    return name if len(name) <= width else f"{name[: width - 8]}..{name[-6:]}"


def _lossy_tables(result: Result, view: View) -> list[tuple[str, Table]]:
    """The quantised algorithms of a view; none without any."""
    cases = [
        case
        for case in result.cases
        if view_of(case) == view and case.snr_db and case.algorithm != "auto"
    ]
    if not cases:
        return []
    kinds = dict.fromkeys(kind for case in cases for kind in case.snr_db or ())
    table = plain_table(
        {"size": 8, "algorithm": 14, "us": 8, **{kind.replace(" ", "\n"): 0 for kind in kinds}},
        [
            [
                sentences.size_text(case.size_bytes),
                case.algorithm[:22],
                _cost(case, cost_us(case)),
                *(f"{(case.snr_db or {}).get(kind, float('nan')):.1f}" for kind in kinds),
            ]
            for case in sorted(cases, key=lambda case: case.size_bytes)
        ],
    )
    return [("quantised: signal-to-noise ratio against fp64 on three kinds of data, in dB", table)]


def _cost(case: Case | None, median_us: float | None) -> Text | str:
    is_wrong = case and case.status == "wrong"
    return Text("WRONG", style="bold red") if is_wrong else number(median_us)


def _share_of_bound(case: Case | None) -> str:
    if case is None or case.share_of_bound is None:
        return "-"
    return f"{min(case.share_of_bound, 9.99):.0%}" + "!" * case.suspect


def _median(summary: Summary | Range | None) -> str:
    return number(summary.median if summary else None)


def head(result: Result, view: View, rows: Sequence[Row]) -> list[str]:
    """The operation, the library and the units of the first table."""
    (mode, shape), size, lines = view, result.run.world["size"], list[str]()
    cases = [case for row in rows for case in (row.ours, row.library) if case]
    if cases:
        case = cases[0]
        operation = case.datatype + f" {case.redop}" * (case.redop != "none")
        place = "in place" if case.in_place else "out of place"
        words = [operation, mode, *shape_words(shape), *[place] * (case.collective != "sendrecv")]
        names = [row.library.library or "the library" for row in rows if row.library]
        # On GPUs the library is NCCL or RCCL, which have no thread level.
        level = None if sentences.has_gpus(result) else sentences.fact(result, "mpi.thread_level")
        against = (
            ", ".join(filter(None, [f"against {names[0]}", level]))
            if names
            else ("without the library")
        )
        lines.append(f"{', '.join(words)}; {against}; seed {result.run.seed}")
    is_read = any(case.consume_us for case in cases)
    ranks = "slowest rank" + "; busbw = collective alone" * (is_read and size > 1)
    if late_us(shape):
        ranks = (
            "slowest rank, after the late one has come; waits = from the first arrival to the last"
            if result.run.clock_shared
            else "the late rank alone"
        )
    lines.append(f"us = {'collective + reading its result' if is_read else 'one call'}, {ranks}")
    if size == 1:
        lines.append("note: busbw means nothing with one rank; start at least two")
    return lines
