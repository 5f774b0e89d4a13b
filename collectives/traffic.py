"""The least that a collective costs a rank, for the bound of its time."""

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
