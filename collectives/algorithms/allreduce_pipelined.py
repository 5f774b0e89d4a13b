"""One-shot all-reduce in which some blocks of a GPU give chunks while others take them. See
kernels/allreduce_one_shot_pipelined.cu.

Meant for long messages over a wire, above all between two GPUs, where a rank sends as much as in
two shots. It is not modelled: `auto` takes it where a table has measured it."""

import math
from dataclasses import replace

from collectives.binding import bind_kernel, slab_macros
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

CHUNK_BYTES = 512 << 10  # costs a flag each way; of a message's chunks one does not overlap


def _refuses(world: World, case: CollectiveCase) -> Unsupported | None:
    if world.device.blocks_for(CHUNK_BYTES) > 1:
        return None
    return Unsupported("it needs two blocks at once", depends_on_size=True)


def _perform(world: World, case: CollectiveCase) -> Bound:
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


PIPELINED = KernelAlgorithm(
    "one_shot_pipelined",
    "one_shot_push in short chunks: half of the blocks store while the others sum",
    _perform,
    direct_traffic,
    _refuses,
    limits=Limits(wins_below=4 << 20, pair_wins_below=math.inf),
    is_modelled=False,
    sums_in_rank_order=True,
    pushes=True,
    swaps=(),
    varies=("stores", "chunks", "grid"),
)
ALGORITHMS = {"all_reduce": (PIPELINED,)}
