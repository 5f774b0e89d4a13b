"""One-shot all-reduce: every rank reads every input. See kernels/allreduce_one_shot.cu.

Wins for short messages: one step costs half a round trip less than two. In `one_shot_pipelined`
some blocks of a GPU give chunks while others take them (kernels/allreduce_one_shot_pipelined.cu).
It is meant for long messages over a wire, above all between two GPUs, where a rank sends as much as
in two shots. It is not modelled: `auto` takes it where a table has measured it."""

import math
from dataclasses import replace
from functools import partial

from collectives.binding import bind_kernel, binder, slab_macros
from collectives.operation import (
    Bound,
    CollectiveCase,
    KernelAlgorithm,
    Limits,
    Operation,
    Unsupported,
    World,
)
from collectives.traffic import direct_traffic

WINS_BELOW = 4 << 20
# Two ranks move as many bytes as in two shots, with a flag less.
PAIR_WINS_BELOW = (32 << 20) + 1
LIMITS = Limits(wins_below=WINS_BELOW, pair_wins_below=PAIR_WINS_BELOW)
CHUNK_BYTES = 512 << 10  # costs a flag each way; of a message's chunks one does not overlap


def _refuses_in_place(world: World, case: CollectiveCase) -> Unsupported | None:
    if case.in_place and case.variant == "registered":
        return Unsupported("in place a result would overwrite inputs that peers have yet to read")
    return None


def _refuses_one_block(world: World, case: CollectiveCase) -> Unsupported | None:
    if world.device.blocks_for(CHUNK_BYTES) > 1:
        return None
    return Unsupported("it needs two blocks at once", depends_on_size=True)


def _pipelined(world: World, case: CollectiveCase) -> Bound:
    room_bytes = world.mapped.half_bytes / (2 * world.communicator.size)
    bound = bind_kernel(
        world,
        case,
        "allreduce_one_shot_pipelined",
        "one_shot_pipelined",
        min(room_bytes, case.build.chunk_bytes or CHUNK_BYTES),
        **slab_macros(world, case),
    )
    if isinstance(bound, Operation):
        blocks = max(2, bound.step.blocks // 2 * 2)
        bound = replace(bound, step=replace(bound.step, blocks=blocks))
    return bound


PUSH = KernelAlgorithm(
    "one_shot_push",
    "each rank stores its input into every peer's slab and sums all",
    binder("allreduce_one_shot", "one_shot_push", lambda ranks: 2 * ranks),
    direct_traffic,
    pushes=True,
    varies=("grid", "slabs"),
    limits=LIMITS,
    sums_in_rank_order=True,
)
PULL = KernelAlgorithm(
    "one_shot_pull",
    "each rank stores its input into its own slab, reads every peer's and sums all",
    binder("allreduce_one_shot", "one_shot_pull", lambda ranks: 2),
    partial(direct_traffic, copies=1),
    _refuses_in_place,
    variants=("copied", "registered"),
    varies=("grid", "slabs"),
    limits=LIMITS,
    sums_in_rank_order=True,
)
PIPELINED = replace(
    PUSH,
    base="one_shot_pipelined",
    about="one_shot_push in short chunks: half of the blocks store while the others sum",
    perform=_pipelined,
    refuses=_refuses_one_block,
    limits=Limits(wins_below=WINS_BELOW, pair_wins_below=math.inf),
    is_modelled=False,
    swaps=(),
    varies=("stores", "chunks", "grid"),
)
ALGORITHMS = {"all_reduce": (PUSH, PULL, PIPELINED)}
