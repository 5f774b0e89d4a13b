"""Reduce-scatter: the sum of all ranks' segment r to rank r, directly or around a ring.

See kernels/reduce_scatter.cu. The ring rounds a sum to the datatype once a hop, so its error is at
most n-1 roundings; the direct forms round once.
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
    segments = max(1, ranks - 1) if entry == "reduce_scatter_ring" else ranks
    return bind_kernel(world, case, "reduce_scatter", entry, HALF_BYTES / (2 * segments))


PUSH = Algorithm(
    "direct_push", "each rank stores every segment into its owner's slab; owners sum",
    partial(_bind, "reduce_scatter_push"), direct_traffic, pushes=True)
PULL = Algorithm(
    "direct_pull", "each rank stores all segments into its own slab; owners read and sum",
    partial(_bind, "reduce_scatter_pull"), direct_traffic, copied_or_registered)
RING = Algorithm(
    "ring", "partial sums travel around the ring", partial(_bind, "reduce_scatter_ring"),
    ring_traffic, pushes=True)
ALGORITHMS = (PUSH, PULL, RING)
