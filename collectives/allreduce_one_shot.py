"""One-shot all-reduce: every rank reads every input; see kernels/allreduce_one_shot.cu."""

from functools import partial

from collectives.operation import Algorithm, Case, Operation, Traffic, Unsupported, World, bind_kernel, chunk_that_fits
from collectives.peer_buffer import HALF_BYTES


def _bind(entry: str, world: World, case: Case) -> Operation | Unsupported:
    writers = world.communicator.size if entry == "one_shot_push" else 1
    chunk_bytes = chunk_that_fits(world, HALF_BYTES / (2 * writers))
    return bind_kernel(world, case, "allreduce_one_shot", entry, chunk_bytes)


def _traffic(copies: bool, ranks: int, size_bytes: int) -> Traffic:
    copied = (ranks - 1 if copies else min(1, ranks - 1)) * size_bytes
    return Traffic(1, ((copied, 0), (0, (ranks - 1) * size_bytes)), size_bytes)


PUSH = Algorithm(
    "one_shot_push",
    "each rank stores its input into every peer's slab and sums all",
    partial(_bind, "one_shot_push"),
    partial(_traffic, True),
    pushes=True,
)
PULL = Algorithm(
    "one_shot_pull",
    "each rank stores its input into its own slab, reads every peer's and sums all",
    partial(_bind, "one_shot_pull"),
    partial(_traffic, False),
)
