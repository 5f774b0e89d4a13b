"""All-to-all: a segment from every rank to every rank. See kernels/alltoall.cu."""

from collectives.exchange import exchange_forms

ALGORITHMS = {
    "alltoall": exchange_forms(
        "alltoall",
        "all_to_all",
        "each rank stores every segment into its reader's slab",
        "each rank stores all segments into its own slab; their readers fetch them",
    )
}
