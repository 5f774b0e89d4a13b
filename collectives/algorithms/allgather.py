"""All-gather: each rank's segment to every rank. See kernels/allgather.cu."""

from functools import partial

from collectives.binding import binder
from collectives.operation import KernelAlgorithm
from collectives.traffic import direct_traffic, ring_traffic

PUSH = KernelAlgorithm(
    "direct_push",
    "each rank stores its segment into every peer's slab",
    binder("allgather", "all_gather_push", lambda ranks: 2 * ranks),
    direct_traffic,
    pushes=True,
    varies=("stores", "chunks", "grid"),
)
PULL = KernelAlgorithm(
    "direct_pull",
    "each rank stores its segment into its own slab; all ranks read it",
    binder("allgather", "all_gather_pull", lambda ranks: 2),
    partial(direct_traffic, copies=1),
    variants=("copied", "registered"),
    varies=("stores", "chunks", "grid"),
)
RING = KernelAlgorithm(
    "ring",
    "segments travel around the ring",
    binder("allgather", "all_gather_ring", lambda ranks: 2 * max(1, ranks - 1)),
    ring_traffic,
    pushes=True,
    varies=("stores", "chunks", "grid"),
    is_modelled=False,
)
ALGORITHMS = {"all_gather": (PUSH, PULL, RING)}
