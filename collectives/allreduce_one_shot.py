"""One-shot all-reduce: every rank reads every input. See kernels/allreduce_one_shot.cu."""

from functools import partial

from collectives.operation import (
    Algorithm,
    Case,
    Operation,
    Unsupported,
    World,
    bind_kernel,
    copied_or_registered,
    direct_traffic,
)
from collectives.peer_buffer import HALF_BYTES


def _bind(entry: str, world: World, case: Case) -> Operation | Unsupported:
    if case.in_place and case.variant == "registered":
        return Unsupported("in place a result would overwrite inputs that peers have yet to read")
    writers = world.communicator.size if entry == "one_shot_push" else 1
    return bind_kernel(world, case, "allreduce_one_shot", entry, HALF_BYTES / (2 * writers))


PUSH = Algorithm(
    "one_shot_push", "each rank stores its input into every peer's slab and sums all",
    partial(_bind, "one_shot_push"), direct_traffic, pushes=True)
PULL = Algorithm(
    "one_shot_pull",
    "each rank stores its input into its own slab, reads every peer's and sums all",
    partial(_bind, "one_shot_pull"), partial(direct_traffic, copies=1), copied_or_registered)
