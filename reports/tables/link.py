"""A run of `bench.link` as text: a matrix for each way across the wire, what else was found, and sentences that name
the pair that is slower than the rest.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from reports.store.case import find_states
from reports.store.schema import Case, Result
from reports.tables.sentences import footnotes, link_lines, machine, number, opening, size_text, stopped_first

BENCHMARK = "link"
WIDTH = 80
SLOWER = 1.25  # what is named: pairs, or the two directions of one, that differ by more
Matrix = NDArray[np.float64]


def is_of(result: Result) -> bool:
    """Whether the run is one of `bench.link`."""
    return result.run.benchmark == BENCHMARK


def measured(result: Result, algorithm: str) -> list[Case]:
    """The cases of an algorithm that have a figure."""
    return [case for case in result.cases if case.algorithm == algorithm and case.status == "ok" and case.time_us]


def shown_size(result: Result) -> int | None:
    """The size of the matrices, and at which pairs are compared: the largest at which every push and every pull has an
    interval, where there is none the largest that was measured."""
    cases = [case for case in result.cases if case.algorithm in ("push", "pull")]
    sure = {case.size_bytes for case in cases} - {case.size_bytes for case in cases if not _has_interval(case)}
    return max(sure or {case.size_bytes for case in cases if case.time_us}, default=None)


def matrix(result: Result, algorithm: str, size_bytes: int) -> Matrix:
    """GB/s from rank (row) to rank (column), nanoseconds one way for `ping_pong`; what holds for both directions
    stands twice, NaN where there is nothing."""
    found = np.full((result.run.world["size"],) * 2, np.nan)
    for case in measured(result, algorithm):
        if case.size_bytes == size_bytes and case.time_us:
            value = 1e3 * case.time_us.median if algorithm == "ping_pong" else case.alg_bw_gb_s
            src, dst = case.shape["src"], case.shape["dst"]
            found[src, dst] = np.nan if value is None else value
            if algorithm in ("ping_pong", "both_directions"):
                found[dst, src] = found[src, dst]
    return found


def panels(result: Result) -> list[tuple[str, str, Matrix]]:
    """The matrices that a run has: title, unit, and figures; local copies are the diagonal of the first."""
    size = shown_size(result)
    if size is None:
        return []
    local = np.diag(matrix(result, "local_copy", size))
    at = size_text(size)
    push = matrix(result, "push", size)
    np.fill_diagonal(push, local)
    found = [(f"push, {at}: row stores into column; diagonal: local copy", "GB/s", push),
             (f"pull, {at}: column reads from row", "GB/s", matrix(result, "pull", size)),
             (f"both directions at once, {at}: each", "GB/s", matrix(result, "both_directions", size)),
             ("flag, one way", "ns", matrix(result, "ping_pong", 0))]
    return [(title, unit, values) for title, unit, values in found if np.isfinite(values).any()]


def render(result: Result) -> str:
    """The run as matrices with its head and its sentences, at most 80 columns; ends with a newline."""
    out = io.StringIO()
    for line in [*opening(result), *filter(None, [stopped_first(result)]), machine(result),
                 *link_lines(find_states(result.blocks)), *(f"note: {note}" for note in result.run.notes)]:
        print(textwrap.fill(line, WIDTH), file=out)
    for title, unit, values in panels(result):
        print(f"\n{title}, {unit}", file=out)
        print("".join([" " * 4, *(f"{rank:>8}" for rank in range(len(values)))]), file=out)
        for rank, row in enumerate(values):
            print(f"{rank:>4}" + "".join(f"{number(None if np.isnan(v) else float(v)):>8}" for v in row), file=out)
    _print_sizes(result, out)
    print(file=out)
    for sentence in [*findings(result), *footnotes(result, [], [])]:
        print(textwrap.fill(sentence, WIDTH), file=out)
    return out.getvalue()


def _print_sizes(result: Result, out: io.StringIO) -> None:
    """A row a size: the slowest and the fastest pair each way."""
    names = {name: words for name, words in {"push": "push", "pull": "pull", "both_directions": "both, each",
                                             "local_copy": "local copy"}.items() if measured(result, name)}
    print("\nGB/s, slowest and fastest of all", file=out)
    print(f"{'size':>8}" + "".join(f"{words:>17}" for words in names.values()), file=out)
    for size in sorted({case.size_bytes for name in names for case in measured(result, name)}):
        cells = []
        for name in names:
            rates = [case.alg_bw_gb_s or 0.0 for case in measured(result, name) if case.size_bytes == size]
            cells.append(f"{number(min(rates))} - {number(max(rates))}" if len(rates) > 1 else
                         number(rates[0]) if rates else "-")
        print(f"{size_text(size):>8}" + "".join(f"{cell:>17}" for cell in cells), file=out)


def findings(result: Result) -> list[str]:
    """The run in sentences: the slow pair, unequal directions, the floor, the launch, and what contention costs."""
    found = [*_slow_pair(result), *_directions(result)]
    if trips := measured(result, "ping_pong"):
        least = min(trips, key=_time_us)
        found.append(f"A flag takes {number(1e3 * _time_us(least))} ns one way ({_pair(result, least)}"
                     f"{', the nearest' if len(trips) > 1 else ''}), which is the floor of any collective.")
    if launches := measured(result, "launch"):
        slowest = max(launches, key=_time_us)
        found.append(f"To launch nothing and wait for its end takes {number(_time_us(slowest))} us on "
                     f"{_name(result)}{slowest.shape['src']}{', the slowest' if len(launches) > 1 else ''}.")
    return [*found, *([] if shares_cores(result) else _contention(result))]


def shares_cores(result: Result) -> bool:
    """Whether ranks take turns, on cores or on a GPU: then no pair can be told from another."""
    ranks = result.run.world.get("ranks", [])
    places = [(rank.get("pci_bus_id"),) if rank.get("pci_bus_id") else tuple(rank.get("cpus") or [number])
              for number, rank in enumerate(ranks)]
    return len({part for place in places for part in place}) < len(ranks)


def _comparable(result: Result, algorithm: str) -> list[Case]:
    """The cases of pairs that may be held against one another: those at the shown size, all with an interval."""
    size = 0 if algorithm == "ping_pong" else shown_size(result)
    cases = [case for case in measured(result, algorithm) if case.size_bytes == size]
    return cases if all(_has_interval(case) for case in cases) else []


def _slow_pair(result: Result) -> list[str]:
    if result.run.world["size"] < 3:
        return ["One pair: there is no other to compare it with."] * (result.run.world["size"] == 2)
    if shares_cores(result):
        return ["Pairs are not compared: ranks take turns, so that times are the scheduler's."]
    if not _comparable(result, "push"):
        return ["Pairs are not compared: there are too few blocks for intervals; --max-time gives more."]
    said = []
    for name, what in (("push", "by push, "), ("pull", "by pull, "), ("ping_pong", "for a flag, one way")):
        cases = _comparable(result, name)
        slowest, fastest = max(cases, key=_time_us, default=None), min(cases, key=_time_us, default=None)
        if slowest and fastest and _is_slower(slowest, fastest):
            slower = {frozenset(case.shape.values()) for case in cases if _is_slower(case, fastest)}
            more = f"; {len(slower)} pairs are slower than that" if len(slower) > 1 else ""
            at = size_text(slowest.size_bytes) if slowest.size_bytes else ""
            said.append(f"{_pair(result, slowest)} is {_ratio(slowest, fastest):.1f}x slower than "
                        f"{_pair(result, fastest)} {what}{at}{more}.")
    return said or [f"No pair is more than {SLOWER:.2f}x slower than another."]


def _directions(result: Result) -> list[str]:
    """Of the pairs whose two directions differ, the worst."""
    unequal: list[tuple[Case, Case]] = []
    for name in ("push", "pull"):
        by_ends = {(case.shape["src"], case.shape["dst"]): case for case in _comparable(result, name)}
        both = [(case, by_ends[ends[::-1]]) for ends, case in by_ends.items() if ends[::-1] in by_ends]
        unequal += [(case, back) for case, back in both if _is_slower(case, back)]
    if not unequal or shares_cores(result):
        return []
    slow, fast = max(unequal, key=lambda cases: _ratio(*cases))
    name = _name(result)
    ends = [f"{name}{case.shape['src']} to {name}{case.shape['dst']}" for case in (slow, fast)]
    return [f"{ends[0]} is {_ratio(slow, fast):.1f}x slower than {ends[1]} by {slow.algorithm}, "
            f"{size_text(slow.size_bytes)}."]


def _contention(result: Result) -> list[str]:
    alone = {(c.shape["src"], c.shape["dst"], c.size_bytes): c for c in measured(result, "push")}

    def worst(algorithm: str, ends_of: Callable[[Case], Sequence[Sequence[int]]]) -> tuple[float, Case] | None:
        ratios = []
        for case in measured(result, algorithm):
            singles = [alone.get((src, dst, case.size_bytes)) for src, dst in ends_of(case)]
            if known := [single for single in singles if single]:
                ratios.append((_ratio(case, max(known, key=_time_us)), case))
        return max(ratios, key=lambda found: found[0], default=None)

    said = []
    if found := worst("disjoint_pairs", lambda case: list(case.shape["pairs"])):
        pairs = " and ".join("-".join(f"{_name(result)}{rank}" for rank in pair) for pair in found[1].shape["pairs"])
        said.append(f"At once, disjoint pairs take at most {found[0]:.2f}x as long as the slowest of them alone "
                    f"({pairs}, {size_text(found[1].size_bytes)}).")
    if found := worst("host_copy_beside", lambda case: [(case.shape["src"], case.shape["dst"])]):
        said.append(f"Beside a host copy on the rank that gets the data, a push takes at most {found[0]:.2f}x as long "
                    f"({_pair(result, found[1])}, {size_text(found[1].size_bytes)}).")
    return said


def _time_us(case: Case) -> float:
    assert case.time_us
    return case.time_us.median


def _ratio(slow: Case, fast: Case) -> float:
    return _time_us(slow) / max(_time_us(fast), 1e-9)


def _has_interval(case: Case) -> bool:
    return case.time_us is not None and None not in (case.time_us.ci_low, case.time_us.ci_high)


def _is_slower(slow: Case, fast: Case) -> bool:
    """By more than SLOWER, with intervals that lie apart."""
    assert slow.time_us
    assert fast.time_us
    return _ratio(slow, fast) > SLOWER and (slow.time_us.ci_low or 0.0) > (fast.time_us.ci_high or 0.0)


def _name(result: Result) -> str:
    return "GPU" if any(rank.get("gpu") for rank in result.run.world.get("ranks", [])) else "rank"


def _pair(result: Result, case: Case) -> str:
    return "-".join(f"{_name(result)}{rank}" for rank in sorted(case.shape.values()))
