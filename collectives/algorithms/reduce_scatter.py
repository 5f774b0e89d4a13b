"""Reduce-scatter: the sum of all ranks' segment r to rank r. See kernels/reduce_scatter.cu. The
direct forms round to the datatype once, the ring once a hop, so at most n-1 times."""

from collectives.exchange import exchange_forms

ALGORITHMS = {
    "reduce_scatter": exchange_forms(
        "reduce_scatter",
        "reduce_scatter",
        {
            "direct_push": "each rank stores every segment into its owner's slab; owners sum",
            "direct_pull": "each rank stores all segments into its own slab; owners read and sum",
            "ring": "partial sums travel around the ring",
        },
        sums=True,
    )
}
