"""Reduce-scatter: the sum of all ranks' segment r to rank r. See kernels/reduce_scatter.cu.
Each sum is rounded to the datatype once."""

from collectives.exchange import exchange_forms

ALGORITHMS = {
    "reduce_scatter": exchange_forms(
        "reduce_scatter",
        "reduce_scatter",
        "each rank stores every segment into its owner's slab; owners sum",
        "each rank stores all segments into its own slab; owners read and sum",
        sums_in_rank_order=True,
    )
}
