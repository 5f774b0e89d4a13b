"""Compute and collective together: what each fused kernel does, the same as compute and then a collective, and the
compute alone. See kernels/allreduce_rmsnorm.cu and kernels/gemv_allreduce.cu."""

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from collectives.algorithm import ALGORITHMS
from collectives.collective import COLLECTIVES, Collective
from collectives.operation import (
    Algorithm,
    Arguments,
    Case,
    Operation,
    Step,
    Unsupported,
    World,
    attached,
    chunk_that_fits,
    copied_or_registered,
    first_failure,
)
from collectives.peer_buffer import HALF_BYTES
from kernels.devices.cpu import CpuDevice
from kernels.devices.device import Gemv, Kernel, LibraryCall, Norm

ROW_ALIGNMENT = 64  # of a row in a slab
# Of a block before it signals: on a GPU tiles of as many threads, so that a segment of 4096 rows occupies 128 blocks. A
# CPU goes through a segment at once: each flag more cost 0.2 to 0.4 us.
BLOCK_ROWS, BLOCK_THREADS = 32, 256
EPSILON = 1e-5


@dataclass(frozen=True)
class NormCase(Case):
    """All tokens' rows of `hidden` elements: `send` has this rank's parts; `receive` gets what is normed. Addresses; in
    `summed` the sums lie between a collective and the norm. `quantized` (of OUTPUTS): what is normed is also written to
    `codes`, a byte each, at an address that 64 divides, with a float32 a token in `scales`."""

    hidden: int = field(kw_only=True)
    residual: int = field(kw_only=True)
    residual_out: int = field(kw_only=True)
    weight: int = field(kw_only=True)
    summed: int = field(kw_only=True)
    quantized: str | None = None
    codes: int = 0
    scales: int = 0


@dataclass(frozen=True)
class GemvCase(Case):
    """A matrix of `hidden` rows, of which this rank has `inner` columns as `weight_type` (of WEIGHTS), for `tokens`:
    `send` gets this rank's parts and `receive` their sums. Addresses; there are `copies` of the weights, taken in
    turn, so that they come from memory as in a model."""

    hidden: int = field(kw_only=True)
    inner: int = field(kw_only=True)
    tokens: int = field(kw_only=True)
    weight_type: str = field(kw_only=True)
    weights: int = field(kw_only=True)
    row_scales: int = field(kw_only=True)
    activations: int = field(kw_only=True)
    stride: int = field(kw_only=True)  # elements from a token's activations to the next one's
    copies: int = field(kw_only=True)


TITLES = {"allreduce_rmsnorm": "All-reduce + residual + RMSNorm", "gemv_allreduce": "GEMV + all-reduce"}
COLLECTIVE = {name: Collective(name, title, lambda sent, _, combine: np.stack([combine(sent)] * len(sent)), cut=False,
                               reduces=True) for name, title in TITLES.items()}
CODES_AT_ONCE = 64  # two of the widest packs
OUTPUTS = {"int8": "Int8Output", "fp8": "E4m3Output"}
WEIGHTS = {"float16": "Float16Weights", "bfloat16": "Bfloat16Weights", "int8": "Int8Weights"}


def in_a_row(world: World, operations: Sequence[Operation]) -> Operation:
    """One operation after another, as one."""
    steps, chain = [operation.step for operation in operations], list[LibraryCall]()
    if isinstance(world.device, CpuDevice):
        chain += [LibraryCall(kernel=step.kernel.function, argument=ctypes.addressof(step.argument)) for step in steps]
        for one, after in pairwise(chain):
            one.after = ctypes.addressof(after)
        whole = Step(world.device.host_kernel("call_library"), chain[0])
    else:
        def enqueue(blocks: int, argument: Any) -> None:
            for step in steps:
                step.kernel.function(step.blocks, step.argument)

        whole = Step(Kernel("operations in a row", enqueue), None, entries=sum(step.entries for step in steps))

    def call() -> None:
        for operation in operations:
            operation.call()

    return Operation(whole, call, failure=partial(first_failure, operations), keep=[chain, operations])


def _arguments(world: World, case: Case, send: int, chunk_bytes: int = 0) -> Arguments:
    assert not isinstance(world.peers, Unsupported), "a fused benchmark begins with mapped memory"
    return world.peers.arguments(send, case.receive, case.count, chunk_bytes)


def _launch(world: World, case: Case, stem: str, entry: str, macros: dict[str, str], arguments: Arguments,
            structure: Norm | Gemv, blocks: int, threads: int | None = None) -> Operation:
    macros = {"WORLD": str(min(world.communicator.size, 8)), "ELEMENT": case.datatype.element, **macros}
    if case.build.stream_slab:
        macros["STREAM_SLAB"] = "1"
    module = world.device.compile(stem, macros | dict(world.macros))
    memory = attached(world, arguments, structure)
    step = Step(module.kernel(entry, threads), arguments, blocks)
    return Operation(step, world.device.caller(step), keep=memory)


def norm(world: World, case: NormCase, entry: str, send: int, chunk_bytes: int = 0) -> Operation | Unsupported:
    """A launch of allreduce_rmsnorm.cu, of which each block takes whole tokens."""
    tokens, row_bytes = case.count // case.hidden, case.hidden * case.datatype.size_bytes
    step_tokens = chunk_bytes // (-(-row_bytes // ROW_ALIGNMENT) * ROW_ALIGNMENT)
    if chunk_bytes and not step_tokens:
        return Unsupported(f"a token's {row_bytes} B are more than a slot of {chunk_bytes} B", of_size=True)
    if case.quantized and case.hidden % CODES_AT_ONCE:
        return Unsupported(f"a token is quantised {CODES_AT_ONCE} elements at a time, which do not divide "
                           f"{case.hidden}")
    arguments = _arguments(world, case, send, chunk_bytes)
    if case.variant == "registered":
        assert not isinstance(world.peers, Unsupported)
        if (sends := world.peers.everyones(world.communicator, case.send)) is None:
            return Unsupported("its buffers are not mapped by the other ranks")
        arguments.sends[: len(sends)] = sends
    blocks = min(tokens, world.device.blocks_for(1 << 30))
    structure = Norm(residual=case.residual, residual_out=case.residual_out, weight=case.weight, codes=case.codes,
                     scales=case.scales, hidden=case.hidden, tokens=tokens, step_tokens=step_tokens, epsilon=EPSILON)
    macros = {"OUTPUT": OUTPUTS[case.quantized]} if case.quantized else {}
    return _launch(world, case, "allreduce_rmsnorm", entry, macros, arguments, structure, blocks)


def _bind_norm_alone(world: World, case: Case) -> Operation | Unsupported:
    assert isinstance(case, NormCase)
    return norm(world, replace(case, variant="copied"), "add_rmsnorm", case.send)


def _bind_then_norm(collective: Algorithm, world: World, case: Case) -> Operation | Unsupported:
    assert isinstance(case, NormCase)
    reduce = collective.bind(world, all_reduce(case, case.send, case.summed))
    after = norm(world, replace(case, variant="copied"), "add_rmsnorm", case.summed)
    return _both(world, reduce, after)


def _bind_fused_norm(world: World, case: Case) -> Operation | Unsupported:
    assert isinstance(case, NormCase)
    if case.variant == "registered":
        return norm(world, case, "allreduce_rmsnorm_pull_registered", case.send)
    return norm(world, case, "allreduce_rmsnorm_pull", case.send, chunk_that_fits(world, case, HALF_BYTES / 2))


def gemv(world: World, case: GemvCase, entry: str) -> Operation | Unsupported:
    """A launch of gemv_allreduce.cu."""
    assert not isinstance(world.peers, Unsupported)
    blocks = world.device.blocks_for(1 << 30)
    rows = case.hidden if world.device.name == "cpu" else BLOCK_ROWS
    structure = Gemv(weights=case.weights, activations=case.activations, row_scales=case.row_scales,
                     hidden=case.hidden, inner=case.inner, stride=case.stride, copies=case.copies, step_rows=rows)
    macros = {"TOKENS": str(case.tokens), "WEIGHT": WEIGHTS[case.weight_type]}
    arguments = _arguments(world, case, case.send)
    if entry == "gemv_allreduce" and case.variant == "registered":
        if (receives := world.peers.everyones(world.communicator, case.receive)) is None:
            return Unsupported("its buffers are not mapped by the other ranks")
        arguments.receives[: len(receives)] = receives
        entry += "_registered"
    return _launch(world, case, "gemv_allreduce", entry, macros, arguments, structure, blocks, BLOCK_THREADS)


def _bind_gemv_alone(world: World, case: Case) -> Operation | Unsupported:
    assert isinstance(case, GemvCase)
    return gemv(world, case, "gemv")


def _bind_then_reduce(collective: Algorithm, world: World, case: Case) -> Operation | Unsupported:
    assert isinstance(case, GemvCase)
    reduce = collective.bind(world, all_reduce(case, case.send, case.receive))
    return _both(world, gemv(world, case, "gemv"), reduce)


def _bind_fused_gemv(world: World, case: Case) -> Operation | Unsupported:
    assert isinstance(case, GemvCase)
    if (world.communicator.size + 1) * case.segment_bytes > HALF_BYTES:
        return Unsupported(f"{world.communicator.size} ranks' parts of {case.segment_bytes} B do not fit into a slab",
                           of_size=True)
    return gemv(world, case, "gemv_allreduce")


def all_reduce(case: Case, send: int, receive: int) -> Case:
    return Case(COLLECTIVES["all_reduce"], case.count, case.datatype, "sum", send, receive, variant=case.variant,
                build=case.build)


def _both(world: World, first: Operation | Unsupported, second: Operation | Unsupported) -> Operation | Unsupported:
    """One after the other, where both can be had."""
    if isinstance(first, Unsupported) or isinstance(second, Unsupported):
        return first if isinstance(first, Unsupported) else second
    return in_a_row(world, [first, second])


def forms(collective: str, alone: Callable[[World, Case], Operation | Unsupported],
          then: Callable[[Algorithm, World, Case], Operation | Unsupported],
          fused: Callable[[World, Case], Operation | Unsupported], variants: Callable[[World], tuple[str, ...]],
          about: str) -> dict[str, Algorithm]:
    """The compute alone; compute and each algorithm of a collective, the library's first; fused."""
    def untold(ranks: int, case: Case) -> None:
        """No bound: compute takes what it takes."""

    exact = [one for one in ALGORITHMS[collective].values() if one.name != "auto" and not one.lossy]
    after = [Algorithm(f"then_{one.name}", f"compute and {one.name}, one after the other", partial(then, one), untold,
                       one.variants) for one in exact]
    found = [Algorithm("compute", "the compute alone", alone, untold), *after,
             Algorithm("fused", f"compute and {collective} {about}", fused, untold, variants)]
    return {form.name: form for form in found}


FUSED = {"allreduce_rmsnorm": forms("all_reduce", _bind_norm_alone, _bind_then_norm, _bind_fused_norm,
                                    copied_or_registered, "in one launch"),
         "gemv_allreduce": forms("all_reduce", _bind_gemv_alone, _bind_then_reduce, _bind_fused_gemv,
                                 copied_or_registered, "in one launch")}
