"""Facts about cases and the link: the key and the bus bandwidth of a case, its comparable cases,
its first wrong element, and the states of the link while the blocks were measured."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from reports.store.schema import Block, Case, CaseFields, FirstWrong, LinkBlock, Run
from reports.store.stats import link_states

CASE_KEY = (
    "collective",
    "shape",
    "size_bytes",
    "datatype",
    "redop",
    "mode",
    "variant",
    "memory",
    "in_place",
    "algorithm",
    "library",
)
FUSED_BENCHMARKS = ("allreduce_rmsnorm", "gemv_allreduce", "gemm_reduce_scatter", "allgather_gemm")
# These also compute, and have no bandwidth.
COMPUTE_BENCHMARKS = (*FUSED_BENCHMARKS, "decode", "prefill")
COMPUTE, FUSED, LIBRARY = "compute", "fused", "then_library"
COMMUNICATES = (FUSED, "then_", "tensor_parallel", "sequence_parallel")
BETWEEN_RANKS = ("copy_in", "push", "peer_read")  # terms of a bound
MIXED_RATIO = 1.3
MIN_STATE_BLOCKS = 5  # of a case in a state of the link, to count there
# busbw / algbw of n ranks, as in nccl-tests' PERFORMANCE.md.
BUS_FACTORS: dict[str, Callable[[int], float]] = {
    "all_reduce": lambda n: 2 * (n - 1) / n,
    **dict.fromkeys(("all_gather", "reduce_scatter", "alltoall"), lambda n: (n - 1) / n),
    **dict.fromkeys(("gather", "scatter"), lambda n: (n - 1) / n),
    **dict.fromkeys(("sendrecv", "link", "broadcast", "reduce", "hypercube"), lambda n: 1.0),
}
Key = tuple[Any, ...]  # the values of CASE_KEY
Rounds = Mapping[int, float]  # costs in microseconds by round
RoundCosts = Mapping[int, Rounds]  # by case


@dataclass
class LinkStates:
    of_block: list[int | None]  # the state of the link in each block, None if it is mixed
    rtt_ns: list[float]  # the median round trip of each state, fastest first; empty without probes
    longest: int | None  # the state with most blocks; None if the link never settled: all count

    def share(self, state: int) -> float:
        """The share of all blocks, mixed ones included, that were in this state."""
        return self.of_block.count(state) / max(len(self.of_block), 1)

    def state_of(self, link: LinkBlock) -> int | None:
        """The state with the nearest round trip; None if the link changed between the probes."""
        trip_ns = round_trip_ns(link)
        if trip_ns and self.rtt_ns:
            return int(np.argmin(np.abs(np.log(self.rtt_ns) - np.log(trip_ns))))

        return None if trip_ns is None else 0


def key_of(case: CaseFields, without: Sequence[str] = ()) -> Key:
    """The values that identify a case, except for the fields in `without`."""
    values = (getattr(case, name) for name in CASE_KEY if name not in without)
    return tuple(
        msgspec.json.encode(value).decode() if isinstance(value, dict | list) else value
        for value in values
    )


def world_of(run: Run) -> tuple[Any, ...]:
    """The number of ranks, of hosts (or of ranks on each of several hosts), and what each rank runs
    on."""
    ranks, hosts = run.world.get("ranks", []), run.world.get("hosts", 1)
    if hosts != 1:
        hosts = sorted(Counter(rank.get("host") for rank in ranks).values()) or hosts

    return (
        run.world["size"],
        hosts,
        sorted(str(tuple(map(rank.get, ("device", "arch", "gpu")))) for rank in ranks),
    )


def method_of(run: Run) -> str:
    """How the cases were measured, where not by default: `checks 0, warmup 5`."""
    return ", ".join(f"{name} {value}" for name, value in sorted(run.method.items()))


def least_blocks(run: Run) -> int:
    """The blocks of a case in a state of the link that count: another harness may print one mean of
    all its iterations, which is one block."""
    return 1 if run.imported_from else MIN_STATE_BLOCKS


def is_peer(case: CaseFields) -> bool:
    """Whether another project than the run's library performed the case: `--peer`."""
    return case.library is not None and not case.algorithm.endswith("library")


def find_states(blocks: Sequence[Block]) -> LinkStates:
    """Clusters the round trips before and after each block, without looking at the times. The link
    never settled if no state has a third of the blocks."""
    labels, rtt_ns = label_states(blocks)
    of_block = [None if label < 0 else label for label in labels.tolist()]

    if not rtt_ns:
        return LinkStates(of_block, [], 0 if 0 in of_block else None)

    counts = np.bincount(labels[labels >= 0])
    longest = int(counts.argmax())

    if 3 * counts[longest] < len(blocks):
        return LinkStates([None] * len(blocks), [], None)

    return LinkStates(of_block, rtt_ns, longest)


def label_states(blocks: Sequence[Block]) -> tuple[NDArray[np.int64], list[float]]:
    """The state of the link in each block, -1 if its probes disagree; and the median round trip of
    each state in ns, fastest first, empty without probes. A block without probes, as one rank has
    no peer, is in the first state."""
    trips_ns = np.array([round_trip_ns(block) for block in blocks], dtype=float)  # None: NaN
    is_probed, labels = trips_ns > 0, np.where(trips_ns == 0, 0, -1)
    if not is_probed.any():
        return labels, []

    labels[is_probed] = link_states(np.log(trips_ns[is_probed]))
    of_states = (trips_ns[is_probed & (labels == state)] for state in range(labels.max() + 1))
    return labels, [float(np.median(own)) for own in of_states]


def round_trip_ns(block: Block | LinkBlock) -> float | None:
    """Geometric mean of the two probes; 0 without probes, None if the probes disagree."""
    if block.link_rtt_ns is None:
        return 0.0

    before, after = block.link_rtt_ns
    if min(before, after) <= 0 or max(before, after) > MIXED_RATIO * min(before, after):
        return None

    return float(np.sqrt(before * after))


def counted_state(labels: Sequence[int | None], longest: int | None) -> int | None:
    """The state of the link whose blocks make a case's figures: the run's longest, otherwise the
    longest of the case, with these states of its blocks. None: those in which the link changed."""
    settled = [label for label in labels if label is not None]
    return longest if longest in settled else max(settled, key=settled.count, default=None)


def counted_blocks(blocks: Sequence[Block]) -> dict[int, list[Block]]:
    """The blocks that make the figures of each measured case of a run, by its number."""
    states, by_case = find_states(blocks), dict[int, list[tuple[Block, int | None]]]()
    for block, label in zip(blocks, states.of_block, strict=True):
        by_case.setdefault(block.case, []).append((block, label))

    counted = dict[int, list[Block]]()
    for case, labelled in by_case.items():
        state = counted_state([label for _, label in labelled], states.longest)
        counted[case] = [block for block, label in labelled if label == state]

    return counted


def costs_in(
    blocks: Sequence[Block], of_block: Sequence[int | None], state: int | None
) -> RoundCosts:
    """The cost in us, above 0, of every block in `state` of the link, by case and round."""
    costs_us: dict[int, dict[int, float]] = {}
    for block, state_of_block in zip(blocks, of_block, strict=True):
        if state_of_block == state and block.cost_us > 0:
            costs_us.setdefault(block.case, {})[block.round] = block.cost_us

    return costs_us


def paired(first: Rounds, second: Rounds) -> NDArray[np.float64]:
    """Two costs in their common rounds, in order: shape (2, rounds)."""
    rounds = sorted(first.keys() & second.keys())
    return np.array([[costs_us[number] for number in rounds] for costs_us in (first, second)])


def work_of(case: Case) -> str:
    """The work of a case without its algorithm: cases with equal work are comparable."""
    return repr(
        (case.collective, case.shape, case.size_bytes, case.datatype, case.redop, case.mode)
    )


def describe_wrong(wrong: FirstWrong) -> str:
    """`rank 1 got 13.0 (0x41500000) at offset 1184, element 296; 12.0 (0x41400000) expected`."""
    return (
        f"rank {wrong.rank} {wrong.did} {wrong.got} at offset {wrong.offset_bytes}, "
        f"element {wrong.element}; {wrong.expected} expected"
    )


def where_wrong(blocks: Iterable[Block]) -> tuple[int, str] | None:
    """The case and a description of the first wrong element in these blocks, if any."""
    for block in blocks:
        if block.first_wrong:
            return block.case, f"block {block.block}: {describe_wrong(block.first_wrong)}"

    return None


def late_us(shape: Any) -> float:
    """The deliberate delay of one rank (`--arrival-skew`), in microseconds."""
    return float((shape or {}).get("arrival_skew_us", 0))


def bus_factor(collective: str, world_size: int) -> float:
    """busbw / algbw; 0 for one rank, an unknown number of them, and other work than moving data."""
    known = world_size > 1 and collective in BUS_FACTORS
    return BUS_FACTORS[collective](world_size) if known else 0.0


def case_bus_factor(case: Case, world_size: int) -> float:
    """A routed all-to-all counts the bytes that leave the rank with the most traffic."""
    if case.routing is None:
        return bus_factor(case.collective, world_size)

    return float(max(case.routing["leaving_bytes"]) / max(case.size_bytes, 1))
