"""The host as a device: the system's C++ compiler, and memory that processes share.

A block is one thread, a rank one process.
"""

import ctypes
import hashlib
import mmap
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from kernels.devices import shared_memory
from kernels.devices.compile_cache import SOURCES, CompileError, compiled
from kernels.devices.device import (
    Arguments,
    Beside,
    Control,
    DeviceError,
    Draws,
    Gemm,
    Item,
    Kernel,
    LibraryCall,
    Memory,
    Own,
    Plan,
    Step,
    Watch,
    progress,
)
from kernels.devices.shared_memory import HostMemory, SharedMemory

MOST_ITEMS = 1 << 20  # of a matmul beside a block: 3 to 5 us each, in a block of seconds at most
FLAGS = ["-std=c++17", "-O3", "-march=native", "-fwrapv", "-fPIC", "-shared"]


@cache
def find_compiler() -> list[str]:
    """The command of a C++ compiler: `$CXX`, c++, g++, clang++, or the ziglang wheel. Raises CompileError if there is
    none."""
    chosen = os.environ.get("CXX")
    if chosen:
        try:
            command = shlex.split(chosen)
        except ValueError as error:
            raise CompileError(f"$CXX is not a command: {error}") from error
        if not command or shutil.which(command[0]) is None:
            raise CompileError(f"$CXX names {chosen!r}, which is not a program here")
        return command
    for name in ("c++", "g++", "clang++"):
        if shutil.which(name):
            return [name]
    if find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "c++", "-nostdlib++"]
    raise CompileError("no C++ compiler was found: looked for $CXX, c++, g++, clang++ and the ziglang wheel "
                       "(pip install ziglang)")


@cache
def compiler_version() -> str:
    """The first line of the compiler's own `--version`."""
    command = find_compiler()
    try:
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise CompileError(f"{command[0]} --version fails: {error}") from error
    return (done.stdout.splitlines() or ["of unknown version"])[0]


@cache
def cpu_name() -> str:
    """The CPU's model and, hashed, the features that -march=native looks at."""
    first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    lines: dict[str, str] = dict(re.findall(r"^([^\t:]+?)\s*:[ \t]*(.*)$", first, re.MULTILINE))
    model = lines.get("model name") or lines.get("CPU part") or platform.machine()
    features = lines.get("flags") or lines.get("Features") or ""
    return f"{model} {hashlib.sha256(features.encode()).hexdigest()[:8]}"


class CpuModule:
    """A kernel file as a shared library of this process."""

    def __init__(self, path: Path) -> None:
        self.library = ctypes.CDLL(str(path))

    def kernel(self, name: str, threads: int | None = None) -> Kernel:
        return Kernel(name, ctypes.cast(getattr(self.library, name), ctypes.c_void_p).value or 0)


class Loop(ctypes.Structure):
    """`Loop` of loop_cpu.cpp; a step is a function and its argument."""

    _fields_ = [
        *((f"{step}_{part}", ctypes.c_void_p) for step in ("prepare", "meet", "late", "operation", "consume", "check")
          for part in ("run", "argument")),
        ("warmup", ctypes.c_long), ("iterations", ctypes.c_long), ("checks", ctypes.c_long), ("calls", ctypes.c_long),
        ("stamps_ns", ctypes.c_void_p), ("done", ctypes.c_long), ("watch", ctypes.c_void_p)]


class Work(ctypes.Structure):
    """`Beside` of loop_cpu.cpp."""

    _fields_ = [("run", ctypes.c_void_p), ("argument", ctypes.c_void_p), ("turn", ctypes.c_void_p),
                ("turns", ctypes.c_long), ("ends_ns", ctypes.c_void_p), ("most", ctypes.c_long),
                ("done", ctypes.c_long), ("stop", ctypes.c_uint64)]


class CpuDevice:
    """The Device of a host CPU."""

    name = "cpu"
    ways: tuple[str, ...] = (shared_memory.MEMFD, shared_memory.NAMED)
    clock_shared = True
    # On a two-core EPYC that shares a third-level cache, two-shot took 61 us for 1 MiB at 512 KiB, 122 us at 256 KiB
    # and 160 us at 128 KiB: a slot that is used again soon is still in the peer's cache, and storing into such lines
    # runs at a third of the speed.
    most_chunk_bytes = 512 << 10
    far_bytes: float = 2 << 20  # several pages at once: 1.0 to 1.1 times as fast at 2 MiB, 0.9 at 256 KiB

    def __init__(self) -> None:
        self.compiler = compiler_version()
        self.arch = cpu_name().rsplit(" ", 1)[0]
        self.facts: dict[str, Any] = {}
        self.loaded: dict[tuple[Path, tuple[str, ...]], CpuModule] = {}  # asked for 160 times by a model
        self.loop = self._load(Path(__file__).with_name("loop_cpu.cpp"), {})
        layout = (ctypes.c_long * 7).in_dll(self.loop.library, "layout")
        mine = [ctypes.sizeof(kind) for kind in (Arguments, Control, Own, Watch, Loop, LibraryCall, Work)]
        assert list(layout) == mine, f"sync.h and loop_cpu.cpp have structures of {list(layout)} B, not of {mine}"

    def compile(self, stem: str, macros: Mapping[str, str]) -> CpuModule:
        """Compiles `kernels/<stem>.cu` with -D for each macro; raises CompileError with the compiler's first
        complaint."""
        return self._load(SOURCES / f"{stem}.cu", macros)

    def _load(self, source: Path, macros: Mapping[str, str]) -> CpuModule:
        flags = FLAGS + [f"-D{name}={value}" for name, value in sorted(macros.items())]
        if found := self.loaded.get((source, tuple(flags))):
            return found

        def compile_to(unfinished: Path, target: Path) -> None:
            command = [*find_compiler(), "-x", "c++", *flags, str(source), "-o", str(unfinished)]
            # The compiler outlives this process if that is killed; then nobody else would clear away what it makes, or
            # give it its last name.
            whole = ('target=$1; shift; "$@" && [ -e "$0" ] && kill -0 $PPID 2>&- && chmod 600 "$0" '
                     '&& sum=$(sha256sum <"$0") && mv -f "$0" "${target%.so.*}-${sum%% *}.so" '
                     '|| { rm -f "$0"; exit 1; }')
            shell = ["sh", "-c", whole, str(unfinished), str(target), *command]
            done = subprocess.run(shell, capture_output=True, text=True, start_new_session=True)
            if done.returncode:
                said = done.stderr.splitlines() or ["it says nothing, and made nothing"]
                complaint = next((line for line in said if "error" in line), said[0])
                raise CompileError(f"{find_compiler()[0]} cannot compile {source.name}: {complaint[:200]}")

        toolchain = f"{' '.join(find_compiler())} {compiler_version()} {cpu_name()}"
        module = CpuModule(compiled(source, flags, toolchain, ".so", compile_to))
        self.loaded[source, tuple(flags)] = module
        return module

    def allocate(self, size_bytes: int, way: str, ordinary: bool = False, label: str = "") -> SharedMemory:
        return shared_memory.allocate(size_bytes, way, label)

    def forget_name(self, memory: Memory) -> None:
        shared_memory.forget_name(memory.handle)

    def open(self, handle: bytes, size_bytes: int, way: str, label: str = "") -> SharedMemory:
        return shared_memory.open_shared(handle, size_bytes, way, label)

    def private(self, size_bytes: int) -> HostMemory:
        """Anonymous memory in huge pages where the system gives them, touched here."""
        pages = mmap.mmap(-1, max(size_bytes, mmap.PAGESIZE), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        pages.madvise(mmap.MADV_HUGEPAGE)
        memory = HostMemory(pages, size_bytes, b"", "private")
        memory.view[:] = 0
        return memory

    def watch(self, record: Watch) -> Watch:
        return record

    def blocks_for(self, size_bytes: int) -> int:
        return 1

    def reason_against_graphs(self) -> str | None:
        return "the cpu device has no graphs; they are a GPU's"

    def host_kernel(self, name: str) -> Kernel:
        """A function of the loop itself: `call_library`, `call_library_barrier`."""
        return self.loop.kernel(name)

    def run(self, plan: Plan, watch: Watch) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Runs a plan in the native loop; fewer rows than asked come back when the watch said stop."""
        stamps = np.zeros((plan.iterations, 4), np.int64)
        steps = (plan.prepare, plan.meet, plan.late, plan.operation, plan.consume, plan.check)
        pointers = [p for step in steps
                    for p in ((step.kernel.function, ctypes.addressof(step.argument)) if step else (None, None))]
        loop = Loop(*pointers, plan.warmup, plan.iterations, plan.checks, plan.calls, stamps.ctypes.data, 0,
                    ctypes.addressof(watch))
        if plan.beside is None:
            self.loop.library.timed_loop(ctypes.byref(loop))
            return stamps[: loop.done]
        end = self._begin(plan.beside)
        try:
            self.loop.library.timed_loop(ctypes.byref(loop))
        finally:
            ends_ns = end()
        done = stamps[: loop.done]
        return np.column_stack([done, progress(done[:, :2], ends_ns)])

    def mix(self, items: Sequence[Item], launches: int, draws: Draws, watch: Watch) -> None:
        pointers = [pointer for item in items for pointer in (
            *(p for step in (item.prepare, item.operation, item.check)
              for p in (step.kernel.function, ctypes.addressof(step.argument))), 0)]
        table = (ctypes.c_void_p * len(pointers))(*pointers)
        self.loop.library.mixed_loop(table, ctypes.c_long(len(items)), ctypes.c_long(launches), draws,
                                     ctypes.byref(watch))
        for number, item in enumerate(items):
            item.launches += table[7 * number + 6] or 0

    def replayed(self, step: Step) -> Step:
        return step

    def _begin(self, beside: Beside) -> Callable[[], np.ndarray[Any, np.dtype[np.int64]]]:
        """Lets this go on until what is returned is called, which says when each of its launches ended. Raises
        DeviceError where its core cannot be had."""
        ends_ns, argument = np.zeros(MOST_ITEMS, np.int64), ctypes.addressof(beside.step.argument)
        work = Work(beside.step.kernel.function, argument, argument + Gemm.first.offset, beside.items,
                    ends_ns.ctypes.data, MOST_ITEMS)
        refusals = []

        def on_its_core() -> None:
            try:
                os.sched_setaffinity(0, {beside.core or 0})
            except OSError as error:
                refusals.append(f"core {beside.core} cannot be had: {error.strerror}")
            else:
                self.loop.library.work_beside(ctypes.byref(work))

        thread = threading.Thread(target=on_its_core, name="beside")
        thread.start()

        def end() -> np.ndarray[Any, np.dtype[np.int64]]:
            work.stop = 1
            thread.join()
            return ends_ns[: work.done]

        while not work.done and thread.is_alive():
            time.sleep(1e-4)
        if refusals:
            raise DeviceError(refusals[0])
        return end

    def caller(self, step: Step) -> Callable[[], None]:
        """A Python function that performs a step once."""
        function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(step.kernel.function)
        return lambda: function(ctypes.addressof(step.argument))
