"""All-to-all: a segment from every rank to every rank. See kernels/alltoall.cu."""

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
    return bind_kernel(world, case, "alltoall", entry, HALF_BYTES / (2 * world.communicator.size))


PUSH = Algorithm(
    "direct_push", "each rank stores every segment into its reader's slab",
    partial(_bind, "all_to_all_push"), direct_traffic, pushes=True)
PULL = Algorithm(
    "direct_pull", "each rank stores all segments into its own slab; their readers fetch them",
    partial(_bind, "all_to_all_pull"), direct_traffic, copied_or_registered)
ALGORITHMS = (PUSH, PULL)
