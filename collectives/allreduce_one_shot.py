"""One-shot all-reduce: every rank reads every input. See kernels/allreduce_one_shot.cu."""

from functools import partial

from collectives.operation import Algorithm, Bound, Case, Unsupported, World, binder
from collectives.traffic import direct_traffic


def _bind_pull(world: World, case: Case) -> Bound:
    if case.in_place and case.variant == "registered":
        return Unsupported("in place a result would overwrite inputs that peers have yet to read")
    return binder("allreduce_one_shot", "one_shot_pull", lambda ranks: 2)(world, case)


PUSH = Algorithm(
    "one_shot_push",
    "each rank stores its input into every peer's slab and sums all",
    binder("allreduce_one_shot", "one_shot_push", lambda ranks: 2 * ranks),
    direct_traffic,
    pushes=True,
)
PULL = Algorithm(
    "one_shot_pull",
    "each rank stores its input into its own slab, reads every peer's and sums all",
    _bind_pull,
    partial(direct_traffic, copies=1),
    registered=True,
)
