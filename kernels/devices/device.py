"""The Device protocol, and the structures of `sync.h`, `link.cu` and `iteration.cu` in Python."""

import ctypes
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from ctypes import c_long, c_uint64, c_void_p
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from kernels.devices.layout import SOURCES, Shared

if TYPE_CHECKING:
    from kernels.devices.compilers import Compilers

# Of sync.h: see CONSTANTS.
MOST_RANKS = 8
MOST_BLOCKS = 128
PACK_BYTES = 64  # of the widest CPU
HALF_BYTES = 4 << 20  # of a slab, at least
PACKET_BYTES = 66 << 10  # a writer's room for packets in each half
PACKETS_BYTES = 4 * MOST_RANKS * PACKET_BYTES  # behind a slab's halves: with marks, with sentinels
CONSTANTS = {  # each compilation compares them with those of sync.h
    "MOST_RANKS": MOST_RANKS,
    "MOST_BLOCKS": MOST_BLOCKS,
    "PACK_BYTES": PACK_BYTES,
    "HALF_BYTES": HALF_BYTES,
    "PACKET_BYTES": PACKET_BYTES,
    "PACKETS_BYTES": PACKETS_BYTES,
}
Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Stamps = np.ndarray[Any, np.dtype[np.int64]]
Macros = Mapping[str, str | int]  # what a build defines with -D, by name
VMM = "vmm"  # in the name of a sharing mode: by virtual memory management, not by IPC
LOOP = "iteration"  # the kernel file that frames iterations; it raises no peer's flag
ON_CPUS_ALONE = ("WT_SEVERAL_PAGES",)  # macros that change no code of a GPU


class DeviceError(Exception):
    """A requested device is missing or refuses a call; the message is one sentence. `is_mistake`:
    what the user asked for is wrong, and no device would take it."""

    is_mistake = False


class OutOfMemory(DeviceError):
    """A device has no memory left; another way of sharing memory would not help."""


@cache
def default_macros() -> dict[str, str]:
    """The values of platform.h for macros that a build does not define."""
    text = (SOURCES / "include/platform.h").read_text()
    return dict(re.findall(r"^#ifndef (?P<name>WT_\w+).*\n#define (?P=name) (\S+)$", text, re.M))


class Line(Shared, file="include/sync.h"):
    """A value with 128 bytes to itself."""

    _fields_ = (("value", c_uint64), ("rest", c_uint64 * 15))


class Watch(Shared, file="include/sync.h"):
    """A rank's progress, and why a wait ended early; `sync.h` names the writer of each field."""

    _fields_ = (
        ("stop", c_uint64),
        ("timed_out", c_uint64),
        ("peer", c_uint64),
        ("block", c_uint64),
        ("seen", c_uint64),
        ("wanted", c_uint64),
        ("iteration", c_uint64),
        ("calls", c_uint64),
        ("phase", c_uint64),
        ("epoch", c_uint64),
    )


class Own(Shared, file="include/sync.h"):
    """The counters that only one rank uses, its launches and barriers, and its peers' registers."""

    _fields_ = (
        ("epoch", Line),
        ("ticket", Line),
        ("barriers", Line),
        ("hdp_flush", Line * MOST_RANKS),
    )


class Control(Shared, file="include/sync.h"):
    """A rank's control block: the flags that its peers write."""

    _fields_ = (("meet", Line * MOST_RANKS), ("flags", Line * MOST_RANKS * MOST_BLOCKS))


class Arguments(Shared, file="include/sync.h"):
    """The argument of every kernel that talks to peers."""

    _fields_ = (
        ("send", c_void_p),
        ("receive", c_void_p),
        ("count", c_long),
        ("chunk_bytes", c_long),
        ("half_bytes", c_long),
        ("timeout_ns", c_uint64),
        ("rank", c_long),
        ("yields", c_long),
        ("slab", c_void_p * MOST_RANKS),
        ("control", c_void_p * MOST_RANKS),
        ("watch", c_void_p),
        ("own", c_void_p),
        ("sends", c_void_p * MOST_RANKS),
        ("receives", c_void_p * MOST_RANKS),
        ("more", c_void_p),
    )


class Transfer(Shared, file="include/transfer.h"):
    """A rank's part in moving buffers between ranks."""

    _fields_ = (
        ("ranks", Arguments),
        ("to", c_long),
        ("from_", c_long),
        ("bytes", c_long),
    )


class Pattern(Shared, file="iteration.cu"):
    """A buffer of segments that each repeat a table, shifted by the iteration."""

    _fields_ = (
        ("buffer", c_void_p),
        ("tables", c_void_p),
        ("segments", c_long),
        ("segment_bytes", c_long),
        ("table_bytes", c_long),
        ("period", c_long),
        ("element_bytes", c_long),
        ("wrong", c_void_p),
        ("watch", c_void_p),
        ("place", c_uint64),
    )


class Wrong(Shared, file="iteration.cu"):
    """How many elements a check counted as wrong, and where the first one is, with its bits."""

    _fields_ = (
        ("elements", c_uint64),
        ("iteration", c_uint64),
        ("offset", c_uint64),
        ("expected", c_uint64),
        ("got", c_uint64),
        ("place", c_uint64),
    )


class Gate(Shared, file="iteration.cu"):
    """Holds a GPU's stream back until the host has filled it with a batch of iterations."""

    _fields_ = (
        ("opened", c_void_p),
        ("wanted", c_uint64),
        ("timeout_ns", c_uint64),
        ("watch", c_void_p),
    )


class Lateness(Shared, file="iteration.cu"):
    """How late a rank comes at a call of an iteration, by a list."""

    _fields_ = (
        ("delays_ns", c_void_p),
        ("lines", c_uint64),
        ("first", c_uint64),
        ("calls", c_uint64),
        ("yields", c_uint64),
        ("watch", c_void_p),
    )


WRONG_BYTES = ctypes.sizeof(Wrong)


class Memory(Protocol):
    """Device memory, mapped in this process. A peer opens the `handle` of what this process has
    allocated; `type` names the allocator."""

    address: int
    size_bytes: int
    handle: bytes
    type: str
    flush_register: int  # whose address makes stores into a peer's memory visible; 0: none

    def read(self, offset: int = 0, size_bytes: int | None = None) -> Bytes:
        """A copy of the contents, or of so many bytes from `offset` on."""

    def write(self, data: np.ndarray[Any, Any], offset: int = 0) -> None: ...

    def export(self) -> int | None:
        """A new file descriptor of this process's memory, which the caller closes; None if peers
        open it by its handle alone. Raises DeviceError."""

    def close(self) -> None: ...


@dataclass(frozen=True, eq=False)
class Step:
    """One thing that an iteration does. On the CPU `function` is the address of a C function that
    takes a pointer to `argument`; on a GPU a Python function of (blocks, argument), which puts at
    most `entries` entries into the stream. It keeps `argument` alive. All ranks call
    `after_capture` once a graph has captured it, before they launch the graph. There each of its
    `parts` may lie in a graph of its own."""

    name: str
    function: Any
    argument: Any
    blocks: int = 1
    entries: int = 1
    after_capture: Callable[[], object] | None = None
    parts: tuple["Step", ...] = ()


class Later:
    """A step's function whose file threads compile: `take` waits for it. A launch calls it, too."""

    def __init__(self, load: Callable[[], Any]) -> None:
        self.take = cache(load)

    def __call__(self, *arguments: Any) -> None:
        self.take()(*arguments)


def ready(function: Any) -> Any:
    """A step's function, once its file is compiled."""
    return function.take() if isinstance(function, Later) else function


class CopyEngine(NamedTuple):
    """Makes steps of a device's DMA engines, and of CUDA's flags: 32-bit values at an address. Each
    runs in its stream, which is the kernels' outside of `beside`."""

    copy: Callable[[int, int, int], Step]  # to, from, bytes: both mapped, not both the host
    store: Callable[[int, int], Step]  # address, value: after all that its stream did, seen by all
    wait: Callable[[int, int], Step]  # until the address has the value, without a time limit


# Where in an iteration a rank is; the watch holds the number. PHASES of
# wiretax/record/flight_records.py has the words of each: a phase here needs its words there
# (tests/record/test_flight_records.py).
Phase = IntEnum("Phase", "IDLE PREPARE MEET OPERATION CONSUME CHECK", start=0)


class Action(NamedTuple):
    """One action of an iteration: run `step`; or, without a step, store the time in column `stamp`
    of the iteration's row; or, without either, begin the next iteration. `call` is a number for the
    watch, such as a call's in a chain; a GPU takes only the number that begins an iteration."""

    step: Step | None = None
    phase: Phase = Phase.IDLE
    stamp: int = -1
    call: int = 0


NEXT_ITERATION = Action()


@dataclass(frozen=True)
class Counts:
    """How often a block runs its actions: `warmup` iterations, then `timed` ones, then `checks`
    more. The first `checks` of the warm-up and the last ones end with a check."""

    warmup: int
    timed: int
    checks: int = 0

    @property
    def total(self) -> int:
        return self.warmup + self.timed + self.checks

    def is_timed(self, number: int) -> bool:
        return self.warmup <= number < self.warmup + self.timed

    def is_checked(self, number: int) -> bool:
        return number < self.checks or number >= self.warmup + self.timed


class Device(Protocol):
    """A processor with its compiler and its memory."""

    name: str
    arch: str
    compiler: str
    sharing: tuple[str, ...]  # the modes in which peers can reach its memory, best first
    is_cpu: bool  # a peer's memory is as near as the rank's own, and ranks share a clock
    sharers: int = 1  # ranks on it
    threads: int = 1  # that a block has at most
    over_xgmi: Collection[str] = ()  # bus ids of peers without a PCIe link, as the kernel says
    may_flush_hdp: bool = False  # a peer's host data path may have to be flushed
    flushes_hdp: bool = False  # builds from now on flush peers' host data paths before a flag
    most_graph_nodes: int | None = None  # kernels in a graph; None: any number
    graph_defect: str = ""  # what is known against replays of its graphs
    without_cupy: str = ""  # what drives a GPU in place of CuPy, in words
    most_chunk_bytes: int  # the largest useful chunk of a message
    l1_bytes: int = 0  # a CPU core's first data cache; 0 if nobody knows
    l2_bytes: int = 0  # and its second
    last_level_bytes: int = 0  # the last cache before memory; 0 if nobody knows
    facts: dict[str, Any]  # for readers of results
    loaded: dict[object, Any]  # by a file and its macros
    compilers: "Compilers | None" = None  # compile files of steps that are made from now on
    later: list["Later"]  # the functions of such steps
    xp: Any  # whose arrays its memory is: numpy, cupy, or `hip`, which has no matmul

    def array(self, address: int, shape: tuple[int, ...], dtype: Any) -> Any:
        """Device memory as an array of `xp`."""

    def compile(self, stem: str, macros: Macros, wait: bool = True) -> Path:
        """`kernels/<stem>.cu`, compiled with -D for each macro. Raises CompileError with the
        compiler's first complaint, and without `wait` Busy where somebody else compiles it."""

    def opened(self, path: Path) -> Any:
        """A compiled file, loaded."""

    def load(self, stem: str, macros: Macros) -> Any:
        """`kernels/<stem>.cu`, compiled and loaded. Raises CompileError."""
        return self.opened(self.compile(stem, macros))

    def function(self, loaded: Any, entry: str, threads: int | None) -> Any:
        """A step's function: an entry of a loaded file, launched on a GPU with at most `threads`
        threads a block."""

    def step(
        self,
        stem: str,
        entry: str,
        argument: Any,
        blocks: int = 1,
        threads: int | None = None,
        **macros: str | int,
    ) -> Step:
        """A launch of an entry of `kernels/<stem>.cu`, as `load` and `function` have it. A file is
        loaded once with the same macros; those that change nothing in ours are left out. With
        `compilers` a file of ours is compiled meanwhile."""
        if self.flushes_hdp and stem != LOOP:
            macros["WT_HDP_FLUSH"] = 1
        is_ours = not Path(stem).is_absolute()
        if is_ours:
            macros = {name: macros[name] for name in macros if self.has_effect(name, macros[name])}
        key, compilers = (stem, tuple(sorted(macros.items()))), self.compilers

        def function() -> Any:
            if key not in self.loaded:
                if compilers and key in compilers.started:
                    self.loaded[key] = self.opened(compilers.path(key))
                else:
                    self.loaded[key] = self.load(stem, macros)
            return self.function(self.loaded[key], entry, threads)

        if key in self.loaded or not compilers or not is_ours:
            return Step(entry, function(), argument, blocks)
        compilers.start(key, lambda wait: self.compile(stem, macros, wait))
        self.later.append(Later(function))
        return Step(entry, self.later[-1], argument, blocks)

    def finish_builds(self) -> None:
        """Waits for what `compilers` compile for steps, and loads it. Raises CompileError,
        DeviceError."""
        for each in self.later:
            each.take()

    def has_effect(self, macro: str, value: str | int) -> bool:
        """Whether a build with this macro can differ from one without."""
        if macro in ON_CPUS_ALONE and not self.is_cpu:
            return False
        return default_macros().get(macro) != str(value)

    def loop_step(self, entry: str, argument: Any, blocks: int = 1) -> Step:
        """A launch of iteration.cu, for buffers at any address."""
        return self.step(LOOP, entry, argument, blocks, WT_ELEMENT="Uint8")

    def allocate(self, size_bytes: int, sharing: str, ordinary: bool = False) -> Memory:
        """Zeroed memory that peers can map. `ordinary` memory shows a peer's stores from the next
        launch on, on HIP if the probe finds it so; other memory within a launch."""

    def open(
        self, handle: bytes, size_bytes: int, sharing: str, descriptor: int | None = None
    ) -> Memory:
        """A peer's memory; `descriptor` is what the peer's `export` gave, as this process has it.
        Raises DeviceError if it cannot be mapped, or is other memory."""

    def private(self, size_bytes: int) -> Memory:
        """Zeroed memory of this rank alone."""

    def store(self, array: np.ndarray[Any, Any]) -> Memory:
        """A copy of the array in memory of this rank alone."""
        memory = self.private(array.nbytes)
        memory.write(array)
        return memory

    def watch(self, record: Watch) -> Watch:
        """The watch that kernels write: `record` if they can, otherwise one in pinned memory."""
        return record

    def blocks_for(self, size_bytes: int) -> int:
        """The number of blocks for one pass over this many bytes; the same on every rank."""
        return 1

    def reason_against_graphs(self) -> str | None:
        """Why operations cannot be launched from a captured graph; None where they can."""
        return f"the {self.name} device has no graphs; only GPUs have them"

    def copy_engine(self, memops: bool = False) -> CopyEngine:
        """The device's DMA engines, with `memops` also flags. Raises DeviceError without."""
        raise DeviceError(f"the {self.name} device has no copy engines; GPUs have them")

    def run(
        self,
        actions: Sequence[Action],
        check: Step,
        counts: Counts,
        watch: Watch,
        graph: bool = False,
    ) -> Stamps:
        """Runs a block of iterations natively; returns their stamps in ns, [timed, 4], fewer rows
        after a stop. `graph` launches the actions between two stamps as one captured graph."""

    def time_us(self, step: Step, calls: int, watch: Watch) -> float:
        """The median time of a step over these calls in a row, in microseconds."""
        self.finish_builds()  # compilers would disturb it
        actions = [Action(stamp=0), Action(step), Action(stamp=1)]
        stamps_ns = self.run(actions, step, Counts(0, calls), watch)
        return float(np.median(stamps_ns[:, 1] - stamps_ns[:, 0]) / 1e3)

    def sequence(self, steps: Sequence[Step]) -> Step:
        """The steps one after another, as one step."""

    def beside(self, steps: Sequence[Step]) -> tuple[Step, Step]:
        """The steps in a GPU's second stream: after all steps so far, and beside those that follow.
        And a step that makes those that follow wait for their end."""
        return self.sequence(steps), self.sequence([])

    def python(self, name: str, function: Callable[[], object], entries: int = 1) -> Step:
        """A function of Python as a step. It must not raise. On a GPU it puts at
        most `entries` entries into the stream, and waits for none."""

    def replayed(self, *steps: Step) -> Step:
        """The steps as a replay of captured graphs, where the device has graphs."""
        return self.sequence(steps)

    def caller(self, step: Step) -> Callable[[], None]:
        """A Python function that performs a step once and waits for its end."""
