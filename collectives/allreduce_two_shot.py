"""Two-shot all-reduce: a direct reduce-scatter and a direct all-gather; see kernels/allreduce_two_shot.cu."""

from collectives.operation import Algorithm, Case, Operation, Traffic, Unsupported, World, bind_kernel, chunk_that_fits
from collectives.peer_buffer import HALF_BYTES


def _bind(world: World, case: Case) -> Operation | Unsupported:
    # A half holds two chunks and two segments of sums, each rounded up to whole packs.
    ranks = world.communicator.size
    chunk_bytes = chunk_that_fits(world, (HALF_BYTES - 4096) / (2 + 2 / ranks))
    return bind_kernel(world, case, "allreduce_two_shot", "two_shot", chunk_bytes)


def _traffic(ranks: int, size_bytes: int) -> Traffic:
    own = size_bytes // ranks
    others = size_bytes - own
    return Traffic(2, ((others, 0), (own, others), (0, others)) if ranks > 1 else (), size_bytes)


TWO_SHOT = Algorithm(
    "two_shot",
    "each rank sums one segment of all inputs, then reads the other segments' sums",
    _bind,
    _traffic,
)
