"""Compute fused with a collective: RMSNorm after an all-reduce, and a GEMV before one. FUSED has
the forms that `bench.layers` compares: compute alone, in separate launches, and in one launch."""

from collections.abc import Callable, Iterable
from ctypes import c_double, c_long, c_void_p
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from collectives.binding import chunk_that_fits, launch_gemv, launch_with, row_stride, run_sequence
from collectives.collective import COLLECTIVES, DATATYPES, Array, Collective, Datatype
from collectives.operation import (
    NOT_MAPPED,
    Algorithm,
    Bound,
    CollectiveCase,
    KernelAlgorithm,
    Unsupported,
    World,
)
from collectives.registry import ALGORITHMS
from kernels.devices.device import Arguments
from kernels.devices.layout import Shared

LEAVES = 8  # of a sum with the same bits on all numbers of ranks: see leaves.h
GROUP_THREADS = 32  # of a GPU, that compute a tile there
EPSILON = 1e-5
WEIGHTS = {name: DATATYPES[name] for name in ("float16", "bfloat16", "int8")}
COLLECTIVE = {
    name: replace(COLLECTIVES["all_reduce"], name=name)
    for name in ("allreduce_rmsnorm", "gemv_allreduce")
}
NORM_PUSH = "fused_push"
STABLE = "fused_stable"
Bind = Callable[[World, Any], Bound]  # its cases are of one subclass of CollectiveCase
Then = Callable[[Algorithm, World, Any], Bound]


def row_factors(rows: int, seed: int) -> Array:
    """By row of an int8 matrix, a factor of its scale. They differ, so that a product with the
    scale of another row is wrong by a power of two and not only by a few per cent."""
    factors = np.array([1, 2, 4, 8], np.float32)
    return np.asarray(np.random.default_rng(seed).choice(factors, rows))


class Norm(Shared, file="include/norm.h"):
    """The rows that follow an all-reduce."""

    _fields_ = (
        ("ranks", Arguments),
        ("residual", c_void_p),
        ("residual_out", c_void_p),
        ("weight", c_void_p),
        ("row_scales", c_void_p),
        ("hidden", c_long),
        ("tokens", c_long),
        ("epsilon", c_double),
    )


class Gemv(Shared, file="include/gemv.h"):
    """A rank's part of a linear layer."""

    _fields_ = (
        ("ranks", Arguments),
        ("weights", c_void_p),
        ("activations", c_void_p),
        ("row_scales", c_void_p),
        ("hidden", c_long),
        ("inner", c_long),
        ("stride", c_long),
        ("copies", c_long),
    )


@dataclass(frozen=True, kw_only=True)
class NormCase(CollectiveCase):
    """Rows of `norm.hidden` elements, one a token: `send` has this rank's parts of the sums,
    `receive`, which overlaps no other buffer, gets the norm. `norm` has the other addresses, but of
    the sums between a collective and the norm, which lie at `summed`."""

    collective: Collective = COLLECTIVE["allreduce_rmsnorm"]
    redop: str = "sum"
    norm: Norm
    summed: int


@dataclass(frozen=True, kw_only=True)
class GemvCase(CollectiveCase):
    """A matrix of `layer.hidden` rows for some tokens. This rank has `layer.inner` of its columns,
    stored as `weight_type` (one of WEIGHTS); `send` gets its products, `receive` the sums. The
    `copies` of the weights are used in turn, so that weights come from memory as in a model."""

    collective: Collective = COLLECTIVE["gemv_allreduce"]
    redop: str = "sum"
    layer: Gemv
    weight_type: Datatype


def norm(world: World, case: NormCase, sums: int | None = None, pushes: bool = False) -> Bound:
    """Adds the residual to sums, and normalises. All ranks call it. Raises DeviceError, and Refusal
    without mapped memory, of which the compute alone uses this rank's part. Unless it `pushes`,
    rows are pulled where reads of peers' memory are routed.

    | `sums` | variant | kernel |
    |---|---|---|
    | an address | any | add_rmsnorm: of the sums there |
    | None | copied | allreduce_rmsnorm_pull, or _push: of the parts of all ranks, over slabs |
    | None | registered | allreduce_rmsnorm_pull_registered: the same, over the ranks' buffers |
    """
    world, structure = world.node or world, case.norm
    structure.tokens, structure.epsilon = case.count // structure.hidden, EPSILON
    peers, entry, choice = world.mapped, "add_rmsnorm", None
    arguments = peers.arguments(sums or case.send, case.receive, case.count)
    if sums is None and case.variant == "registered":
        entry = "allreduce_rmsnorm_pull_registered"
        if refused := peers.shown.no_reads or peers.shown.no_registered:
            return Unsupported(refused)
        if not peers.locate(case.send, arguments.sends):
            return NOT_MAPPED
    elif sums is None:
        if peers.shown.no_reads and not pushes:
            pushes, choice = True, NORM_PUSH
        entry = "allreduce_rmsnorm_push" if pushes else "allreduce_rmsnorm_pull"
        slots = 2 * world.ranks if pushes else 2  # all readers of a pull share one
        row_bytes = structure.hidden * case.datatype.size_bytes
        arguments.chunk_bytes = chunk_that_fits(world, case, peers.half_bytes / slots)
        if arguments.chunk_bytes < row_stride(row_bytes):
            return Unsupported(
                f"a token's {row_bytes} B are more than a slot of {arguments.chunk_bytes} B",
                depends_on_size=True,
            )
    # A block handles whole tokens.
    blocks = min(structure.tokens, world.device.blocks_for(1 << 30))
    bound = launch_with(world, case, arguments, structure, "allreduce_rmsnorm", entry, blocks)
    return replace(bound, choice=choice)


def _reduce_then_norm(collective: Algorithm, world: World, case: NormCase) -> Bound:
    reduce = collective.bind(world, all_reduce(case, case.send, case.summed))
    return run_sequence(world, [reduce, norm(world, case, case.summed)])


def uneven_leaves(world: World) -> Unsupported | None:
    if LEAVES % world.ranks == 0:
        return None
    return Unsupported(
        f"{world.ranks} ranks cannot share the {LEAVES} leaves of a sum: it takes 1, 2, 4 or 8"
    )


def norm_stable(world: World, case: NormCase, sums: int | None = None) -> Bound:
    """As `norm`, in the order of stable_norm.h: of the sums at an address, or of all ranks' parts,
    fp32 subtrees of leaves.h at `case.send`, which it scales by the norm's `row_scales`, if there
    are any, and rounds to the datatype. All ranks call it. Raises DeviceError and Refusal as `norm`
    does."""
    world, structure = world.node or world, case.norm
    if refused := uneven_leaves(world):
        return refused
    structure.tokens, structure.epsilon = case.count // structure.hidden, EPSILON
    arguments = world.mapped.arguments(sums or case.send, case.receive, case.count)
    row_bytes, slots = 4 * structure.hidden, 2 * world.ranks
    arguments.chunk_bytes = chunk_that_fits(world, case, world.mapped.half_bytes / slots)
    if sums is None and arguments.chunk_bytes < row_stride(row_bytes):
        return Unsupported(
            f"a token's {row_bytes} B are more than a slot of {arguments.chunk_bytes} B",
            depends_on_size=True,
        )
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


def _norm_of_fp32(world: World, case: Any) -> Bound:
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
    parts_bytes = 4 * case.count
    if fused and world.ranks * parts_bytes > world.mapped.half_bytes:
        return Unsupported(
            f"{world.ranks} ranks' parts of {parts_bytes} B do not fit into a slab",
            depends_on_size=True,
        )
    entry = "gemv_allreduce_stable" if fused else "gemv_stable"
    return launch_gemv(world, case, "gemv_allreduce_stable", entry)


def gemv(world: World, case: GemvCase, fused: bool = False) -> Bound:
    """This rank's products; `fused`: in one launch with their all-reduce, which all ranks call.
    Raises DeviceError and Refusal as `norm` does."""
    world = world.node or world
    if fused and world.ranks * case.segment_bytes > world.mapped.half_bytes:
        return Unsupported(
            f"{world.ranks} ranks' parts of {case.segment_bytes} B do not fit into a slab",
            depends_on_size=True,
        )
    return launch_gemv(world, case, "gemv_allreduce", "gemv_allreduce" if fused else "gemv")


def _gemv_then_reduce(collective: Algorithm, world: World, case: GemvCase) -> Bound:
    reduce = collective.bind(world, all_reduce(case, case.send, case.receive))
    return run_sequence(world, [gemv(world, case), reduce])


def all_reduce(case: CollectiveCase, send: int, receive: int) -> CollectiveCase:
    return CollectiveCase(
        COLLECTIVES["all_reduce"],
        case.count,
        case.datatype,
        "sum",
        send,
        receive,
        variant=case.variant,
        build=case.build,
    )


def then_form(algorithm: Algorithm, then: Then) -> Algorithm:
    return replace(
        algorithm,
        base=f"then_{algorithm.base}",
        perform=partial(then, algorithm),
        moves=Algorithm.moves,
        refuses=Algorithm.refuses,  # what it binds has a case of its own
    )


def contender_forms(collective: str, contenders: Iterable[Algorithm]) -> list[Algorithm]:
    """The forms of these contenders: their all-reduce after or before the compute, and those that
    perform the fused collective themselves."""
    listed = list[Algorithm]()
    for contender in contenders:
        if "all_reduce" in contender.contender_collectives:
            listed.append(then_form(contender, THEN[collective]))
        if collective in contender.contender_collectives:
            fused = replace(contender, base=f"fused_{contender.base}", moves=Algorithm.moves)
            listed.append(fused)
    return listed


def forms(
    collective: str,
    alone: Bind,
    then: Then,
    fused: Bind,
    variants: tuple[str, ...] = ("copied", "registered"),
    kind: type[KernelAlgorithm] = KernelAlgorithm,
) -> dict[str, Algorithm]:
    """Compute alone, then each algorithm of a collective, or fused, in these variants. Fused, no
    form reads a peer's memory where such reads are not routed."""
    listed = [
        Algorithm("compute", "compute alone", alone),
        *(
            then_form(algorithm, then)
            for algorithm in ALGORITHMS[collective].values()
            if not algorithm.is_lossy
        ),
        kind(
            "fused",
            "both at once",
            fused,
            variants=variants,
            sums_in_rank_order=True,
            pushes=True,
        ),
    ]
    return {form.base: form for form in listed}


def _pushes_by_default(world: World) -> bool:
    """Cores of a CPU gain nothing by it (docs/layers.md), and where no read is routed `fused` is
    this form."""
    return not world.device.is_cpu and not world.mapped.shown.no_reads


THEN: dict[str, Then] = {
    "allreduce_rmsnorm": _reduce_then_norm,
    "gemv_allreduce": _gemv_then_reduce,
}
FUSED = {
    "allreduce_rmsnorm": forms(
        "all_reduce",
        lambda world, case: norm(world, case, case.send),
        _reduce_then_norm,
        norm,
    ),
    "gemv_allreduce": forms(
        "all_reduce",
        gemv,
        _gemv_then_reduce,
        partial(gemv, fused=True),
        ("copied",),
    ),
}
FUSED["gemv_allreduce"][STABLE] = KernelAlgorithm(
    STABLE,
    "both at once, with the same bits at 1, 2, 4 and 8 ranks",
    partial(gemv_stable, fused=True),
    pushes=True,
)
FUSED["allreduce_rmsnorm"][STABLE] = KernelAlgorithm(
    STABLE,
    "both at once, of fp32 parts, with the same bits at 1, 2, 4 and 8 ranks",
    _norm_of_fp32,
    pushes=True,
)
FUSED["allreduce_rmsnorm"][NORM_PUSH] = KernelAlgorithm(
    NORM_PUSH,
    "both at once; each rank stores its rows into every peer's slab",
    partial(norm, pushes=True),
    sums_in_rank_order=True,
    pushes=True,
    by_default=_pushes_by_default,
)
