"""Two-shot all-reduce: a direct reduce-scatter and a direct all-gather; see kernels/allreduce_two_shot.cu."""

from collectives.operation import (
    Algorithm,
    Case,
    Operation,
    Traffic,
    Unsupported,
    World,
    bind_kernel,
    copied_or_registered,
)
from collectives.peer_buffer import HALF_BYTES


def _bind(world: World, case: Case) -> Operation | Unsupported:
    # A half holds two chunks and two segments of sums, each rounded up to whole packs.
    ranks = world.communicator.size
    return bind_kernel(world, case, "allreduce_two_shot", "two_shot", (HALF_BYTES - 4096) / (2 + 2 / ranks))


def _traffic(ranks: int, case: Case) -> Traffic:
    own = case.segment_bytes // ranks
    others = case.segment_bytes - own
    handed_over = () if case.variant == "registered" else ((others, 0),)
    return Traffic(2, (*handed_over, (own, others), (0, others)) if ranks > 1 else (), case.segment_bytes)


TWO_SHOT = Algorithm("two_shot", "each rank sums one segment of all inputs, then reads the other segments' sums",
                     _bind, _traffic, copied_or_registered)
