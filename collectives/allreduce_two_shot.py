"""Two-shot all-reduce: a direct reduce-scatter, then a direct all-gather.

See kernels/allreduce_two_shot.cu.
"""

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
    room_bytes = (HALF_BYTES - 4096) / (2 + 2 / world.communicator.size)
    return bind_kernel(world, case, "allreduce_two_shot", "two_shot", room_bytes)


def _traffic(ranks: int, case: Case) -> Traffic:
    own = case.segment_bytes // ranks
    others = case.segment_bytes - own
    copy_in = () if case.variant == "registered" else ((others, 0),)
    stages = (*copy_in, (own, others), (0, others)) if ranks > 1 else ()
    return Traffic(2, stages, case.segment_bytes)


TWO_SHOT = Algorithm(
    "two_shot", "each rank sums one segment of all inputs, then reads the other segments' sums",
    _bind, _traffic, copied_or_registered)
