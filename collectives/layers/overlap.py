"""A matmul and a collective beside it, as in prefill: cut in chunks along the tokens, one of which is communicated
while the next is multiplied.

gemm_reduce_scatter: a rank's activations [tokens, inner] times its weights [inner, hidden] are its parts of all sums,
[tokens, hidden], and a reduce-scatter over the tokens leaves it [tokens / ranks, hidden]. A chunk is a stretch of
tokens / chunks tokens, of which the reduce-scatter gives rank r the r-th of `ranks` equal stretches. So row i of
chunk c of rank r is token c x tokens / chunks + r x tokens / (chunks x ranks) + i: see `own_tokens`.

allgather_gemm: a rank has [tokens / ranks, hidden] of the activations; all of them times its weights [hidden, columns]
are its result, [tokens, columns], rank 0's tokens first whatever the chunks. A chunk is the c-th of `chunks` equal
stretches of each rank's rows. Its own rows a rank multiplies first, while the first chunk is gathered.

The matmul is the vendor's: BLAS through numpy, cuBLAS or hipBLAS through CuPy. The collective, `direct_pull`, goes on
in a second stream of a GPU, or in a thread on a core of a CPU that no rank has; where there is none, between matmuls.
"""

import ctypes
import math
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from queue import SimpleQueue
from typing import Any

import numpy as np

from collectives import allgather, reduce_scatter
from collectives.collective import COLLECTIVES, Array, Collective, Datatype
from collectives.layers.fused import forms
from collectives.operation import (
    Algorithm,
    Case,
    DeviceError,
    Operation,
    Step,
    Unsupported,
    World,
    copied_or_registered,
    first_failure,
)
from kernels.devices.cpu import CpuDevice
from kernels.devices.device import Kernel
from kernels.devices.gpu import GpuDevice

CHUNKS = (1, 2, 4, 8)
ENTRIES = 16  # of a GPU's stream for a chunk, at most: matmuls with seven peers' rows, in two launches each, and events
Run = Callable[[], object]  # does something on a CPU; puts it into the current stream of a GPU


@dataclass(frozen=True)
class MatmulCase(Case):
    """[tokens, inner] times [inner, columns]; `count` elements are those of a rank's tokens on the wire. Addresses: of
    gemm_reduce_scatter `send` has the activations, and `between` gets the parts of the sums, [tokens, columns]; of
    allgather_gemm `send` has this rank's rows of the activations, and `between` gets all, [tokens, inner]. `core` is
    one to communicate on, of a CPU."""

    tokens: int = field(kw_only=True)
    inner: int = field(kw_only=True)
    columns: int = field(kw_only=True)
    weights: int = field(kw_only=True)
    between: int = field(kw_only=True)
    core: int | None = field(kw_only=True)


@dataclass(frozen=True)
class Overlapped(Operation):
    """An operation in so many chunks; which number is best has to be tried."""

    by_chunks: Mapping[int, Operation] = field(default_factory=dict)


COLLECTIVE = {
    "gemm_reduce_scatter": Collective("gemm_reduce_scatter", "Matmul + reduce-scatter",
                                      COLLECTIVES["reduce_scatter"].result, sends_all=True, reduces=True),
    "allgather_gemm": Collective("allgather_gemm", "All-gather + matmul", COLLECTIVES["all_gather"].result,
                                 receives_all=True)}


def own_tokens(rank: int, ranks: int, tokens: int, chunks: int) -> Array:
    """The token in each row that gemm_reduce_scatter leaves a rank, [tokens / ranks]."""
    return np.arange(tokens).reshape(chunks, ranks, -1)[:, rank].ravel()


def reason_against(world: World, case_type: str) -> str | None:
    """Why there is no matmul of this type here; None where there is."""
    if isinstance(world.device, CpuDevice):
        return None if case_type == "float32" else f"a CPU's matmul is of float32 alone, not of {case_type}"
    try:
        _element(case_type)
    except ModuleNotFoundError:
        return "CuPy multiplies bfloat16 with the types of ml_dtypes: pip install ml-dtypes"
    return None


def _element(name: str) -> Any:
    return np.dtype(import_module("ml_dtypes").bfloat16 if name == "bfloat16" else name)


def array_of(world: World, datatype: Datatype, address: int, *shape: int) -> Any:
    """Device memory as an array of this shape, numpy's or CuPy's."""
    device, element = world.device, _element(datatype.name)
    size_bytes = math.prod(shape) * element.itemsize
    if isinstance(device, CpuDevice):
        return np.frombuffer((ctypes.c_char * size_bytes).from_address(address), element).reshape(shape)
    assert isinstance(device, GpuDevice)
    memory = device.cupy.cuda.UnownedMemory(address, size_bytes, None, device.ordinal)
    return device.cupy.ndarray(shape, element, device.cupy.cuda.MemoryPointer(memory, 0))


def _matmul(world: World, case: MatmulCase, rows: int, source: int, source_row: int, target: int,
            target_row: int) -> Run:
    """Of so many rows from `source_row` on into those from `target_row` on."""
    size = case.datatype.size_bytes
    left = array_of(world, case.datatype, source + source_row * case.inner * size, rows, case.inner)
    right = array_of(world, case.datatype, case.weights, case.inner, case.columns)
    out = array_of(world, case.datatype, target + target_row * case.columns * size, rows, case.columns)
    return product(world, left, right, out)


def product(world: World, left: Any, right: Any, out: Any) -> Run:
    """The vendor's matmul of two arrays into a third."""
    library = world.device.cupy if isinstance(world.device, GpuDevice) else np
    return partial(library.matmul, left, right, out=out)


class Lane:
    """Where communication goes on, one after another, each after all compute that was begun before it. This one is the
    caller's own core: what is submitted is done at once."""

    def submit(self, run: Run) -> None:
        run()

    def wait(self) -> None:
        """The compute from now on comes after the first one that nobody has waited for."""


class OtherCore(Lane):
    """A thread on a core of its own, which ends with this object. Raises DeviceError where the core cannot be had."""

    def __init__(self, core: int) -> None:
        self.asked, self.ended = SimpleQueue[Run | None](), SimpleQueue[Exception | None]()
        threading.Thread(target=_perform, args=(self.asked, self.ended), name="lane", daemon=True).start()
        weakref.finalize(self, self.asked.put, None)
        self.submit(partial(os.sched_setaffinity, 0, {core}))
        try:
            self.wait()
        except OSError as error:
            raise DeviceError(f"core {core} cannot be had: {error.strerror}") from error

    def submit(self, run: Run) -> None:
        self.asked.put(run)

    def wait(self) -> None:
        if error := self.ended.get():
            raise error


def _perform(asked: "SimpleQueue[Run | None]", ended: "SimpleQueue[Exception | None]") -> None:
    """A lane's thread. It knows the queues and not the lane, which would never be let go else."""
    while run := asked.get():
        try:
            run()
            ended.put(None)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the caller's
            ended.put(error)


class OtherStream(Lane):
    """A second stream of a GPU, which goes before the first where both have something to run. Events join the two, so
    that one capture takes in both."""

    def __init__(self, device: GpuDevice) -> None:
        self.device, self.stream = device, device.cupy.cuda.Stream(non_blocking=True, priority=-1)
        self.ended = deque[Any]()

    def submit(self, run: Run) -> None:
        begun, ended = (self.device.cupy.cuda.Event(disable_timing=True) for _ in range(2))
        begun.record(self.device.stream)
        self.stream.wait_event(begun)
        with self.stream:
            run()
        ended.record(self.stream)
        self.ended.append(ended)

    def wait(self) -> None:
        self.device.stream.wait_event(self.ended.popleft())


def driven(world: World, run: Run, parts: Sequence[Operation]) -> Operation:
    """`run`, of which these are part. Python runs it on a CPU; on a GPU it can be in the device's stream, or graph."""
    def call() -> None:
        run()

    enqueued = Kernel("matmul and collective", lambda blocks, argument: run())
    step = Step(enqueued, None, entries=ENTRIES * max(1, len(parts)))
    is_cpu = isinstance(world.device, CpuDevice)
    return Operation(step, call if is_cpu else world.device.caller(step), failure=partial(first_failure, parts),
                     keep=parts)


def _runs(world: World, operations: Sequence[Operation]) -> list[Run]:
    if isinstance(world.device, CpuDevice):
        return [operation.call for operation in operations]
    steps = [operation.step for operation in operations]
    return [partial(step.kernel.function, step.blocks, step.argument) for step in steps]


def _collectives(world: World, case: MatmulCase, algorithm: Algorithm, chunks: int) -> list[Operation] | Unsupported:
    """What is communicated of each chunk."""
    reduces, part_bytes = case.collective.reduces, case.segment_bytes // chunks
    what, found = COLLECTIVES["reduce_scatter" if reduces else "all_gather"], list[Operation]()
    for chunk in range(chunks):
        between = case.between + chunk * part_bytes * world.communicator.size
        send = between if reduces else case.send + chunk * part_bytes
        receive = case.receive + chunk * part_bytes if reduces else between
        one = algorithm.bind(world, Case(what, case.count // chunks, case.datatype, case.redop, send, receive,
                                         variant=case.variant))
        if isinstance(one, Unsupported):
            return one
        found.append(one)
    return found


def _alone(world: World, case: MatmulCase) -> Run:
    source, target = (case.send, case.between) if case.collective.reduces else (case.between, case.receive)
    return _matmul(world, case, case.tokens, source, 0, target, 0)


def _bind_alone(world: World, case: Case) -> Operation | Unsupported:
    assert isinstance(case, MatmulCase)
    return driven(world, _alone(world, case), [])


def _bind_then(algorithm: Algorithm, world: World, case: Case) -> Operation | Unsupported:
    assert isinstance(case, MatmulCase)
    whole = _collectives(world, case, algorithm, 1)
    if isinstance(whole, Unsupported):
        return whole
    both = [_alone(world, case), *_runs(world, whole)][:: 1 if case.collective.reduces else -1]

    def run() -> None:
        for each in both:
            each()

    return driven(world, run, whole)


def _bind_fused(algorithm: Algorithm, world: World, case: Case) -> Operation | Unsupported:
    assert isinstance(case, MatmulCase)
    collectives = dict[int, list[Operation]]()
    for chunks in CHUNKS:
        found = _collectives(world, case, algorithm, chunks)
        if isinstance(found, Unsupported):
            return found
        collectives[chunks] = found
    # After the exchanges above: a rank that cannot have its core would leave the others waiting in them.
    lane = OtherStream(world.device) if isinstance(world.device, GpuDevice) else (
        Lane() if case.core is None else OtherCore(case.core))
    beside = _reducing if case.collective.reduces else _gathering
    by_chunks = {chunks: driven(world, beside(world, case, lane, _runs(world, operations)), operations)
                 for chunks, operations in collectives.items()}
    return Overlapped(by_chunks[1].step, by_chunks[1].call, by_chunks=by_chunks)


def _reducing(world: World, case: MatmulCase, lane: Lane, collectives: list[Run]) -> Run:
    rows = case.tokens // len(collectives)
    matmuls = [_matmul(world, case, rows, case.send, chunk * rows, case.between, chunk * rows)
               for chunk in range(len(collectives))]

    def run() -> None:
        for matmul, collective in zip(matmuls, collectives, strict=True):
            matmul()
            lane.submit(collective)
        for _ in collectives:
            lane.wait()

    return run


def _gathering(world: World, case: MatmulCase, lane: Lane, collectives: list[Run]) -> Run:
    rank, ranks = world.communicator.rank, world.communicator.size
    own_rows, rows = case.tokens // ranks, case.tokens // ranks // len(collectives)
    own = _matmul(world, case, own_rows, case.send, 0, case.receive, rank * own_rows)
    gathered = [[_matmul(world, case, rows, case.between, (chunk * ranks + peer) * rows, case.receive,
                         peer * own_rows + chunk * rows) for peer in range(ranks) if peer != rank]
                for chunk in range(len(collectives))]

    def run() -> None:
        for collective in collectives:
            lane.submit(collective)
        own()
        for matmuls in gathered:
            lane.wait()
            for matmul in matmuls:
                matmul()

    return run


OVERLAPPED = {
    name: forms(collective, _bind_alone, _bind_then, partial(_bind_fused, algorithm), copied_or_registered,
                "in chunks, one communicated while the next is multiplied")
    for name, collective, algorithm in (("gemm_reduce_scatter", "reduce_scatter", reduce_scatter.PULL),
                                        ("allgather_gemm", "all_gather", allgather.PULL))}
