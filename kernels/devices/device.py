"""What a device is: something that compiles a kernel file, lends memory that peers can map, and runs operations.

The structures here are those of `sync.h`, field for field.
"""

import ctypes
from collections.abc import Callable, Mapping, Sequence
from ctypes import c_char, c_double, c_long, c_uint64, c_void_p
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

MOST_RANKS = 8
MOST_BLOCKS = 128
Bytes = np.ndarray[Any, np.dtype[np.uint8]]
PHASES = ("idle", "writing the send buffer", "barrier", "the collective", "reading the result", "check")


class DeviceError(Exception):
    """A device that was asked for is not there or refuses a call; the message is one sentence."""


class OutOfMemory(DeviceError):
    """A device has no room left; another way of sharing memory would not help."""


class Watch(ctypes.Structure):
    """A rank's progress and its last words; `sync.h` says who writes what."""

    _fields_ = [(name, c_uint64)
                for name in ("stop", "timed_out", "peer", "block", "seen", "wanted", "iteration", "calls", "phase",
                             "epoch")]


class Line(ctypes.Structure):
    """A value with 128 bytes to itself."""

    _fields_ = [("value", c_uint64), ("rest", c_char * 120)]


class Own(ctypes.Structure):
    """What a rank counts for itself: its launches and meetings."""

    _fields_ = [("epoch", Line), ("ticket", Line), ("meetings", Line)]


class Control(ctypes.Structure):
    """A rank's control block: the flags that its peers write."""

    _fields_ = [("meet", Line * MOST_RANKS), ("flags", Line * MOST_RANKS * MOST_BLOCKS)]


class Arguments(ctypes.Structure):
    """The one argument of every kernel."""

    _fields_ = [
        ("send", c_void_p), ("receive", c_void_p), ("count", c_long), ("chunk_bytes", c_long), ("half_bytes", c_long),
        ("timeout_ns", c_uint64), ("rank", c_long), ("yields", c_long), ("slab", c_void_p * MOST_RANKS),
        ("control", c_void_p * MOST_RANKS), ("watch", c_void_p), ("own", c_void_p), ("sends", c_void_p * MOST_RANKS),
        ("receives", c_void_p * MOST_RANKS), ("everyone", c_void_p), ("more", c_void_p)]


class Transfer(ctypes.Structure):
    """`Transfer` of link.cu: a rank's part in moving buffers between ranks."""

    _fields_ = [("ranks", Arguments), ("to", c_long), ("from_", c_long), ("beside", c_void_p), ("kept", c_void_p),
                ("beside_bytes", c_long)]


class Routing(ctypes.Structure):
    """`Routing` of routing.h: which of a rank's tokens go where. `Choice` there is an int32, an int32 and a float32."""

    _fields_ = [("ranks", Arguments),
                *((name, c_long) for name in ("tokens", "most_tokens", "experts", "top_k", "most_rows",
                                              "step_tokens")),
                *((name, c_void_p) for name in ("owner", "tokens_of", "choices", "counting", "first", "came", "rows",
                                                "out", "in_", "record", "arrived", "counts"))]


class Norm(ctypes.Structure):
    """`Norm` of norm.h: what an all-reduce goes on to, and how many tokens go at a time."""

    _fields_ = [("ranks", Arguments),
                *((name, c_void_p) for name in ("residual", "residual_out", "weight", "codes", "scales")),
                *((name, c_long) for name in ("hidden", "tokens", "step_tokens")), ("epsilon", c_double)]


class Gemv(ctypes.Structure):
    """`Gemv` of gemv.h: a rank's part of a linear layer, and how many rows go at a time."""

    _fields_ = [("ranks", Arguments), *((name, c_void_p) for name in ("weights", "activations", "row_scales")),
                *((name, c_long) for name in ("hidden", "inner", "stride", "copies", "step_rows"))]


class Pattern(ctypes.Structure):
    """`Pattern` of iteration.cu: a buffer whose segments each hold a table over and over, shifted by the iteration."""

    _fields_ = [("buffer", c_void_p), ("tables", c_void_p), ("segments", c_long), ("segment_bytes", c_long),
                ("table_bytes", c_long), ("period", c_long), ("element_bytes", c_long), ("wrong", c_void_p),
                ("watch", c_void_p)]


class Wrong(ctypes.Structure):
    """`Wrong` of iteration.cu: how many elements a check has found wrong, and of the first where and which bits."""

    _fields_ = [(name, c_uint64) for name in ("elements", "iteration", "offset", "expected", "got")]


WRONG_BYTES = ctypes.sizeof(Wrong)


class Gate(ctypes.Structure):
    """`Gate` of iteration.cu: what holds a GPU's stream back until all of a block is in it."""

    _fields_ = [("opened", c_void_p), ("wanted", c_uint64), ("timeout_ns", c_uint64), ("watch", c_void_p)]


class Gemm(ctypes.Structure):
    """`Gemm` of gemm.cu: a matmul, and which of its items a launch does."""

    _fields_ = [*((name, c_void_p) for name in ("a", "b", "c")),
                *((name, c_long) for name in ("columns", "inner", "first", "items"))]


class LibraryCall(ctypes.Structure):
    """`LibraryCall` of loop_cpu.cpp: a function of MPI with its arguments, a kernel with its own that is run before
    it, and the call to be made after it."""

    _fields_ = [("function", c_void_p), ("arguments", c_long * 9), ("failed", c_long), ("after", c_void_p),
                ("kernel", c_void_p), ("argument", c_void_p)]


class LibraryBarrier(ctypes.Structure):
    """`LibraryBarrier` of loop_cpu.cpp."""

    _fields_ = [("function", c_void_p), ("communicator", c_long)]


@dataclass(frozen=True)
class Kernel:
    """An entry of a module. `function` is, on the CPU, the address of a C function that takes a pointer to its
    argument; on a GPU a Python function of (blocks, argument) that puts a launch into the device's stream."""

    name: str
    function: Any


class Module(Protocol):
    """A compiled kernel file."""

    def kernel(self, name: str, threads: int | None = None) -> Kernel:
        """The entry of this name, launched with at most so many threads a block on a GPU."""


class Memory(Protocol):
    """Device memory, as mapped here. With `handle`, a peer maps it by `Device.open`; `type` says what it is made of."""

    address: int
    size_bytes: int
    handle: bytes
    type: str

    def read(self) -> Bytes:
        """A copy of what it holds."""

    def write(self, data: np.ndarray[Any, Any], offset: int = 0) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Step:
    """One thing that a timed loop does: `kernel(argument)`, on so many blocks of a GPU, whose stream gets so many
    entries at most. It keeps `argument` alive."""

    kernel: Kernel
    argument: Any
    blocks: int = 1
    entries: int = 1


@dataclass(kw_only=True)
class Item:
    """What a mixed loop may launch, and has so often: the send buffer is written, then operation, then check."""

    prepare: Step
    operation: Step
    check: Step
    launches: int = 0


Draws = ctypes.Array[c_uint64]  # the state of what is drawn: alike on all ranks, and each rank's own


@dataclass(frozen=True)
class Beside:
    """What goes on beside a timed loop, launch after launch of `step`: on a CPU on a core of its own, `core`, each
    launch an item, of which there are so many in all; on a GPU in a stream of its own. It keeps `buffers`."""

    step: Step
    flops: float  # of a launch
    items: int = 1
    core: int | None = None
    buffers: tuple["Memory", ...] = ()


@dataclass(frozen=True)
class Plan:
    """A block of iterations: what is done in each, and how often.

    Each iteration prepares, meets, is stamped around `operation`, consumes, and in the first and last `checks` of them
    checks. With `calls` > 0 an iteration is `consume` so many times, then a new send buffer, a meeting, and a chain of
    so many operations, each followed by `consume`. With `graph`, what is stamped is launched from a captured graph.
    `late` is what this rank does between meeting and being stamped to come later than the others; a chain has none.
    `beside` goes on all the while.
    """

    prepare: Step
    meet: Step
    operation: Step
    consume: Step
    check: Step
    warmup: int
    iterations: int
    checks: int
    calls: int = 0
    graph: bool = False
    late: Step | None = None
    beside: Beside | None = None


Times = np.ndarray[Any, np.dtype[np.int64]]


def progress(spans_ns: Times, ends_ns: Times) -> Times:
    """How much was done within each span (from, to), [n, 2], of launches that came one after another and ended then; in
    thousandths of a launch, -1 for a span that they do not cover."""
    if len(ends_ns) < 2:
        return np.full(len(spans_ns), -1)
    at = np.interp(spans_ns, ends_ns, 1e3 * np.arange(len(ends_ns)), left=np.nan, right=np.nan)
    done: np.ndarray[Any, np.dtype[np.int64]] = np.nan_to_num(np.round(at[:, 1] - at[:, 0]), nan=-1.0).astype(np.int64)
    return done


class Device(Protocol):
    """A processor with its compiler and its memory. `ways` are those in which peers can reach memory of it, best first;
    `most_chunk_bytes` how much of a message is best handled at a time, at most; `far_bytes` from which size on it is
    memory's, not a cache's, and best gone through several pages at once; `facts` what a reader of results wants to know
    of it."""

    name: str
    arch: str
    compiler: str
    ways: tuple[str, ...]
    clock_shared: bool
    most_chunk_bytes: int
    far_bytes: float
    facts: dict[str, Any]

    def compile(self, stem: str, macros: Mapping[str, str]) -> Module: ...

    def allocate(self, size_bytes: int, way: str, ordinary: bool = False, label: str = "") -> Memory:
        """Memory that peers can map in this way, zeroed. `ordinary`: as users have it, where a peer's stores are seen
        from the next launch on; else within one too. `label` tells it from all other memory that is shared."""

    def forget_name(self, memory: Memory) -> None:
        """Called when every peer has opened the memory, or has failed to."""

    def open(self, handle: bytes, size_bytes: int, way: str, label: str = "") -> Memory:
        """A peer's memory, allocated there with this size, way and label. Raises DeviceError where it is not that."""

    def private(self, size_bytes: int) -> Memory:
        """Memory of this rank alone, zeroed."""

    def watch(self, record: Watch) -> Watch:
        """The watch that kernels write: `record` itself where they can, else one that the host has to copy there."""

    def blocks_for(self, size_bytes: int) -> int:
        """How many blocks handle so much at a time; the same on every rank."""

    def reason_against_graphs(self) -> str | None: ...

    def run(self, plan: Plan, watch: Watch) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Runs a plan natively; returns stamps in ns, [iterations, 4]: arrived, left, began to consume, done. With
        something beside, a fifth column has how much of it was done between arrived and left, in thousandths of a
        launch; -1 where that is not known."""

    def mix(self, items: Sequence[Item], launches: int, draws: Draws, watch: Watch) -> None:
        """Launches one item after another, as drawn, each rank at its own pace, so often or until the watch says stop.
        `watch.calls` is the number of the item under way."""

    def replayed(self, step: Step) -> Step:
        """The step as a replay of a captured graph, where the device has them."""

    def caller(self, step: Step) -> Callable[[], None]:
        """A Python function that performs a step once, to its end."""
