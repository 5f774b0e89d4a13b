"""The host CPU as a device: a block is one thread, a rank is one process."""

import ctypes
import mmap
from collections.abc import Callable, Mapping, Sequence
from ctypes import c_long, c_void_p
from pathlib import Path
from typing import Any

import numpy as np

from kernels.devices import shared_memory
from kernels.devices.compile_cache import SOURCES
from kernels.devices.cpu_module import CpuModule, compile_kernel, compiler_version, cpu_name
from kernels.devices.device import Action, Counts, Kernel, Memory, Phase, Stamps, Step, Watch
from kernels.devices.shared_memory import HostMemory


class NativeAction(ctypes.Structure):
    """`NativeAction` of loop_cpu.cpp: a function and its argument, or a stamp."""

    _fields_ = [("run", c_void_p), ("argument", c_void_p), ("phase", c_long), ("stamp", c_long),
                ("call", c_long)]


class NativeBlock(ctypes.Structure):
    """`NativeBlock` of loop_cpu.cpp: a block of iterations."""

    _fields_ = [("actions", c_void_p), ("n_actions", c_long), ("check", NativeAction),
                ("warmup", c_long), ("timed", c_long), ("checks", c_long), ("stamps_ns", c_void_p),
                ("done", c_long), ("watch", c_void_p)]


class ActionList(ctypes.Structure):
    """`ActionList` of loop_cpu.cpp: functions one after another."""

    _fields_ = [("actions", c_void_p), ("n_actions", c_long)]


class LibraryCall(ctypes.Structure):
    """`LibraryCall` of loop_cpu.cpp: a library's function, its arguments, and the last error."""

    _fields_ = [("function", c_void_p), ("arguments", c_long * 9), ("failed", c_long)]


def native_actions(actions: Sequence[Action]) -> "ctypes.Array[NativeAction]":
    """The actions as the native loop reads them; the steps must outlive the array."""
    rows = (NativeAction * len(actions))()
    for row, action in zip(rows, actions, strict=True):
        if action.step:
            row.run = action.step.kernel.function
            row.argument = ctypes.addressof(action.step.argument)
        row.phase, row.stamp, row.call = action.phase, action.stamp, action.call
    return rows


class CpuDevice:
    """The Device of a host CPU."""

    name = "cpu"
    sharing: tuple[str, ...] = (shared_memory.MEMFD, shared_memory.NAMED)
    near_peers = True
    clock_shared = True
    xp = np
    # Two-shot took 61 us for 1 MiB in chunks of 512 KiB, 122 us in 256 KiB and 160 us in 128 KiB
    # (two-core EPYC, shared L3). A slot that is reused soon is still in the peer's cache, and
    # stores into such lines run at a third of the speed.
    most_chunk_bytes = 512 << 10
    far_bytes: float = 2 << 20  # walking several pages at once: 1.0-1.1x at 2 MiB, 0.9x at 256 KiB

    def __init__(self) -> None:
        self.compiler = compiler_version()
        self.arch = cpu_name().rsplit(" ", 1)[0]
        self.facts: dict[str, Any] = {}
        self.loaded: dict[tuple[str, tuple[tuple[str, str], ...]], CpuModule] = {}
        source = Path(__file__).with_name("loop_cpu.cpp")
        structures = NativeAction, NativeBlock, ActionList, LibraryCall
        self.loop = CpuModule(compile_kernel(source, {}, structures))

    def compile(self, stem: str, macros: Mapping[str, str],
                structures: Sequence[type[ctypes.Structure]] = ()) -> CpuModule:
        key = stem, tuple(sorted(macros.items()))
        if key not in self.loaded:
            path = compile_kernel(SOURCES / f"{stem}.cu", macros, structures)
            self.loaded[key] = CpuModule(path)
        return self.loaded[key]

    def host_kernel(self, name: str) -> Kernel:
        """A function of the native loop itself, such as `call_library`."""
        return self.loop.kernel(name)

    def allocate(self, size_bytes: int, sharing: str, ordinary: bool = False,
                 label: str = "") -> HostMemory:
        return shared_memory.allocate(size_bytes, sharing, label)

    def forget_name(self, memory: Memory) -> None:
        shared_memory.forget_name(memory.handle)

    def open(self, handle: bytes, size_bytes: int, sharing: str, label: str = "") -> HostMemory:
        return shared_memory.open_shared(handle, size_bytes, sharing, label)

    def private(self, size_bytes: int) -> HostMemory:
        """Anonymous memory, in huge pages where the system grants them, touched by this process."""
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        pages = mmap.mmap(-1, max(size_bytes, mmap.PAGESIZE), flags=flags)
        pages.madvise(mmap.MADV_HUGEPAGE)
        memory = HostMemory(pages, size_bytes)
        memory.view[:] = 0
        return memory

    def array(self, address: int, shape: tuple[int, ...], dtype: Any) -> Any:
        size_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        memory = (ctypes.c_char * size_bytes).from_address(address)
        return np.frombuffer(memory, dtype).reshape(shape)

    def watch(self, record: Watch) -> Watch:
        return record

    def blocks_for(self, size_bytes: int) -> int:
        return 1

    def reason_against_graphs(self) -> str | None:
        return "the cpu device has no graphs; only GPUs have them"

    def run(self, actions: Sequence[Action], check: Step, counts: Counts, watch: Watch,
            graph: bool = False) -> Stamps:
        """Runs the actions in the native loop; fewer rows come back where the watch says stop."""
        stamps_ns = np.zeros((counts.timed, 4), np.int64)
        listed, last = native_actions(actions), Action(check, Phase.CHECK)
        block = NativeBlock(ctypes.addressof(listed), len(listed), native_actions([last])[0],
                            counts.warmup, counts.timed, counts.checks, stamps_ns.ctypes.data, 0,
                            ctypes.addressof(watch))
        self.loop.library.run_block(ctypes.byref(block))
        return stamps_ns[: block.done]

    def sequence(self, steps: Sequence[Step]) -> Step:
        listed = native_actions([Action(step) for step in steps])
        action_list = ActionList(ctypes.addressof(listed), len(listed))
        action_list.keep_alive = listed, tuple(steps)
        return Step(self.host_kernel("run_sequence"), action_list)

    def replayed(self, step: Step) -> Step:
        return step

    def caller(self, step: Step) -> Callable[[], None]:
        function = ctypes.CFUNCTYPE(None, c_void_p)(step.kernel.function)
        return lambda: function(ctypes.addressof(step.argument))
