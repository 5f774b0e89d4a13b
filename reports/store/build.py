"""Turns measured blocks into cases. No other module does: which blocks count, their medians and
intervals, the bandwidth, and the comparison with the bound of the machine's parts.

The figures of a case are from the blocks in the state of the link with most blocks of the run.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reports.store.bound import set_bound
from reports.store.case import (
    LinkStates,
    beside,
    case_bus_factor,
    find_states,
    late_us,
    round_trip_ns,
    summary_of,
    where_wrong,
)
from reports.store.exposed import TOGETHER, costs_in, set_exposed
from reports.store.schema import Block, Case, CaseFields, LinkBlock, Range, Run, State, Summary
from reports.store.stats import autocorrelation

Samples = dict[int, NDArray[np.floating[Any]]]
BlocksByState = dict[int | None, list[Block]]
OF_ITERATIONS = ("time_us", "consume_us", "total_us", "arrival_skew_us")
OF_BLOCKS = ("chain_only_us", "matmul_gflop_s", "matmul_alone_gflop_s")
P95_SAMPLES = 20
P99_SAMPLES, P99_BLOCKS = 1000, 10


def build_cases(run: Run, blocks: Sequence[Block], link_blocks: Sequence[LinkBlock],
                samples: Samples | None = None, reason: str = "time ran out") -> list[Case]:
    """One case for each case header of the run, in the same order.

    `samples[case]` has shape (rows, 5): block, rank, time_us, consume_us, arrival_skew_us. The rows
    of one rank and block are in the order of the iterations. Percentiles need samples. `reason` is
    the reason of cases without a block.
    """
    states = find_states(blocks)
    blocks_of: list[list[Block]] = [[] for _ in run.cases]
    by_state: list[BlocksByState] = [{} for _ in run.cases]
    for block, state in zip(blocks, states.of_block, strict=True):
        blocks_of[block.case].append(block)
        by_state[block.case].setdefault(state, []).append(block)
    rho = autocorrelation([
        [block.time_us for block in groups.get(states.longest, []) if block.time_us > 0]
        for groups in by_state])
    cases = [Case(case=number, **{name: getattr(header, name)
                                  for name in CaseFields.__struct_fields__})
             for number, header in enumerate(run.cases)]
    for case, case_blocks, groups in zip(cases, blocks_of, by_state, strict=True):
        if case.status == "ok" and not case_blocks:
            case.status, case.reason = "not measured", reason
        elif case.status == "ok":
            rows = (samples or {}).get(case.case)
            state = _summarise(case, groups, states, rows, rho)
            case.blocks_mixed = sum(round_trip_ns(block) is None for block in case_blocks)
            _count_wrong(case, case_blocks)
            links = [link for link in link_blocks if link.size_bytes == case.size_bytes]
            same_state = [link for link in links if states.state_of(link) == state]
            _set_bandwidth(case, run, links if state is None else same_state or links)
    set_exposed(cases, costs_in(blocks, states.of_block, states.longest))
    return cases


def _summarise(case: Case, by_state: BlocksByState, states: LinkStates,
               samples: NDArray[Any] | None, rho: float) -> int | None:
    """Fills in the figures of a case and returns the state of the link that they are from: the
    run's longest, otherwise the case's longest. None stands for all blocks of a mixed case."""
    settled = {state: blocks for state, blocks in by_state.items() if state is not None}
    state = states.longest
    if state not in settled:
        state = max(settled, key=lambda s: len(settled[s])) if settled else None
        case.state = "mixed" if state is None else "own"
    blocks = by_state[state]
    for name, summary in _summaries(blocks, samples, rho).items():
        setattr(case, name, summary)
    case.link_rtt_ns = _rtt_range(blocks)
    if builds := Counter(block.chosen for block in blocks if block.chosen):
        case.chosen = builds.most_common(1)[0][0]
    n_blocks = sum(map(len, by_state.values()))
    for other in sorted(settled.keys() - {state}):
        group = settled[other]
        figures = _summaries(group, samples, rho)
        case.states.append(State(
            share=len(group) / n_blocks, n_blocks=len(group), link_rtt_ns=_rtt_range(group),
            time_us=figures["time_us"], total_us=figures["total_us"]))
    return state


def _count_wrong(case: Case, blocks: Sequence[Block]) -> None:
    """Marks a case with wrong elements in any of its blocks, mixed ones included."""
    counts = [block.n_wrong for block in blocks if block.n_wrong is not None]
    case.n_wrong = sum(counts) if counts else None
    if case.n_wrong:
        case.status, case.reason = "wrong", f"{case.n_wrong} elements were wrong"
        if place := where_wrong(blocks):
            case.reason += f", first in {place[1]}"


def _set_bandwidth(case: Case, run: Run, links: Sequence[LinkBlock]) -> None:
    """Fills in bandwidths and bound, if they have a meaning: not for a wrong result, not for a case
    that also computes, and not for a late rank, whose time starts after the others moved data."""
    if case.status == "wrong" or case.collective in TOGETHER or late_us(case.shape):
        return
    assert case.time_us
    if case.time_us.median > 0:
        case.alg_bw_gb_s = case.size_bytes / case.time_us.median / 1e3
        case.bus_bw_gb_s = case.alg_bw_gb_s * case_bus_factor(case, run.world["size"])
    if not beside(case.shape):  # the machine's parts are measured without background load
        set_bound(case, run, links)


def _rtt_range(blocks: Sequence[Block]) -> Range | None:
    trips = [trip for block in blocks if block.link_rtt_ns for trip in block.link_rtt_ns]
    return Range(median=float(np.median(trips)), min=min(trips), max=max(trips)) if trips else None


def _summaries(blocks: Sequence[Block], samples: NDArray[Any] | None,
               rho: float) -> dict[str, Summary]:
    """The quantities of these blocks, without those that no block has."""
    medians = {name: [getattr(block, name) for block in blocks]
               for name in (*OF_ITERATIONS, *OF_BLOCKS)}
    medians["total_us"] = [block.cost_us for block in blocks]
    summaries = {name: summary_of([value for value in values if value is not None], rho)
                 for name, values in medians.items() if any(v is not None for v in values)}
    iterations = _iterations(blocks, samples)
    n = sum(block.n for block in blocks)
    for name in summaries.keys() & set(OF_ITERATIONS):
        summaries[name].n = n
        if name in iterations:
            _add_distribution(summaries[name], iterations[name])
    if not iterations and n and all(block.mean_us is not None for block in blocks):
        mean_us = sum((block.mean_us or 0) * block.n for block in blocks) / n
        for name in ("time_us",) if "consume_us" in summaries else ("time_us", "total_us"):
            summaries[name].mean = mean_us
    return summaries


def _add_distribution(summary: Summary, iterations: NDArray[Any]) -> None:
    summary.p25, summary.p75, p95, p99 = np.percentile(iterations, [25, 75, 95, 99]).tolist()
    summary.p95 = p95 if len(iterations) >= P95_SAMPLES else None
    has_p99 = len(iterations) >= P99_SAMPLES and (summary.n_blocks or 0) >= P99_BLOCKS
    summary.p99 = p99 if has_p99 else None
    summary.min, summary.max = float(iterations.min()), float(iterations.max())
    summary.mean = float(iterations.mean())


def _iterations(blocks: Sequence[Block], samples: NDArray[Any] | None) -> dict[str, NDArray[Any]]:
    """The OF_ITERATIONS of each iteration of these blocks, in microseconds: the value of the
    slowest rank. A quantity with missing values is left out."""
    if samples is None:
        return {}
    # Sorting is stable, so the iterations of a rank stay in order.
    ordered = samples[np.lexsort((samples[:, 1], samples[:, 0]))].astype(float)
    slowest = [np.empty((0, 3))]
    for block in blocks:
        start, stop = np.searchsorted(ordered[:, 0], [block.block, block.block + 1])
        n_ranks = max(1, len(np.unique(ordered[start:stop, 1])))
        slowest.append(ordered[start:stop, 2:].reshape(n_ranks, -1, 3).max(axis=0))
    time, consume, skew = np.concatenate(slowest).T
    has_consume = np.isfinite(consume).all()
    columns = {"time_us": time, "consume_us": consume, "arrival_skew_us": skew,
               "total_us": time + consume if has_consume else time}
    return {name: column for name, column in columns.items()
            if len(column) and np.isfinite(column).all()}
