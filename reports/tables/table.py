"""The default table of a run with its head and its sentences, and the table of all cases."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import groupby

from rich.table import Table
from rich.text import Text

from reports.store.case import BETWEEN_RANKS, LinkStates, beside, find_states, late_us
from reports.store.schema import Case, Range, Result, Summary
from reports.tables import sentences
from reports.tables.footprint import caption, footprint
from reports.tables.rows import Row, View, cost_us, default_rows, flips, token, view_of, views
from reports.tables.sentences import lay_out, number, plain_table, shape_words, size_text

LONG_COLUMNS = (
    "size", "algorithm", "variant", "mode", "place", "time us", "[95 %]", "consume us", "total us",
    "p95 us", "algbw GB/s", "busbw GB/s", "bound us", "of bound", "skew us", "rtt ns", "SNR dB",
    "blocks (mixed)", "#wrong", "status")
ROUTED_COLUMNS = {"\nskew": 8, "experts\nmax/mean": 7, "\nCV": 4, "ranks\nmax/mean": 7,
                  "leaves\nMB": 6}
PREFLIGHT = "Peer memory"  # the note of a run with the result of its memory probes starts so
LIMITS = {"hop": "the flag hop", "copy_in": "copying to the peer",
          "push": "storing into the peer's memory", "peer_read": "reading the peer's data",
          "memory": "memory traffic", "launch": "launching"}
STATES = {"run": "", "mixed": " (the link never settled)"}
FLIP_COLUMNS = ("size", "round trip", "library us", "ours us", "best of ours us", "winner")


def render(result: Result, long: bool = False) -> str:
    """The table, at most 80 columns, or with `long` a row for each case; ends with a newline."""
    elapsed = []
    if result.end and result.end.elapsed_s and result.end.measuring_s is not None:
        outside = 1 - result.end.measuring_s / result.end.elapsed_s
        elapsed.append(f"{result.end.elapsed_s:.0f} s before this table, {outside:.0%} of them "
                       "outside measuring loops.")
    if long:
        cases = sorted(result.cases, key=lambda case: (
            case.size_bytes, case.mode != "isolated", case.in_place))
        table = plain_table(dict.fromkeys(LONG_COLUMNS, 0), map(long_cells, cases), gap=2)
        return lay_out(result, [], [("", table)], elapsed, width=400)
    states = find_states(result.blocks)
    first, *others = views(result) or [("isolated", None)]
    rows, chained = default_rows(result, first, states), list[Row]()
    tables = [("", _default_table(result, rows, first)), *_lossy_tables(result, first, rows)]
    for view in others:
        if beside(view[1]):
            work = shape_words(view[1])[-1] + ", chained, us of a call" * (view[0] == "chained")
            tables.append((f"{work}: {caption(result)}", footprint(result, view, states)))
            continue
        view_rows = default_rows(result, view, states)
        tables += [(_title(view, first, view_rows), _default_table(result, view_rows, view)),
                   *_lossy_tables(result, view, view_rows)]
        if view[0] == "chained":
            chained = chained or view_rows
    if flipped := flips(result, rows, states):
        tables.append(("where the winner changes with the link",
                       plain_table(dict.fromkeys(FLIP_COLUMNS, 0), flipped, gap=2)))
    return lay_out(result, head(result, first, states, rows), tables,
                   [*closing(result, rows, chained), *elapsed])


def _title(view: View, first: View, rows: Sequence[Row]) -> str:
    mode, shape = view
    changes = {name: value for name, value in (shape or {}).items()
               if value != (first[1] or {}).get(name)}
    words = shape_words(changes)
    if late_us(changes):
        words[-1] += ": us are after it has come"
    if mode == "chained":
        calls = max((row.ours.calls for row in rows if row.ours), default=1)
        words.append(f"chained: {calls} dependent calls; us and busbw of a call and making the "
                     "next send buffer")
    return ", ".join(words)


def _default_table(result: Result, rows: Sequence[Row], view: View) -> Table:
    is_auto = {row.ours.algorithm for row in rows if row.ours} <= {"auto"}
    ours, routed = "auto" if is_auto else "best", any(row.skew for row in rows)
    width = 7 if routed else 8
    columns = {"size\n": 8, **ROUTED_COLUMNS, "library\nus": width, f"{ours}\nus": width,
               "\nalgorithm": 14, f"library/{ours}\n[95 %]": 16, "waits\nus": 6,
               "busbw\nGB/s": 6, "of\nbound": 5, "\n#wrong": 6}
    cells = [dict(zip(columns, _cells(row), strict=True)) for row in rows]
    hidden = list(ROUTED_COLUMNS)
    if routed:
        hidden = ["size\n", "\nalgorithm", "busbw\nGB/s", "of\nbound"]
    hidden += ["leaves\nMB", "busbw\nGB/s", "of\nbound"] if late_us(view[1]) else ["waits\nus"]
    if result.run.world["size"] == 1:
        hidden.append("busbw\nGB/s")
    if not any(row.library for row in rows):
        hidden += ["library\nus", f"library/{ours}\n[95 %]"]
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
    ratio = "-"
    if row.ratio:
        ratio, *ends = (">999" if value >= 999.5 else f"{value:.{sentences.digits(value)}f}"
                        for value in row.ratio if value is not None)
        ratio += f" [{ends[0]} {ends[1]}]" if ends else ""
    return [row.label, skew + mark,
            *(number(routing.get(name))
              for name in ("expert_max_over_mean", "expert_cv", "rank_max_over_mean")),
            # At most six columns.
            f"{leaving_mb:.1g}" if 0 < leaving_mb < 1e-3 else number(leaving_mb),
            _cost(row.library, row.library_us), _cost(ours, row.ours_us),
            algorithm[: 14 - len(mark)] + mark, ratio,
            _median(ours.arrival_skew_us if ours else None),
            number(ours.bus_bw_gb_s if ours else None), _share_of_bound(ours),
            Text(sentences.count(row.n_wrong), style="bold red" if row.n_wrong else "")]


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
        [[size_text(case.size_bytes), case.algorithm[:22], _cost(case, cost_us(case)),
          *(cost_of.get((case.size_bytes, name), "-") for name in ("library", "auto")),
          *(f"{(case.snr_db or {})[kind]:.1f}" for kind in kinds)]
         for case in sorted(cases, key=lambda case: case.size_bytes)])
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


def long_cells(case: Case) -> list[str]:
    """The cells of a case, for LONG_COLUMNS."""
    time = case.time_us
    chosen = f": {case.chosen}" if case.chosen else ""
    interval = blocks = "-"
    status = case.status if case.reason is None else f"{case.status}: {case.reason}"
    if time:
        blocks = f"{time.n_blocks} ({case.blocks_mixed})"
        status += STATES.get(case.state, " (another state of the link)")
    if time and time.ci_low is not None:
        interval = f"[{number(time.ci_low)} {number(time.ci_high)}]"
    snr = " ".join(f"{ratio:.1f}" for ratio in (case.snr_db or {}).values())
    return [size_text(case.size_bytes),
            f"{case.library or case.algorithm}{chosen} {sentences.shape_text(case.shape)}".rstrip(),
            case.variant, case.mode, "in" if case.in_place else "out", _median(time), interval,
            _median(case.consume_us), _median(case.total_us), number(time.p95 if time else None),
            number(case.alg_bw_gb_s), number(case.bus_bw_gb_s), number(case.bound_us),
            _share_of_bound(case), _median(case.arrival_skew_us), _median(case.link_rtt_ns),
            snr or "-", blocks, sentences.count(case.n_wrong), status]


def head(result: Result, view: View, states: LinkStates, rows: Sequence[Row]) -> list[str]:
    """The machine, the operation, the library and the units of the first table."""
    (mode, shape), size = view, result.run.world["size"]
    cases = [case for row in rows for case in (row.ours, row.library) if case]
    lines = [sentences.machine(result)]
    if cases:
        case, (library, level) = cases[0], _library(result, rows)
        operation = case.datatype + f" {case.redop}" * (case.redop != "none")
        place = "in place" if case.in_place else "out of place"
        words = [operation, mode, *shape_words(shape), *[place] * (case.collective != "sendrecv")]
        against = f"against {library}{level and f', {level}'}" if library else "without the library"
        lines.append(f"{', '.join(words)}; {against}; seed {result.run.seed}")
    lines += sentences.link_lines(states)
    is_read = any(case.consume_us for case in cases)
    cost = f"us = {'collective + reading its result' if is_read else 'one call'}"
    if late_us(shape) and not result.run.clock_shared:
        lines.append(f"{cost}, the late rank alone")
    elif late_us(shape):
        lines.append(f"{cost}, slowest rank, after the late one has come; "
                     "waits = from the first arrival to the last")
    else:
        bandwidth = "; busbw = collective alone" if is_read and size > 1 else ""
        lines.append(f"{cost}, slowest rank{bandwidth}")
    if any(row.ratio for row in rows):
        lines.append("library/auto: median over pairs of blocks that stood close in time")
    for name in ("library", "auto"):
        variants = dict.fromkeys(case.variant for case in result.cases if case.algorithm == name)
        if len(variants) > 1:
            lines.append(f"{name}: the best of {' and '.join(variants)}, chosen on odd rounds, "
                         "reported on even ones")
    lines += [f"note: {note}" for note in result.run.notes if not note.startswith(PREFLIGHT)]
    types = {name for case in result.cases for name in (case.datatype, case.redop)}
    if cases and types != {cases[0].datatype, cases[0].redop}:
        lines.append("note: other types and operations are in --long")
    if size == 1:
        lines.append("note: busbw means nothing with one rank; start two with mpirun -n 2")
    return lines


def _library(result: Result, rows: Sequence[Row]) -> tuple[str, str]:
    """The library and MPI's thread level, empty on GPUs: NCCL or RCCL is measured there."""
    name = next((row.library.library or "the library" for row in rows if row.library), "")
    level = None if sentences.has_gpus(result) else sentences.fact(result, "mpi.thread_level")
    return name, level or ""


def closing(result: Result, rows: Sequence[Row], chained: Sequence[Row]) -> list[str]:
    """The marks of the rows, the footnotes, then at most four sentences."""
    marks = []
    better = [f"{row.better[0]} at {row.label} ({row.better[1]:.2f}x{mode})"
              for group, mode in ((rows, ""), (chained, ", chained"))
              for row in group if row.better]
    if better:
        marks.append("* another variant beat auto by more than 5 %: " + sentences.some(better, 4))
    if any(row.ours and row.ours.suspect for row in (*rows, *chained)):
        marks.append("! faster than the bound of the measured parts allows: suspect")
    is_auto = {row.ours.algorithm for row in rows if row.ours} <= {"auto"}
    ours = "auto" if is_auto else "the best of ours"
    memory = [note for note in result.run.notes if note.startswith(PREFLIGHT)]
    if kinds := sorted({row.ours.memory for row in rows if row.ours}):
        memory.append(f"Peer memory is {', '.join(kinds)}.")
    last = [_where_ours_wins(result, rows, ours), _what_limits(rows, ours), *memory[:1],
            token(result, chained or rows)]
    return [*marks, *sentences.footnotes(result), *filter(None, last)]


def _where_ours_wins(result: Result, rows: Sequence[Row], ours: str) -> str | None:
    sizes_of, parts = _sizes(rows, [row.verdict for row in rows]), []
    for verdict in sorted(sizes_of, key=lambda verdict: verdict != "faster"):
        ratios = [row.ratio[0] for row in rows if row.ratio and row.verdict == verdict]
        factors = f" ({_span(f'{min(ratios):.2f}x', f'{max(ratios):.2f}x')})"
        is_clear = verdict in ("faster", "slower")
        parts.append(f"{verdict} at {sizes_of[verdict]}{factors * is_clear}")
    if not parts:
        return None
    library, level = _library(result, rows)
    at_level = f" at thread level {level} (no other was measured)" if level else ""
    skew_us = next((late_us(row.ours.shape) for row in rows if row.ours), 0)
    late = f", with a rank late by {skew_us:g} us" if skew_us else ""
    return f"Against {library}{at_level}, in this one launch{late}, {ours} is {'; '.join(parts)}."


def _what_limits(rows: Sequence[Row], ours: str) -> str | None:
    names = []
    for row in rows:
        parts = defaultdict(float, (row.ours and row.ours.bound_parts_us) or {})
        # Memory traffic and transfers between ranks overlap: the slower one counts.
        is_memory = parts["memory"] > sum(parts[name] for name in BETWEEN_RANKS)
        terms = ["hop", "launch", *(["memory"] if is_memory else BETWEEN_RANKS)]
        names.append(LIMITS[max(terms, key=parts.__getitem__)] if any(parts.values()) else None)
    limits = "; ".join(f"{name} at {sizes}" for name, sizes in _sizes(rows, names).items())
    shares = [row.ours.share_of_bound for row in rows
              if row.ours and row.ours.share_of_bound is not None]
    if not limits or not shares:
        return None
    return (f"The bound of the machine's measured parts comes from {limits}; {ours} reaches "
            f"{_span(f'{min(shares):.0%}', f'{max(shares):.0%}')} of it.")


def _sizes(rows: Sequence[Row], names: Iterable[str | None]) -> dict[str, str]:
    """The sizes of the rows with each name: `16 KiB to 128 KiB, 4 MiB`."""
    spans: dict[str, list[str]] = defaultdict(list)
    for name, pairs in groupby(zip(names, rows, strict=True), key=lambda pair: pair[0]):
        labels = [row.label for _, row in pairs]
        if name:
            spans[name].append(_span(labels[0], labels[-1]))
    return {name: ", ".join(of_name) for name, of_name in spans.items()}


def _span(low: str, high: str) -> str:
    return low if low == high else f"{low} to {high}"
