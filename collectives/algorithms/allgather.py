"""All-gather: each rank's segment to every rank. See kernels/allgather.cu."""

from collectives.exchange import exchange_forms

ALGORITHMS = {
    "all_gather": exchange_forms(
        "allgather",
        "all_gather",
        {
            "direct_push": "each rank stores its segment into every peer's slab",
            "direct_pull": "each rank stores its segment into its own slab; all ranks read it",
            "ring": "segments travel around the ring",
        },
        shares_slot=True,
    )
}
