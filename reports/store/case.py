"""Blocks become cases here and nowhere else: which blocks count, what their medians and intervals are, what bandwidth
that is, and how it stands against the bound of the machine's own parts.

The link changes under a run. Its states come from one clustering of the flag round trips of all blocks, blind to the
times; a block whose two probes disagree is mixed and left out; every case is judged over the state that the run held
longest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reports.store.exposed import TOGETHER, costs_in, set_exposed
from reports.store.schema import Block, Case, CaseHeader, FirstWrong, LinkBlock, Range, Run, State, Summary
from reports.store.stats import autocorrelation, link_states, median_interval

BETWEEN_RANKS = ("copy_in", "push", "peer_read")  # parts of a bound

Samples = dict[int, NDArray[np.floating[Any]]]

MIXED_RATIO = 1.3
SETTLED_SHARE = 1 / 3
P95_SAMPLES = 20
P99_SAMPLES, P99_BLOCKS = 1000, 10
CASE_KEY = ("collective", "shape", "size_bytes", "datatype", "redop", "mode", "variant", "memory", "in_place",
            "algorithm", "library")


@dataclass
class LinkStates:
    """The link over a run. `of_block` has a state for each block, None where it is mixed; `rtt_ns` the median round
    trip of each state (empty when there is no link to probe), fastest first; `longest` the state held longest, None
    for a link that never settled: then `of_block` is None throughout and every block counts."""

    of_block: list[int | None]
    rtt_ns: list[float]
    longest: int | None

    def share(self, state: int) -> float:
        """Part of all blocks, mixed ones included, that were in this state."""
        return self.of_block.count(state) / max(len(self.of_block), 1)


def find_states(blocks: Sequence[Block], least_share: float = SETTLED_SHARE) -> LinkStates:
    """The states of the link from the round trips before and after each block, blind to the times.

    Where no state held for `least_share` of the blocks (ranks that share cores, say) there is none to speak of.
    """
    trips = [_round_trip_ns(block) for block in blocks]
    known = [trip for trip in trips if trip]
    if not known:
        return LinkStates([None if trip is None else 0 for trip in trips], [], 0 if 0.0 in trips else None)
    labels = iter(link_states(np.log(known)).tolist())
    # A block without probes (one rank has no peer) belongs to the only state there is.
    of_block = [None if trip is None else next(labels) if trip else 0 for trip in trips]
    found = sorted({state for state in of_block if state is not None})
    rtt_ns = [float(np.median([trip for trip, its in zip(trips, of_block, strict=True) if its == state and trip]))
              for state in found]
    counts = Counter(state for state in of_block if state is not None)
    longest = max(found, key=lambda state: counts[state])
    if counts[longest] < least_share * len(blocks):
        return LinkStates([None] * len(blocks), [], None)
    return LinkStates(of_block, rtt_ns, longest)


def _round_trip_ns(block: Block | LinkBlock) -> float | None:
    """Geometric mean of the two probes; 0 without probes, None when they disagree."""
    if block.link_rtt_ns is None:
        return 0.0
    before, after = block.link_rtt_ns
    if min(before, after) <= 0 or max(before, after) > MIXED_RATIO * min(before, after):
        return None
    return float(np.sqrt(before * after))


def words_of(first: FirstWrong) -> str:
    """`rank 1 got 13.0 (0x41500000) at offset 1184, element 296; 12.0 (0x41400000) expected`."""
    return (f"rank {first.rank} got {first.got} at offset {first.offset_bytes}, element {first.element}; "
            f"{first.expected} expected")


def where_wrong(blocks: Iterable[Block]) -> tuple[int, str] | None:
    """The case of the first of these blocks that says where it was wrong, and in words where; None where none does."""
    for block in blocks:
        if first := block.first_wrong:
            return block.case, f"block {block.block}: {words_of(first)}"
    return None


def late_us(shape: Any) -> float:
    """By how much one rank came late on purpose, in microseconds; 0 where none did."""
    return float((shape or {}).get("arrival_skew_us", 0))


def beside(shape: Any) -> str | None:
    """What went on beside a case on purpose."""
    return (shape or {}).get("beside")


BUS_FACTORS: dict[str, Callable[[int], float]] = {
    "all_reduce": lambda n: 2 * (n - 1) / n,
    "all_gather": lambda n: (n - 1) / n,
    "reduce_scatter": lambda n: (n - 1) / n,
    "alltoall": lambda n: (n - 1) / n,
    "sendrecv": lambda n: 1.0,
    "link": lambda n: 1.0,
}


def bus_factor(collective: str, world_size: int) -> float:
    """busbw / algbw, as in nccl-tests' PERFORMANCE.md; 0 for one rank. Raises KeyError for an unknown collective."""
    n = world_size
    if n == 1:
        return 0.0
    return BUS_FACTORS[collective](n)


def case_bus_factor(case: Case, world_size: int) -> float:
    """That of a case; of a routed one it is what leaves the rank that sends most, over the size."""
    if case.routing is None:
        return bus_factor(case.collective, world_size)
    return float(max(case.routing["leaving_bytes"]) / max(case.size_bytes, 1))


def build_cases(run: Run, blocks: Sequence[Block], link_blocks: Sequence[LinkBlock], samples: Samples | None = None,
                unmeasured: str = "time ran out") -> list[Case]:
    """One case for each that was planned, in order.

    `samples[case]` has shape (rows, 5): block, rank, time_us, consume_us, arrival_skew_us, the iterations of a block in
    order for each rank. Without it percentiles are None. `unmeasured` is the reason of a case that has no block.
    """
    states = find_states(blocks)
    by_case: dict[int, list[tuple[Block, int | None]]] = {}
    for block, state in zip(blocks, states.of_block, strict=True):
        by_case.setdefault(block.case, []).append((block, state))
    rho = autocorrelation([[block.time_us for block, state in seen if state == states.longest and block.time_us > 0]
                           for seen in by_case.values()])
    cases = [_build_case(number, planned, run, by_case.get(number, []), states, link_blocks,
                         None if samples is None else samples.get(number), unmeasured, rho)
             for number, planned in enumerate(run.cases)]
    set_exposed(cases, costs_in(blocks, states.of_block, states.longest))
    return cases


def _build_case(number: int, planned: CaseHeader, run: Run, seen: list[tuple[Block, int | None]], states: LinkStates,
                link_blocks: Sequence[LinkBlock], samples: NDArray[Any] | None, unmeasured: str,
                rho: float) -> Case:
    case = Case(case=number, **{name: getattr(planned, name) for name in CASE_KEY}, count=planned.count,
                status=planned.status, reason=planned.reason, chosen=planned.chosen, calls=planned.calls,
                routing=planned.routing, snr_db=planned.snr_db)
    if planned.status != "ok":
        return case
    if not seen:
        case.status, case.reason = "not measured", unmeasured
        return case

    counts = Counter(state for _, state in seen if state is not None)
    judged = states.longest
    if judged not in counts:
        judged = counts.most_common(1)[0][0] if counts else None
        case.state = "mixed" if judged is None else "own"
    groups = {state: [block for block, its in seen if its == state] for state in [judged, *sorted(counts)]}
    kept = groups[judged]
    case.blocks_mixed = sum(_round_trip_ns(block) is None for block, _ in seen)
    case.time_us, case.consume_us, case.total_us, case.arrival_skew_us = _summaries(kept, samples, rho)
    case.link_rtt_ns = _rtt_range(kept)
    if ran := Counter(block.chosen for block in kept if block.chosen).most_common(1):
        case.chosen = ran[0][0]
    if all(block.chain_only_us is not None for block in kept):
        case.chain_only_us = _summary([block.chain_only_us for block in kept if block.chain_only_us is not None], rho)
    if with_it := [(block.matmul_gflop_s, block.matmul_alone_gflop_s) for block in kept
                   if block.matmul_gflop_s is not None and block.matmul_alone_gflop_s is not None]:
        case.matmul_gflop_s, case.matmul_alone_gflop_s = (_summary(rates, rho) for rates in zip(*with_it, strict=True))
    for state, others in groups.items():
        if state != judged:
            time_us, _, total_us, _ = _summaries(others, samples, rho)
            case.states.append(State(share=len(others) / len(seen), n_blocks=len(others),
                                     link_rtt_ns=_rtt_range(others), time_us=time_us, total_us=total_us))

    checked = [block.n_wrong for block, _ in seen if block.n_wrong is not None]
    case.n_wrong = sum(checked) if checked else None
    if case.n_wrong:
        case.status, case.reason = "wrong", f"{case.n_wrong} elements were wrong"
        if found := where_wrong(block for block, _ in seen):
            case.reason += f", first in {found[1]}"
        return case
    assert case.time_us
    if planned.collective in TOGETHER:
        return case  # more is done than to move data
    if late_us(planned.shape):
        return case  # its time begins when the others have moved their data: no bandwidth, and no bound
    case.alg_bw_gb_s = planned.size_bytes / case.time_us.median / 1e3 if case.time_us.median > 0 else None
    if case.alg_bw_gb_s is not None:
        case.bus_bw_gb_s = case.alg_bw_gb_s * case_bus_factor(case, run.world["size"])
    if beside(planned.shape):
        return case  # the machine's own parts are measured with nothing beside them
    links = [link for link in link_blocks if link.size_bytes == planned.size_bytes]
    _set_bound(case, run, planned, links, judged, states)
    return case


def _rtt_range(blocks: Sequence[Block]) -> Range | None:
    trips = [trip for block in blocks if block.link_rtt_ns for trip in block.link_rtt_ns]
    return Range(median=float(np.median(trips)), min=min(trips), max=max(trips)) if trips else None


def _summary(block_medians: Sequence[float], rho: float, iterations: NDArray[Any] | None = None, n: int | None = None,
             mean: float | None = None) -> Summary:
    median, low, high = median_interval(block_medians, rho=rho)
    summary = Summary(median=median, ci_low=low, ci_high=high, n=n, n_blocks=len(block_medians), mean=mean)
    if iterations is not None and len(iterations):
        summary.p25, summary.p75 = (float(p) for p in np.percentile(iterations, [25, 75]))
        if len(iterations) >= P95_SAMPLES:
            summary.p95 = float(np.percentile(iterations, 95))
        if len(iterations) >= P99_SAMPLES and len(block_medians) >= P99_BLOCKS:
            summary.p99 = float(np.percentile(iterations, 99))
        summary.min, summary.max = float(iterations.min()), float(iterations.max())
        summary.mean = float(iterations.mean())
    return summary


def _summaries(blocks: Sequence[Block], samples: NDArray[Any] | None,
               rho: float) -> tuple[Summary, Summary | None, Summary, Summary | None]:
    """time_us, consume_us, total_us and arrival_skew_us over these blocks, with percentiles where there are samples."""
    n = sum(block.n for block in blocks)
    time, consume, skew = _iterations(blocks, samples)
    consumes = [block.consume_us for block in blocks if block.consume_us is not None]
    total = time + consume if time is not None and consume is not None and consumes else time
    means = [(block.mean_us, block.n) for block in blocks if block.mean_us is not None]
    mean = sum(m * k for m, k in means) / n if len(means) == len(blocks) and n else None
    times = [block.time_us for block in blocks]
    totals = [block.time_us if block.total_us is None else block.total_us for block in blocks]
    skews = [block.arrival_skew_us for block in blocks if block.arrival_skew_us is not None]
    return (_summary(times, rho, time, n, mean),
            _summary(consumes, rho, consume, n) if consumes else None,
            _summary(totals, rho, total, n, None if consumes else mean),
            _summary(skews, rho, skew, n) if skews else None)


def _iterations(blocks: Sequence[Block], samples: NDArray[Any] | None) -> list[NDArray[Any] | None]:
    """Time, consume and arrival skew of each iteration of these blocks: that of its slowest rank, in microseconds."""
    if samples is None or not len(samples):
        return [None, None, None]
    rows = samples[np.isin(samples[:, 0], [block.block for block in blocks])].astype(float)
    if not len(rows):
        return [None, None, None]
    rows = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
    # Stable sorting keeps a rank's iterations in order, so an iteration's number is its place after its rank's first.
    starts = np.flatnonzero(np.any(np.diff(rows[:, :2], axis=0, prepend=-1) != 0, axis=1))
    lengths = np.diff(starts, append=len(rows))
    iteration = np.arange(len(rows)) - np.repeat(starts, lengths)
    _, group = np.unique(rows[:, 0] * (iteration.max() + 1) + iteration, return_inverse=True)
    columns: list[NDArray[Any] | None] = []
    for column in rows[:, 2:].T:
        if not np.isfinite(column).all():
            columns.append(None)
            continue
        slowest = np.full(group.max() + 1, -np.inf)
        np.maximum.at(slowest, group, column)
        columns.append(slowest)
    return columns


def _set_bound(case: Case, run: Run, planned: CaseHeader, links: list[LinkBlock], judged: int | None,
               states: LinkStates) -> None:
    """What the machine's measured parts allow at this size: a flag hop is half a round trip; then the longer of moving
    the data between ranks and moving it through the memory system; a chain adds the chain without collectives."""
    same = [link for link in links if judged is not None and _link_state(link, states) == judged]
    terms = _bound_terms(planned, same or links)
    if terms is None or case.time_us is None:
        return
    # The parts are without what stamping and launching take, which is in the time once, however many calls it has.
    launch_us = 0.0 if run.clock_shared else run.link.get("overhead_us", 0.0) / case.calls
    terms["launch"] = (launch_us, launch_us)
    if case.chain_only_us:
        alone = case.chain_only_us
        terms["chain_only"] = (alone.median, alone.median if alone.ci_low is None else alone.ci_low)

    def total(end: int) -> float:
        between_ranks = sum(terms[name][end] for name in BETWEEN_RANKS if name in terms)
        moving = max(between_ranks, terms["memory"][end])
        return terms["hop"][end] + terms["launch"][end] + moving + terms.get("chain_only", (0.0, 0.0))[end]

    case.bound_us = total(0)
    case.bound_parts_us = {name: median for name, (median, _) in terms.items()}
    if case.time_us.median > 0:
        case.share_of_bound = case.bound_us / case.time_us.median
    case.suspect = case.time_us.ci_high is not None and total(1) > case.time_us.ci_high


def _bound_terms(planned: CaseHeader, links: Sequence[LinkBlock]) -> dict[str, tuple[float, float]] | None:
    """The terms of the bound by name, each its median and the lower end of its interval, in microseconds; None where
    the algorithm needs a part that was not measured.

    A stage stores and reads in one pass, so it takes as long as the slower of the two, and counts under its name.
    """
    parts, size = planned.bound_parts, planned.size_bytes
    if parts is None:
        return None
    stages: list[tuple[float, float]] = [(copied, read) for copied, read in parts.get("stages", [])]
    hops, memory_bytes = parts.get("hops", 0), parts.get("memory_bytes", 0)
    store = "push" if parts.get("pushes") else "copy_in"
    if store == "push":
        stages = [(pushed, 0) for pushed, _ in stages]
    needed = {store: any(copied for copied, _ in stages), "peer_read": any(read for _, read in stages),
              "memory": bool(memory_bytes)}
    us_a_byte = {}
    for name, is_needed in needed.items():
        times_us = [time for link in links if (time := getattr(link, f"{name}_us")) is not None]
        if is_needed and not (times_us and size):
            return None
        median, low, _ = median_interval(times_us) if is_needed else (0.0, None, None)
        us_a_byte[name] = (median / max(size, 1), (median if low is None else low) / max(size, 1))
    trips_us = [trip / 1e3 for link in links if link.link_rtt_ns for trip in link.link_rtt_ns]
    if hops and not trips_us:
        return None
    trip, low, _ = median_interval(trips_us) if hops else (0.0, None, None)
    terms = {"hop": [hops / 2 * trip, hops / 2 * (trip if low is None else low)], store: [0.0, 0.0],
             "peer_read": [0.0, 0.0], "memory": [memory_bytes * us for us in us_a_byte["memory"]]}
    for end in (0, 1):
        for copied, read in stages:
            storing, reading = copied * us_a_byte[store][end], read * us_a_byte["peer_read"][end]
            terms[store if storing >= reading else "peer_read"][end] += max(storing, reading)
    return {name: (median, low) for name, (median, low) in terms.items()}


def _link_state(link: LinkBlock, states: LinkStates) -> int | None:
    """The state whose round trip is nearest; None when the link changed in between."""
    trip = _round_trip_ns(link)
    if trip is None:
        return None
    if not states.rtt_ns or not trip:
        return 0
    return int(np.argmin(np.abs(np.log(states.rtt_ns) - np.log(trip))))
