"""Reduce-scatter: the sum of all ranks' segment r to rank r. See kernels/reduce_scatter.cu. The
direct forms round to the datatype once, the ring once a hop, so at most n-1 times."""

from collectives.binding import binder
from collectives.operation import KernelAlgorithm
from collectives.traffic import direct_traffic, ring_traffic

PUSH = KernelAlgorithm(
    "direct_push",
    "each rank stores every segment into its owner's slab; owners sum",
    binder("reduce_scatter", "reduce_scatter_push", lambda ranks: 2 * ranks),
    direct_traffic,
    pushes=True,
    varies=("stores", "chunks", "grid"),
    sums_in_rank_order=True,
)
PULL = KernelAlgorithm(
    "direct_pull",
    "each rank stores all segments into its own slab; owners read and sum",
    binder("reduce_scatter", "reduce_scatter_pull", lambda ranks: 2 * ranks),
    direct_traffic,
    variants=("copied", "registered"),
    varies=("stores", "chunks", "grid"),
    sums_in_rank_order=True,
)
RING = KernelAlgorithm(
    "ring",
    "partial sums travel around the ring",
    binder("reduce_scatter", "reduce_scatter_ring", lambda ranks: 2 * max(1, ranks - 1)),
    ring_traffic,
    pushes=True,
    varies=("stores", "chunks", "grid"),
    is_modelled=False,
)
ALGORITHMS = {"reduce_scatter": (PUSH, PULL, RING)}
