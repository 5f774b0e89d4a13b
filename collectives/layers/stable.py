"""RMSNorm after an all-reduce, and a GEMV before one, with the same bits at 1, 2, 4 and 8 ranks, on
every grid and machine: kernels/include/leaves.h and stable_norm.h have the order of the sums, and
docs/layers.md says what they cost."""

from functools import partial
from typing import Any

from collectives.binding import beyond_slab, launch_gemv, launch_with, set_chunk
from collectives.layers.fused import EPSILON, WEIGHTS, GemvCase, NormCase
from collectives.operation import Bound, KernelAlgorithm, Unsupported, World
from wiretax.record.case import FUSED_STABLE

LEAVES = 8  # of a sum with the same bits on all numbers of ranks: see leaves.h
GROUP_THREADS = 32  # of a GPU, that compute a tile there


def uneven_leaves(world: World) -> Unsupported | None:
    if LEAVES % world.ranks == 0:
        return None
    return Unsupported(
        f"{world.ranks} ranks cannot share the {LEAVES} leaves of a sum: it takes 1, 2, 4 or 8"
    )


def norm_stable(world: World, case: NormCase, sums: int | None = None) -> Bound:
    """As `fused.norm`, in the order of stable_norm.h: of the sums at an address, or of all ranks'
    parts, fp32 subtrees of leaves.h at `case.send`, which it scales by the norm's `row_scales`, if
    there are any, and rounds to the datatype. All ranks call it. Raises DeviceError and Refusal as
    `norm` does."""
    world, structure = world.node or world, case.norm
    if refused := uneven_leaves(world):
        return refused
    structure.tokens, structure.epsilon = case.count // structure.hidden, EPSILON
    arguments = world.mapped.arguments(sums or case.send, case.receive, case.count)
    if sums is None and (
        refused := set_chunk(world, case, arguments, 2 * world.ranks, 4 * structure.hidden)
    ):
        return refused
    return launch_with(
        world,
        case,
        arguments,
        structure,
        "allreduce_rmsnorm_stable",
        "allreduce_rmsnorm_stable" if sums is None else "add_rmsnorm_stable",
        min(structure.tokens, world.device.blocks_for(1 << 30)),
        WT_WEIGHT=WEIGHTS["int8" if structure.row_scales else "float16"].element,
    )


def norm_of_fp32(world: World, case: Any) -> Bound:
    """The whole fused operation of parts that are fp32 already."""
    if case.datatype.name != "float32":
        return Unsupported(
            f"its parts are fp32, and these are {case.datatype.name}: take -d float, or "
            "bench.decode, where a GEMV makes the parts"
        )
    return norm_stable(world, case)


def gemv_stable(world: World, case: GemvCase, fused: bool = False) -> Bound:
    """This rank's products in the order of leaves.h, as fp32 and not yet scaled, at `case.send`;
    `fused`: in one launch with their all-reduce, which all ranks call. Raises DeviceError and
    Refusal as `norm` does."""
    world = world.node or world
    if refused := uneven_leaves(world):
        return refused
    if not world.device.is_cpu and world.device.threads % GROUP_THREADS:
        return Unsupported(
            f"a block of {world.device.threads} threads does not consist of groups of "
            f"{GROUP_THREADS}, which sum in the stable order"
        )
    if fused and (refused := beyond_slab(world, world.ranks, 4 * case.count)):
        return refused
    entry = "gemv_allreduce_stable" if fused else "gemv_stable"
    return launch_gemv(world, case, "gemv_allreduce_stable", entry)


FORMS = {
    "allreduce_rmsnorm": KernelAlgorithm(
        FUSED_STABLE,
        "both at once, of fp32 parts, with the same bits at 1, 2, 4 and 8 ranks",
        norm_of_fp32,
        pushes=True,
    ),
    "gemv_allreduce": KernelAlgorithm(
        FUSED_STABLE,
        "both at once, with the same bits at 1, 2, 4 and 8 ranks",
        partial(gemv_stable, fused=True),
        pushes=True,
    ),
}
