"""A run of `bench.link` as text: a matrix for each kind of transfer between ranks, the range of
bandwidths at each size, and sentences that name the slow pair."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from reports.store.schema import Case, Result
from reports.tables.console import WIDTH, lay_out, plain_table
from reports.tables.sentences import footnotes, has_gpus, head_lines, number, size_text

BENCHMARK = "link"
SLOWER = 1.25  # sentences name pairs and directions that differ by more
RATES = {"push": "push", "pull": "pull", "both_directions": "both, each",
         "local_copy": "local copy"}
Matrix = NDArray[np.float64]


def is_of(result: Result) -> bool:
    """Whether `bench.link` made the run."""
    return result.run.benchmark == BENCHMARK


def measured(result: Result, algorithm: str) -> list[Case]:
    """The cases of an algorithm with a time."""
    return [case for case in result.cases
            if case.algorithm == algorithm and case.status == "ok" and case.time_us]


def shown_size(result: Result) -> int | None:
    """The size of the matrices and of comparisons: the largest at which every push and pull has an
    interval, or else the largest measured one."""
    cases = [case for case in result.cases if case.algorithm in ("push", "pull")]
    sizes = {case.size_bytes for case in cases}
    unsure = {case.size_bytes for case in cases if not _has_interval(case)}
    return max(sizes - unsure or {case.size_bytes for case in cases if case.time_us}, default=None)


def matrix(result: Result, algorithm: str, size_bytes: int) -> Matrix:
    """GB/s from rank (row) to rank (column), or nanoseconds one way for `ping_pong`; NaN if not
    measured. A figure for both directions is stored twice."""
    values = np.full((result.run.world["size"],) * 2, np.nan)
    for case in measured(result, algorithm):
        if case.size_bytes == size_bytes:
            is_trip = algorithm == "ping_pong"
            value = 1e3 * _time_us(case) if is_trip else case.alg_bw_gb_s
            src, dst = case.shape["src"], case.shape["dst"]
            values[src, dst] = np.nan if value is None else value
            if is_trip or algorithm == "both_directions":
                values[dst, src] = values[src, dst]
    return values


def panels(result: Result) -> list[tuple[str, str, Matrix]]:
    """The measured matrices: title, unit and values. The diagonal of the first is local copies."""
    size = shown_size(result)
    if size is None:
        return []
    push, at = matrix(result, "push", size), size_text(size)
    np.fill_diagonal(push, np.diag(matrix(result, "local_copy", size)))
    matrices = [
        (f"push, {at}: row stores into column; diagonal: local copy", "GB/s", push),
        (f"pull, {at}: column reads from row", "GB/s", matrix(result, "pull", size)),
        (f"both directions at once, {at}: each", "GB/s", matrix(result, "both_directions", size)),
        ("flag, one way", "ns", matrix(result, "ping_pong", 0))]
    return [panel for panel in matrices if np.isfinite(panel[2]).any()]


def render(result: Result) -> str:
    """The matrices with their head and sentences, at most 80 columns for up to 9 ranks; ends with a
    newline."""
    tables = [(f"{title}, {unit}", _matrix_table(values)) for title, unit, values in panels(result)]
    tables.append(("GB/s, slowest and fastest of all", _rate_table(result)))
    width = max(WIDTH, 8 * (result.run.world["size"] + 1))
    return lay_out(result, head_lines(result, [], []), tables,
                   [*findings(result), *footnotes(result)], width)


def _matrix_table(values: Matrix) -> Table:
    ranks = range(len(values))
    table = plain_table([("", 4), *((str(rank), 8) for rank in ranks)], gap=0)
    for rank in ranks:
        cells = [None if np.isnan(value) else float(value) for value in values[rank]]
        table.add_row(f"{rank:>4}", *map(number, cells))
    return table


def _rate_table(result: Result) -> Table:
    """The bandwidth of the slowest and the fastest pair at each size."""
    cases = {name: measured(result, name) for name in RATES}
    names = [name for name in RATES if cases[name]]
    table = plain_table([("size", 8), *((RATES[name], 17) for name in names)], gap=0)
    for size in sorted({case.size_bytes for name in names for case in cases[name]}):
        cells = []
        for name in names:
            rates = [case.alg_bw_gb_s or 0.0 for case in cases[name] if case.size_bytes == size]
            ends = [number(min(rates)), number(max(rates))] if rates else ["-"]
            cells.append(" - ".join(ends[: len(rates) or 1]))
        table.add_row(size_text(size), *cells)
    return table


def findings(result: Result) -> list[str]:
    """The run in sentences: the slow pair, unequal directions, the latency of a flag, the launch,
    and the cost of contention."""
    sentences = [*_slow_pairs(result), *_directions(result)]
    trips, launches = measured(result, "ping_pong"), measured(result, "launch")
    if trips:
        nearest = min(trips, key=_time_us)
        sentences.append(
            f"A flag takes {number(1e3 * _time_us(nearest))} ns one way ({_pair(result, nearest)}"
            f"{', the nearest' * (len(trips) > 1)}), which is the floor of any collective.")
    if launches:
        slowest = max(launches, key=_time_us)
        rank = f"{_rank_name(result)}{slowest.shape['src']}{', the slowest' * (len(launches) > 1)}"
        sentences.append(f"To launch an empty kernel and wait for its end takes "
                         f"{number(_time_us(slowest))} us on {rank}.")
    return sentences if shares_cores(result) else [*sentences, *_contention(result)]


def shares_cores(result: Result) -> bool:
    """Whether ranks take turns on a core or a GPU: then pairs are not comparable."""
    ranks = result.run.world.get("ranks", [])
    places = [[rank["pci_bus_id"]] if rank.get("pci_bus_id") else rank.get("cpus") or [number]
              for number, rank in enumerate(ranks)]
    return len({part for place in places for part in place}) < len(ranks)


def _comparable(result: Result, algorithm: str) -> list[Case]:
    """The cases of all pairs at the shown size; none if one lacks an interval."""
    size = 0 if algorithm == "ping_pong" else shown_size(result)
    cases = [case for case in measured(result, algorithm) if case.size_bytes == size]
    return cases if all(_has_interval(case) for case in cases) else []


def _slow_pairs(result: Result) -> list[str]:
    """The slowest pair by push, by pull and for a flag, or why pairs are not compared."""
    size = result.run.world["size"]
    if size < 3:
        return ["One pair: there is no other to compare it with."] * (size == 2)
    if shares_cores(result):
        return ["Pairs are not compared: ranks take turns, so that times are the scheduler's."]
    if not _comparable(result, "push"):
        return ["Pairs are not compared: there are too few blocks for intervals; --max-time gives "
                "more."]
    sentences = []
    for name, transfer in (("push", "by push, "), ("pull", "by pull, "),
                           ("ping_pong", "for a flag, one way")):
        ordered = sorted(_comparable(result, name), key=_time_us)
        slow = [case for case in ordered if _is_slower(case, ordered[0])]
        if slow and slow[-1] is ordered[-1]:
            fastest, slowest = ordered[0], slow[-1]
            pairs = len({frozenset(case.shape.values()) for case in slow})
            more = f"; {pairs} pairs are slower than that" if pairs > 1 else ""
            at = size_text(slowest.size_bytes) if slowest.size_bytes else ""
            sentences.append(
                f"{_pair(result, slowest)} is {_ratio(slowest, fastest):.1f}x slower than "
                f"{_pair(result, fastest)} {transfer}{at}{more}.")
    return sentences or [f"No pair is more than {SLOWER:.2f}x slower than another."]


def _directions(result: Result) -> list[str]:
    """The pair with the largest difference between its two directions."""
    unequal: list[tuple[Case, Case]] = []
    for algorithm in ("push", "pull"):
        by_ends = {(case.shape["src"], case.shape["dst"]): case
                   for case in _comparable(result, algorithm)}
        unequal += [(case, by_ends[dst, src]) for (src, dst), case in by_ends.items()
                    if (dst, src) in by_ends and _is_slower(case, by_ends[dst, src])]
    if not unequal or shares_cores(result):
        return []
    slow, fast = max(unequal, key=lambda cases: _ratio(*cases))
    name = _rank_name(result)
    ends = [f"{name}{case.shape['src']} to {name}{case.shape['dst']}" for case in (slow, fast)]
    return [f"{ends[0]} is {_ratio(slow, fast):.1f}x slower than {ends[1]} by {slow.algorithm}, "
            f"{size_text(slow.size_bytes)}."]


def _contention(result: Result) -> list[str]:
    """The largest slowdown of pushes at the same time, and of a push beside a host copy."""
    alone = {(case.shape["src"], case.shape["dst"], case.size_bytes): case
             for case in measured(result, "push")}
    sentences = []
    if worst := _worst(measured(result, "disjoint_pairs"), alone, lambda case: case.shape["pairs"]):
        factor, case = worst
        pairs = " and ".join("-".join(f"{_rank_name(result)}{rank}" for rank in pair)
                             for pair in case.shape["pairs"])
        sentences.append(f"At once, disjoint pairs take at most {factor:.2f}x as long as the "
                         f"slowest of them alone ({pairs}, {size_text(case.size_bytes)}).")
    if worst := _worst(measured(result, "host_copy_beside"), alone,
                       lambda case: [(case.shape["src"], case.shape["dst"])]):
        factor, case = worst
        sentences.append(
            "Beside a host copy on the rank that gets the data, a push takes at most "
            f"{factor:.2f}x as long ({_pair(result, case)}, {size_text(case.size_bytes)}).")
    return sentences


def _worst(cases: Sequence[Case], alone: Mapping[tuple[int, int, int], Case],
           pairs_of: Callable[[Case], Sequence[Sequence[int]]]) -> tuple[float, Case] | None:
    """The largest slowdown over the slowest of its pairs alone, and its case."""
    slowdowns = []
    for case in cases:
        singles = [alone.get((src, dst, case.size_bytes)) for src, dst in pairs_of(case)]
        times_us = [_time_us(single) for single in singles if single]
        if times_us:
            slowdowns.append((_time_us(case) / max(*times_us, 1e-9), case))
    return max(slowdowns, key=lambda slowdown: slowdown[0], default=None)


def _time_us(case: Case) -> float:
    assert case.time_us
    return case.time_us.median


def _ratio(slow: Case, fast: Case) -> float:
    return _time_us(slow) / max(_time_us(fast), 1e-9)


def _has_interval(case: Case) -> bool:
    return case.time_us is not None and None not in (case.time_us.ci_low, case.time_us.ci_high)


def _is_slower(slow: Case, fast: Case) -> bool:
    """Whether a case is slower by more than SLOWER, with separate intervals."""
    assert slow.time_us
    assert fast.time_us
    is_apart = (slow.time_us.ci_low or 0.0) > (fast.time_us.ci_high or 0.0)
    return is_apart and _ratio(slow, fast) > SLOWER


def _rank_name(result: Result) -> str:
    return "GPU" if has_gpus(result) else "rank"


def _pair(result: Result, case: Case) -> str:
    return "-".join(f"{_rank_name(result)}{rank}" for rank in sorted(case.shape.values()))
