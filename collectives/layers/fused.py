"""Compute fused with a collective: RMSNorm after an all-reduce, and a GEMV before one; also the
compute alone. `stable` has the same with bits that do not depend on the number of ranks, and
`fused_forms` a table of all forms."""

from ctypes import c_double, c_long, c_void_p
from dataclasses import dataclass, replace

import numpy as np

from collectives.binding import beyond_slab, launch_gemv, launch_with, set_chunk
from collectives.collective import COLLECTIVES, DATATYPES, Array, Collective, Datatype
from collectives.operation import NOT_MAPPED, Bound, CollectiveCase, Unsupported, World
from kernels.devices.device import Arguments
from kernels.devices.layout import Shared

EPSILON = 1e-5
WEIGHTS = {name: DATATYPES[name] for name in ("float16", "bfloat16", "int8")}
COLLECTIVE = {
    name: replace(COLLECTIVES["all_reduce"], name=name)
    for name in ("allreduce_rmsnorm", "gemv_allreduce")
}
NORM_PUSH = "fused_push"


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
        if too_short := set_chunk(world, case, arguments, slots, row_bytes):
            return too_short
    # A block handles whole tokens.
    blocks = min(structure.tokens, world.device.blocks_for(1 << 30))
    bound = launch_with(world, case, arguments, structure, "allreduce_rmsnorm", entry, blocks)
    return replace(bound, choice=choice)


def gemv(world: World, case: GemvCase, fused: bool = False) -> Bound:
    """This rank's products; `fused`: in one launch with their all-reduce, which all ranks call.
    Raises DeviceError and Refusal as `norm` does."""
    world = world.node or world
    if fused and (refused := beyond_slab(world, world.ranks, case.segment_bytes)):
        return refused
    return launch_gemv(world, case, "gemv_allreduce", "gemv_allreduce" if fused else "gemv")


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
