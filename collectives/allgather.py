"""All-gather: each rank's segment to every rank, directly or around a ring.

See kernels/allgather.cu.
"""

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
    ring_traffic,
)
from collectives.peer_buffer import HALF_BYTES


def _bind(entry: str, world: World, case: Case) -> Operation | Unsupported:
    ranks = world.communicator.size
    # A slab's half holds two chunks of each segment in it: pushed, every rank's segment; in a ring,
    # one segment for each stage.
    segments = {"all_gather_push": ranks, "all_gather_pull": 1,
                "all_gather_ring": max(1, ranks - 1)}
    return bind_kernel(world, case, "allgather", entry, HALF_BYTES / (2 * segments[entry]))


PUSH = Algorithm(
    "direct_push", "each rank stores its segment into every peer's slab",
    partial(_bind, "all_gather_push"), direct_traffic, pushes=True)
PULL = Algorithm(
    "direct_pull", "each rank stores its segment into its own slab; all ranks read it",
    partial(_bind, "all_gather_pull"), partial(direct_traffic, copies=1), copied_or_registered)
RING = Algorithm(
    "ring", "segments travel around the ring", partial(_bind, "all_gather_ring"), ring_traffic,
    pushes=True)
ALGORITHMS = (PUSH, PULL, RING)
