"""The least that a collective costs a rank, for the bound of its time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collectives.operation import Case


@dataclass(frozen=True)
class Traffic:
    """The least that a collective costs a rank: flags in a row; for each stage the bytes copied
    into peer memory and read from it; bytes copied from send to receive buffer."""

    hops: int
    stages: tuple[tuple[int, int], ...]
    memory_bytes: int


def direct_traffic(ranks: int, case: "Case", copies: int | None = None) -> Traffic:
    """One step in which a rank gets a segment from every other. It stores `copies` (default: one a
    peer); over registered buffers none, and a second flag tells that these are free again."""
    segment, others = case.segment_bytes, ranks - 1
    if case.variant == "registered":
        return Traffic(2, ((0, others * segment),), segment)
    copied = min(others if copies is None else copies, others) * segment
    return Traffic(1, ((copied, 0), (0, others * segment)), segment)


def ring_traffic(ranks: int, case: "Case") -> Traffic:
    """Segments that go once around a ring."""
    segment, hops = case.segment_bytes, ranks - 1
    forwarded = [(segment, segment)] * (hops - 1)
    return Traffic(hops, ((segment, 0), *forwarded, (0, segment)) if hops else (), segment)


def between_bytes(nodes: Sequence[Sequence[int]], case: "Case") -> int | None:
    """The least that the busiest host must send or receive; `nodes` are the ranks of each host.
    None for collectives whose least is unknown."""
    hosts, segment, collective = len(nodes), case.segment_bytes, case.collective
    if not collective.cut and collective.reduces:
        return collective.least_bytes(segment, hosts)[0]
    if collective.sends_all != collective.receives_all:  # what a host lacks, or gives away
        return (sum(map(len, nodes)) - min(map(len, nodes))) * segment
    return None
