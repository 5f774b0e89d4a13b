"""Facts about cases and the link: what identifies a case, its bus bandwidth, its first wrong
element, and the states that the link was in while the blocks were measured.

The speed of a link changes during a run. Its states are clusters of the flag round trips of all
blocks, found without looking at the times. A block with two disagreeing probes is mixed: no state
contains it.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reports.store.schema import Block, Case, FirstWrong, LinkBlock, Summary
from reports.store.stats import link_states, median_interval

CASE_KEY = (
    "collective", "shape", "size_bytes", "datatype", "redop", "mode", "variant", "memory",
    "in_place", "algorithm", "library")
BETWEEN_RANKS = ("copy_in", "push", "peer_read")  # terms of a bound
MIXED_RATIO = 1.3
SETTLED_SHARE = 1 / 3
BUS_FACTORS: dict[str, Callable[[int], float]] = {
    "all_reduce": lambda n: 2 * (n - 1) / n,
    "all_gather": lambda n: (n - 1) / n,
    "reduce_scatter": lambda n: (n - 1) / n,
    "alltoall": lambda n: (n - 1) / n,
    "sendrecv": lambda n: 1.0,
    "link": lambda n: 1.0,
}


@dataclass
class LinkStates:
    """The link during a run. `of_block` is the state of each block, None if the block is mixed.
    `rtt_ns` is the median round trip of each state, fastest first; empty without probes.
    `longest` is the state with most blocks. If the link never settled, `longest` is None,
    `of_block` is None for every block, and every block counts."""

    of_block: list[int | None]
    rtt_ns: list[float]
    longest: int | None

    def share(self, state: int) -> float:
        """The share of all blocks, mixed ones included, that were in this state."""
        return self.of_block.count(state) / max(len(self.of_block), 1)

    def state_of(self, link: LinkBlock) -> int | None:
        """The state with the nearest round trip; None if the link changed between the probes."""
        trip_ns = round_trip_ns(link)
        if trip_ns and self.rtt_ns:
            return int(np.argmin(np.abs(np.log(self.rtt_ns) - np.log(trip_ns))))
        return None if trip_ns is None else 0


def find_states(blocks: Sequence[Block], least_share: float = SETTLED_SHARE) -> LinkStates:
    """Clusters the round trips before and after each block.

    The link never settled if no state has `least_share` of the blocks, for example because ranks
    share cores.
    """
    trips_ns = [round_trip_ns(block) for block in blocks]
    probed = [trip for trip in trips_ns if trip]
    if not probed:
        of_block = [None if trip is None else 0 for trip in trips_ns]
        return LinkStates(of_block, [], 0 if 0.0 in trips_ns else None)
    labels = iter(link_states(np.log(probed)).tolist())
    # A block without probes (one rank has no peer) belongs to the only state.
    of_block = [None if trip is None else next(labels) if trip else 0 for trip in trips_ns]
    counts = Counter(state for state in of_block if state is not None)
    longest = max(sorted(counts), key=counts.__getitem__)
    if counts[longest] < least_share * len(blocks):
        return LinkStates([None] * len(blocks), [], None)
    trips_of: dict[int | None, list[float]] = {}
    for state, trip in zip(of_block, trips_ns, strict=True):
        if trip:
            trips_of.setdefault(state, []).append(trip)
    return LinkStates(of_block, [float(np.median(trips_of[s])) for s in sorted(counts)], longest)


def round_trip_ns(block: Block | LinkBlock) -> float | None:
    """Geometric mean of the two probes; 0 without probes, None if the probes disagree."""
    if block.link_rtt_ns is None:
        return 0.0
    before, after = block.link_rtt_ns
    if min(before, after) <= 0 or max(before, after) > MIXED_RATIO * min(before, after):
        return None
    return float(np.sqrt(before * after))


def summary_of(values: Sequence[float], rho: float = 0.0) -> Summary:
    median, low, high = median_interval(values, rho=rho)
    return Summary(median=median, ci_low=low, ci_high=high, n_blocks=len(values))


def describe_wrong(wrong: FirstWrong) -> str:
    """`rank 1 got 13.0 (0x41500000) at offset 1184, element 296; 12.0 (0x41400000) expected`."""
    return (f"rank {wrong.rank} got {wrong.got} at offset {wrong.offset_bytes}, "
            f"element {wrong.element}; {wrong.expected} expected")


def where_wrong(blocks: Iterable[Block]) -> tuple[int, str] | None:
    """The case and a description of the first wrong element in these blocks, if any."""
    for block in blocks:
        if block.first_wrong:
            return block.case, f"block {block.block}: {describe_wrong(block.first_wrong)}"
    return None


def late_us(shape: Any) -> float:
    """The deliberate delay of one rank (`--arrival-skew`), in microseconds."""
    return float((shape or {}).get("arrival_skew_us", 0))


def beside(shape: Any) -> str | None:
    """The background load that ran beside a case deliberately."""
    return (shape or {}).get("beside")


def bus_factor(collective: str, world_size: int) -> float:
    """busbw / algbw, as in nccl-tests' PERFORMANCE.md; 0 for one rank. Raises KeyError for an
    unknown collective."""
    return 0.0 if world_size == 1 else BUS_FACTORS[collective](world_size)


def case_bus_factor(case: Case, world_size: int) -> float:
    """The bus factor of a case. A routed all-to-all counts the bytes that leave the rank with the
    most traffic, divided by the size."""
    if case.routing is None:
        return bus_factor(case.collective, world_size)
    return float(max(case.routing["leaving_bytes"]) / max(case.size_bytes, 1))
