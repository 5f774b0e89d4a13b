"""All-gather: each rank's segment to every rank, directly or around a ring; see kernels/allgather.cu."""

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
    # A half holds two chunks of each segment that is kept there: pushed, everyone's; in a ring, one a stage.
    places = {"all_gather_push": ranks, "all_gather_pull": 1, "all_gather_ring": max(1, ranks - 1)}[entry]
    return bind_kernel(world, case, "allgather", entry, HALF_BYTES / (2 * places))


PUSH = Algorithm("direct_push", "each rank stores its segment into every peer's slab",
                 partial(_bind, "all_gather_push"), direct_traffic, pushes=True)
PULL = Algorithm("direct_pull", "each rank stores its segment into its own slab, and all read it",
                 partial(_bind, "all_gather_pull"), partial(direct_traffic, stored=1), copied_or_registered)
RING = Algorithm("ring", "segments go round, each rank to its right", partial(_bind, "all_gather_ring"), ring_traffic,
                 pushes=True)
ALGORITHMS = (PUSH, PULL, RING)
