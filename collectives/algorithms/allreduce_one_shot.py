"""One-shot all-reduce: every rank reads every input. See kernels/allreduce_one_shot.cu.

Wins for short messages: one step costs half a round trip less than two."""

from functools import partial

from collectives.binding import binder
from collectives.operation import CollectiveCase, KernelAlgorithm, Limits, Unsupported, World
from collectives.traffic import direct_traffic


def _refuses_in_place(world: World, case: CollectiveCase) -> Unsupported | None:
    if case.in_place and case.variant == "registered":
        return Unsupported("in place a result would overwrite inputs that peers have yet to read")
    return None


in_one_shot = partial(
    KernelAlgorithm,
    varies=("grid", "slabs"),
    # Two ranks move as many bytes as in two shots, with a flag less.
    limits=Limits(wins_below=4 << 20, pair_wins_below=(32 << 20) + 1),
    sums_in_rank_order=True,
)
PUSH = in_one_shot(
    "one_shot_push",
    "each rank stores its input into every peer's slab and sums all",
    binder("allreduce_one_shot", "one_shot_push", lambda ranks: 2 * ranks),
    direct_traffic,
    pushes=True,
)
PULL = in_one_shot(
    "one_shot_pull",
    "each rank stores its input into its own slab, reads every peer's and sums all",
    binder("allreduce_one_shot", "one_shot_pull", lambda ranks: 2),
    partial(direct_traffic, copies=1),
    _refuses_in_place,
    variants=("copied", "registered"),
)
ALGORITHMS = {"all_reduce": (PUSH, PULL)}
