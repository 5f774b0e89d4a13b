"""One-shot all-reduce: every rank reads every input. See kernels/allreduce_one_shot.cu.

Wins for short messages (copied, collectives/tables/), as one step costs half a round trip less than
two: between two cores of a CPU up to 4 to 256 KiB, the longer their round trip the longer the
message; among four ranks on two cores up to 16 KiB; between two ranks on one GPU up to 4 MiB, in
chains 32 MiB, and through host memory 1 MiB. None of these is of two GPUs."""

from dataclasses import replace

from collectives.exchange import exchange_forms
from collectives.operation import CollectiveCase, Limits, Unsupported, World


def _wins_below(world: World) -> int:
    """Two GPUs move as many bytes as in two shots, with a flag less, and a pass through their own
    memory more: how long that takes is for the model and bench.tune to say."""
    is_pair = world.ranks == 2 and not world.device.is_cpu
    return (32 << 20) + 1 if is_pair else 4 << 20


def _refuses_in_place(world: World, case: CollectiveCase) -> Unsupported | None:
    if case.in_place and case.variant == "registered":
        return Unsupported("in place a result would overwrite inputs that peers have yet to read")
    return None


PUSH, PULL = exchange_forms(
    "allreduce_one_shot",
    "one_shot",
    "each rank stores its input into every peer's slab and sums all",
    "each rank stores its input into its own slab, reads every peer's and sums all",
    shares_slot=True,
    base="one_shot",
    varies=("grid", "slabs"),
    refuses=_refuses_in_place,
    limits=Limits(wins_below=_wins_below),
    sums_in_rank_order=True,
)
ALGORITHMS = {
    "all_reduce": (
        replace(PUSH, formulas=("parts", "wire")),
        replace(PULL, formulas=("parts",)),
    )
}
