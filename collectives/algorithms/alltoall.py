"""All-to-all: a segment from every rank to every rank. See kernels/alltoall.cu."""

from collectives.binding import binder
from collectives.operation import KernelAlgorithm
from collectives.traffic import direct_traffic

ALGORITHMS = {
    "alltoall": (
        KernelAlgorithm(
            "direct_push",
            "each rank stores every segment into its reader's slab",
            binder("alltoall", "all_to_all_push", lambda ranks: 2 * ranks),
            direct_traffic,
            pushes=True,
            varies=("stores", "chunks", "grid"),
        ),
        KernelAlgorithm(
            "direct_pull",
            "each rank stores all segments into its own slab; their readers fetch them",
            binder("alltoall", "all_to_all_pull", lambda ranks: 2 * ranks),
            direct_traffic,
            variants=("copied", "registered"),
            varies=("stores", "chunks", "grid"),
        ),
    )
}
