"""Turns the blocks of a run that count into its cases: medians and intervals, bandwidth, bound,
exposed communication."""

from collections.abc import Sequence
from operator import attrgetter
from statistics import median

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wiretax.common.grouped import grouped
from wiretax.record import case as facts
from wiretax.record.blocks import paired, round_trip_ns, same_state
from wiretax.record.chain_links import time_with_link_error
from wiretax.record.schema import (
    Block,
    Case,
    CaseFields,
    Counted,
    LinkBlock,
    RoundCosts,
    Run,
    Summary,
)
from wiretax.record.stats import autocorrelation, median_interval
from wiretax.record.tails import tail_of
from wiretax.record.wrong import mark_wrong

STAMPED = ("consume_us", "arrival_skew_us", "chain_only_us")  # summaries of a block's own fields
SIZE = attrgetter("size_bytes")
HIDDEN = "its link alone took about as long as a call with it: the call's own time is unknown"
TIME_RAN_OUT = "time ran out"
ELSEWHERE = "the link was in another state whenever it was measured"


def build_cases(
    run: Run,
    counted: Counted,
    blocks: Sequence[Block],
    link_blocks: Sequence[LinkBlock],
    reason: str = TIME_RAN_OUT,
) -> list[Case]:
    """One case for each case header of the run, in the same order, from the `counted` of its
    `blocks`. `reason` is the reason of cases without a block. Raises ValueError for damaged counts
    of steps."""
    rho = autocorrelation(
        [[us for us in rounds.values() if us > 0] for rounds in counted.times_us.values()]
    )
    alike = [
        link
        for link in link_blocks
        if not counted.is_settled
        or same_state(round_trip_ns(link) or counted.rtt_ns, counted.rtt_ns)
    ]
    # A run of few rounds may have no probe of a size in its state.
    links = grouped(link_blocks, SIZE) | grouped(alike, SIZE)
    cases = [
        Case(case=number, **{name: getattr(header, name) for name in CaseFields.__struct_fields__})
        for number, header in enumerate(run.cases)
    ]
    tried = {block.case for block in blocks}
    for case in cases:
        if case.status == "ok" and case.case not in counted.by_case:
            case.status = "not measured"
            case.reason = reason
            if case.case in counted.hidden:
                case.reason = HIDDEN
            elif case.case in tried:
                case.reason = ELSEWHERE

    measured = [case for case in cases if case.status == "ok"]
    for block in blocks:
        case = cases[block.case]
        if block.n_wrong is not None and case.status == "ok":
            case.n_wrong = 0  # until `mark_wrong` counts
        if block.n_checked:
            case.n_checked = (case.n_checked or 0) + block.n_checked

    mark_wrong(cases, blocks)
    for case in measured:
        for name, figure in _figures(case.case, counted, rho).items():
            setattr(case, name, figure)
        _set_bandwidth(case, run, links.get(case.size_bytes, ()))

    by_case = grouped(blocks, attrgetter("case"))
    for case in cases:
        own = by_case.get(case.case, ())
        for name, figure in tail_of(own).items():
            setattr(case, name, figure)
        printed = [block.theirs for block in own if block.theirs]
        if len(printed) == 1:  # those of several rows do not add up
            case.theirs = printed[0]

    _set_exposed(cases, counted.costs_us, rho)
    _set_beside(cases, counted)
    return cases


def _figures(case: int, counted: Counted, rho: float) -> dict[str, Summary | float]:
    """The quantities of a case, without those that no block has: times of a call from the table of
    case x round, others from the blocks that count."""
    blocks, link = counted.by_case[case], counted.chain_links.get(case)
    time = _summary([*counted.times_us[case].values()], rho)
    total = _summary([*counted.costs_us[case].values()], rho)
    figures: dict[str, Summary | float] = {}
    for name in STAMPED:
        if values := [us for block in blocks if (us := getattr(block, name)) is not None]:
            figures[name] = _summary(values, rho)
    if trips := [trip for block in blocks for trip in block.link_rtt_ns or ()]:
        figures["link_rtt_ns"] = Summary(median=float(np.median(trips)))

    if link:
        time, total = time_with_link_error(time, link), time_with_link_error(total, link)
        figures["chain_only_us"] = link
        with_link = _summary([block.time_us for block in blocks], rho)
        figures["with_link_us"] = with_link

    n = sum(block.n for block in blocks)
    if n and all(block.mean_us is not None for block in blocks):
        mean_us = sum((block.mean_us or 0) * block.n for block in blocks) / n
        time.mean = counted.less_link(case, mean_us)
        if link:
            with_link.mean = mean_us
        if "consume_us" not in figures:
            total.mean = time.mean

    return figures | {"time_us": time, "total_us": total}


def _summary(values: ArrayLike, rho: float, are_differences: bool = False) -> Summary:
    median, low, high = median_interval(values, rho, are_differences)
    return Summary(median=median, ci_low=low, ci_high=high, n_blocks=np.size(values))


def _set_bandwidth(case: Case, run: Run, links: Sequence[LinkBlock]) -> None:
    """Fills in bandwidths and bound: not for a wrong result of ours, not for a case that also
    computes, and not for a late rank, whose time starts after the others moved data."""
    if (
        case.time_us is None
        or case.time_us.median == 0
        or (case.status == "wrong" and not run.imported_from)
        or case.collective in facts.COMPUTE_BENCHMARKS
        or facts.late_us(case.shape)
    ):
        return

    case.alg_bw_gb_s = case.size_bytes / case.time_us.median / 1e3
    factor = facts.bus_factor(case.collective, run.world_size)
    if case.routing:  # the bytes that leave the rank with the most traffic
        factor = max(case.routing["leaving_bytes"]) / max(case.size_bytes, 1)
    case.bus_bw_gb_s = case.alg_bw_gb_s * factor if factor else None
    bound = _bound_us(case, run, links)
    if bound is None:
        return

    case.bound_us, low_us = bound.tolist()
    case.share_of_bound = case.bound_us / case.time_us.median
    high = case.time_us.ci_high
    case.suspect = case.share_of_bound > 1 if high is None else low_us > high


def _unit_times_us(links: Sequence[LinkBlock], name: str) -> list[float]:
    """The times of a hop, or of a byte of another part in the faster of its ways: a push by stores
    or by copy engines, a copy through memory by ordinary or non-temporal stores."""
    if name == "hop":
        return [trip / 2e3 for link in links for trip in link.link_rtt_ns or ()]

    names = {"push": ("push", "engine"), "memory": ("memory", "memory_nt")}.get(name, (name,))
    times_us = [
        [
            time_us / link.size_bytes
            for link in links
            if link.size_bytes and (time_us := getattr(link, f"{each}_us")) is not None
        ]
        for each in names
    ]
    return min(filter(None, times_us), key=median, default=[])


def _bound_us(case: Case, run: Run, links: Sequence[LinkBlock]) -> NDArray[np.float64] | None:
    """The lower bound of a case's time in us, and the low end of its interval, (2,): a flag hop
    (half a round trip) for each hop of the algorithm, the bytes that it moves, the launch, and the
    chain's link, where the time contains it. None if `links` lack a needed part."""
    parts = run.cases[case.case].bound_parts
    if parts is None:
        return None

    store = "push" if parts.get("pushes") else "copy_in"
    # An algorithm that pushes reads at home, so its reads do not count.
    stages = [
        (stored_bytes, 0 if store == "push" else read_bytes)
        for stored_bytes, read_bytes in parts.get("stages", [])
    ]
    amounts = {
        "hop": parts.get("hops", 0),
        store: sum(stored for stored, _ in stages),
        "peer_read": sum(read for _, read in stages),
        "memory": parts.get("memory_bytes", 0),
    }
    costs_us = dict.fromkeys(amounts, np.zeros(2))

    for name in (name for name, amount in amounts.items() if amount):
        times_us = _unit_times_us(links, name)
        if not times_us:
            return None
        median_us, low_us, _ = median_interval(times_us)
        costs_us[name] = np.array([median_us, median_us if low_us is None else low_us])

    # A stage stores and reads in one pass, so only the slower of the two counts.
    between_ranks_us = sum(
        np.maximum(stored_bytes * costs_us[store], read_bytes * costs_us["peer_read"])
        for stored_bytes, read_bytes in stages
    )
    # Moving data between ranks and through the memory system overlap.
    moving_us = np.maximum(between_ranks_us, amounts["memory"] * costs_us["memory"])
    # The parts exclude stamping and launching, which the time contains once for all its calls.
    overhead_us = 0.0 if run.clock_shared else run.link.get("overhead_us", 0.0)
    bound_us = amounts["hop"] * costs_us["hop"] + overhead_us / case.calls + moving_us

    chain = case.chain_only_us
    if chain and case.with_link_us is None:  # the time contains it
        low_us = chain.median if chain.ci_low is None else chain.ci_low
        bound_us += chain.median, low_us

    return np.asarray(bound_us)


def _set_exposed(cases: Sequence[Case], costs_us: RoundCosts, rho: float) -> None:
    """Fills in `compute_us` and `exposed_us`, the extra time of a form over its compute alone by
    round: negative by chance, or if the reader gets the result of the compute alone slowly. Times
    have the correlation `rho`; what both of a round share cancels in their difference, whose
    correlation is that of their ratio."""
    alone = {
        facts.work_of(case): case
        for case in cases
        if case.algorithm == facts.COMPUTE and case.status == "ok"
    }
    pairs = list[tuple[Case, NDArray[np.float64], NDArray[np.float64]]]()
    for case in cases:
        compute = alone.get(facts.work_of(case))
        if compute and case.status == "ok" and case.algorithm.startswith(facts.COMMUNICATES):
            case_us, compute_us = paired(costs_us[case.case], costs_us[compute.case])
            if len(case_us):
                pairs.append((case, case_us, compute_us))

    pair_rho = autocorrelation([case_us / compute_us for _, case_us, compute_us in pairs])
    for case, case_us, compute_us in pairs:
        case.compute_us = _summary(compute_us, rho)
        case.exposed_us = _summary(case_us - compute_us, pair_rho, are_differences=True)


def _set_beside(cases: Sequence[Case], counted: Counted) -> None:
    """Fills in `beside_ratio`, by the time alone: the cost has the wait for the other work."""
    measured = {
        (facts.work_of(case), case.algorithm): case for case in cases if case.status == "ok"
    }
    ratios = list[tuple[Case, NDArray[np.float64]]]()
    for (work, algorithm), case in measured.items():
        alone = measured.get((work, facts.alone_of(algorithm) or ""))
        if alone:
            times_us = counted.times_us
            beside_us, alone_us = paired(times_us[case.case], times_us[alone.case])
            if len(beside_us):
                ratios.append((case, beside_us / alone_us))

    rho = autocorrelation([of_case for _, of_case in ratios])
    for case, of_case in ratios:
        case.beside_ratio = _summary(of_case, rho)
