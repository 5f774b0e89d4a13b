"""All-gather: each rank's segment to every rank. See kernels/allgather.cu."""

from collectives.exchange import exchange_forms

ALGORITHMS = {
    "all_gather": exchange_forms(
        "allgather",
        "all_gather",
        "each rank stores its segment into every peer's slab",
        "each rank stores its segment into its own slab; all ranks read it",
        shares_slot=True,
    )
}
