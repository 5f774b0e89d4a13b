"""A matmul that overlaps with a collective, as in prefill: one chunk of the tokens is communicated
while the next one is multiplied. `bench.layers.overlap` measures it.

gemm_reduce_scatter: a rank's activations [tokens, inner] times its weights [inner, hidden] give its
parts of all sums, [tokens, hidden]. A reduce-scatter over the tokens leaves [tokens / ranks,
hidden] on each rank: rank r gets the r-th of `ranks` equal parts of each chunk (see `own_tokens`).

allgather_gemm: all activations, [tokens / ranks, hidden] from each rank, times a rank's weights
[hidden, columns] give its result [tokens, columns], with rank 0's tokens first. Chunk c has the
c-th of `chunks` equal parts of each rank's rows. A rank first multiplies its own rows meanwhile.

The matmul is the vendor's, through numpy or CuPy. The collective is `direct_pull`, in a Lane."""

import os
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from queue import SimpleQueue
from typing import Any

import numpy as np

from collectives.algorithms import allgather, reduce_scatter
from collectives.binding import first_failure
from collectives.collective import COLLECTIVES, Array, Datatype
from collectives.communicator import Refusal
from collectives.layers.fused import forms
from collectives.operation import Algorithm, Case, Operation, Unsupported, World
from kernels.devices.device import Kernel, Step

CHUNKS = (1, 2, 4, 8)
# Entries of a GPU's stream for a chunk: seven peers' matmuls of two launches, and events.
ENTRIES = 16
Run = Callable[[], object]  # performs something on a CPU; enqueues it on a GPU


@dataclass(frozen=True, kw_only=True)
class MatmulCase(Case):
    """[tokens, inner] times [inner, columns]; a rank has `count` elements on the wire. Addresses.

    gemm_reduce_scatter: `send` has the activations, `between` gets the parts [tokens, columns].
    allgather_gemm: `send` has this rank's activations, `between` gets all of them [tokens, inner].
    `core` is a CPU core for communication, None if no core is free."""

    tokens: int
    inner: int
    columns: int
    weights: int
    between: int
    core: int | None


@dataclass(frozen=True)
class Overlapped(Operation):
    """An operation for each number of chunks; only a trial shows the fastest."""

    by_chunks: Mapping[int, Operation] = field(default_factory=dict)


COLLECTIVE = {
    "gemm_reduce_scatter": replace(COLLECTIVES["reduce_scatter"], name="gemm_reduce_scatter"),
    "allgather_gemm": replace(COLLECTIVES["all_gather"], name="allgather_gemm"),
}


def own_tokens(rank: int, ranks: int, tokens: int, chunks: int) -> Array:
    """The token in each row that gemm_reduce_scatter leaves on a rank, [tokens / ranks]."""
    return np.arange(tokens).reshape(chunks, ranks, -1)[:, rank].ravel()


def runs_in_python(world: World) -> bool:
    """Whether Python performs a matmul: numpy offers no C function to the native loop."""
    return world.device.xp is np


def require_matmul(world: World, datatype: Datatype) -> None:
    """Raises Refusal if the vendor's matmul cannot run as requested."""
    if runs_in_python(world) and datatype.name != "float32":
        raise Refusal(f"a CPU multiplies float32 only, not {datatype.name}")
    if world.graph and world.device.name == "cuda":
        raise Refusal("-G: CuPy cannot capture cuBLAS in a graph")
    if datatype.name == "bfloat16":
        raise Refusal("CuPy's matmul has no bfloat16")


def array_of(world: World, datatype: Datatype, address: int, *shape: int) -> Any:
    return world.device.array(address, shape, np.dtype(datatype.storage))


def _matmul(world: World, case: MatmulCase, rows: int, source: int, target: int) -> Run:
    """`rows` rows from the address `source` times the weights, into `target`."""
    array = partial(array_of, world, case.datatype)
    return partial(
        world.device.xp.matmul,
        array(source, rows, case.inner),
        array(case.weights, case.inner, case.columns),
        out=array(target, rows, case.columns),
    )


class Lane:
    """Runs communication in order, after all earlier compute; here at once, on the same core."""

    def submit(self, run: Run) -> None:
        run()

    def wait(self) -> None:
        """Makes later compute wait for the first part that nobody has waited for."""


class OtherCore(Lane):
    """A thread that has a core to itself until the process ends. Raises OSError."""

    def __init__(self, core: int) -> None:
        self.parts, self.errors = SimpleQueue[Run](), SimpleQueue[Exception | None]()
        threading.Thread(target=self._run_parts, name="lane", daemon=True).start()
        self.submit(partial(os.sched_setaffinity, 0, {core}))
        self.wait()

    def submit(self, run: Run) -> None:
        self.parts.put(run)

    def wait(self) -> None:
        if error := self.errors.get():
            raise error

    def _run_parts(self) -> None:
        while True:
            try:
                self.parts.get()()
                self.errors.put(None)
            except Exception as error:  # noqa: BLE001 - the caller of `wait` gets every error
                self.errors.put(error)


class OtherStream(Lane):
    """A second stream, of higher priority. Events join the two, so one capture records both."""

    def __init__(self, cupy: Any) -> None:
        self.cupy, self.main = cupy, cupy.cuda.get_current_stream()
        self.stream = cupy.cuda.Stream(non_blocking=True, priority=-1)
        self.ends = deque[Any]()

    def submit(self, run: Run) -> None:
        begin, end = (self.cupy.cuda.Event(disable_timing=True) for _ in range(2))
        begin.record(self.main)
        self.stream.wait_event(begin)
        self.stream.use()  # CuPy's `with` would end with its default stream, not with the device's
        try:
            run()
        finally:
            self.main.use()
        end.record(self.stream)
        self.ends.append(end)

    def wait(self) -> None:
        self.main.wait_event(self.ends.popleft())


def driven(world: World, runs: Sequence[Run], parts: Sequence[Operation]) -> Operation:
    """The runs in turn: Python performs them on a CPU, a GPU has them in its stream or graph."""

    def perform() -> None:
        for run in runs:
            run()

    enqueue = Kernel("matmul and collective", lambda blocks, argument: perform())
    step = Step(enqueue, None, entries=ENTRIES * max(1, len(parts)))
    return Operation(
        step,
        perform if runs_in_python(world) else world.device.caller(step),
        failure=partial(first_failure, parts),
        keep=parts,
    )


def _runs(world: World, operations: Sequence[Operation]) -> list[Run]:
    if runs_in_python(world):
        return [operation.call for operation in operations]
    steps = [operation.step for operation in operations]
    return [partial(step.kernel.function, step.blocks, step.argument) for step in steps]


def _collectives(
    world: World, case: MatmulCase, algorithm: Algorithm, chunks: int
) -> list[Operation] | Unsupported:
    reduces, part_bytes = case.collective.reduces, case.segment_bytes // chunks
    collective = COLLECTIVES["reduce_scatter" if reduces else "all_gather"]
    operations: list[Operation] = []
    for chunk in range(chunks):
        between = case.between + chunk * part_bytes * world.communicator.size
        own = (case.receive if reduces else case.send) + chunk * part_bytes
        bound = algorithm.bind(
            world,
            Case(
                collective,
                case.count // chunks,
                case.datatype,
                case.redop,
                between if reduces else own,
                own if reduces else between,
                variant=case.variant,
            ),
        )
        if isinstance(bound, Unsupported):
            return bound
        operations.append(bound)
    return operations


def _alone(world: World, case: MatmulCase) -> Run:
    source, target = (
        (case.send, case.between) if case.collective.reduces else (case.between, case.receive)
    )
    return _matmul(world, case, case.tokens, source, target)


def _bind_then(algorithm: Algorithm, world: World, case: MatmulCase) -> Operation | Unsupported:
    collectives = _collectives(world, case, algorithm, 1)
    if isinstance(collectives, Unsupported):
        return collectives
    runs = [_alone(world, case), *_runs(world, collectives)]
    return driven(world, runs if case.collective.reduces else runs[::-1], collectives)


def _bind_fused(algorithm: Algorithm, world: World, case: MatmulCase) -> Operation | Unsupported:
    collectives: dict[int, list[Operation]] = {}
    for chunks in CHUNKS:
        operations = _collectives(world, case, algorithm, chunks)
        if isinstance(operations, Unsupported):
            return operations
        collectives[chunks] = operations
    # After the exchanges above: a rank without its core would leave the others waiting in them.
    if runs_in_python(world):
        lane = Lane() if case.core is None else OtherCore(case.core)
    else:
        lane = OtherStream(world.device.xp)
    overlap = _reduce_beside if case.collective.reduces else _gather_beside
    by_chunks = {
        chunks: driven(world, overlap(world, case, lane, _runs(world, operations)), operations)
        for chunks, operations in collectives.items()
    }
    return Overlapped(by_chunks[1].step, by_chunks[1].call, by_chunks=by_chunks)


def _reduce_beside(
    world: World, case: MatmulCase, lane: Lane, collectives: Sequence[Run]
) -> list[Run]:
    rows, size = case.tokens // len(collectives), case.datatype.size_bytes
    runs: list[Run] = []
    for row, collective in zip(range(0, case.tokens, rows), collectives, strict=True):
        runs += [
            _matmul(
                world,
                case,
                rows,
                case.send + row * case.inner * size,
                case.between + row * case.columns * size,
            ),
            partial(lane.submit, collective),
        ]
    return runs + [lane.wait] * len(collectives)


def _gather_beside(
    world: World, case: MatmulCase, lane: Lane, collectives: Sequence[Run]
) -> list[Run]:
    rank, ranks, size = world.communicator.rank, world.communicator.size, case.datatype.size_bytes
    own_rows = case.tokens // ranks
    rows = own_rows // len(collectives)

    def result(row: int) -> int:
        return case.receive + row * case.columns * size

    runs: list[Run] = [partial(lane.submit, collective) for collective in collectives]
    runs.append(_matmul(world, case, own_rows, case.send, result(rank * own_rows)))
    for chunk in range(len(collectives)):
        runs.append(lane.wait)
        for peer in range(ranks):
            if peer != rank:
                gathered = case.between + (chunk * ranks + peer) * rows * case.inner * size
                runs.append(
                    _matmul(world, case, rows, gathered, result(peer * own_rows + chunk * rows))
                )
    return runs


OVERLAPPED = {
    name: forms(
        collective,
        lambda world, case: driven(world, [_alone(world, case)], []),
        _bind_then,
        partial(_bind_fused, algorithm),
        "in chunks, one communicated while the next is multiplied",
    )
    for name, collective, algorithm in (
        ("gemm_reduce_scatter", "reduce_scatter", reduce_scatter.PULL),
        ("allgather_gemm", "all_gather", allgather.PULL),
    )
}
