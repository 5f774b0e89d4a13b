"""The host CPU as a device: ranks are processes, blocks threads, kernel files shared libraries."""

import contextlib
import ctypes
import mmap
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from ctypes import c_long, c_void_p
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from kernels.devices import shared_memory
from kernels.devices.compile_cache import CompileError, compile_once, first_complaint
from kernels.devices.device import (
    Action,
    Counts,
    Device,
    DeviceError,
    Macros,
    Phase,
    Stamps,
    Step,
    Watch,
    ready,
)
from kernels.devices.layout import SOURCES, Shared
from kernels.devices.shared_memory import HostMemory

FLAGS = ["-std=c++17", "-O3", "-march=native", "-fwrapv", "-fPIC", "-shared"]


class NativeAction(Shared, file="devices/loop_cpu.cpp"):
    """A function and its argument, or a stamp."""

    _fields_ = (
        ("run", c_void_p),
        ("argument", c_void_p),
        ("phase", c_long),
        ("stamp", c_long),
        ("call", c_long),
    )


class LibraryCall(Shared, file="devices/loop_cpu.cpp"):
    """A library's function, its arguments, and the last error."""

    _fields_ = (("function", c_void_p), ("arguments", c_long * 9), ("failed", c_long))


def native_actions(actions: Sequence[Action]) -> Any:
    """The actions as the native loop reads them, in an array that keeps their steps alive."""
    rows: Any = (NativeAction * len(actions))()
    rows.actions = actions
    for row, action in zip(rows, actions, strict=True):
        if action.step:
            row.run = ready(action.step.function)
            row.argument = ctypes.addressof(action.step.argument)
        row.phase, row.stamp, row.call = action.phase, action.stamp, action.call
    return rows


@cache
def find_compiler() -> list[str]:
    """The command of a C++ compiler: `$CXX`, or one that is here. Raises CompileError without."""
    if chosen := os.environ.get("CXX", "").split():
        return chosen
    for name in "c++", "g++", "clang++":
        if shutil.which(name):
            return [name]
    if (wheel := find_spec("ziglang")) and wheel.origin:
        return [str(Path(wheel.origin).with_name("zig")), "c++", "-nostdlib++"]
    raise CompileError(
        "no C++ compiler was found: looked for $CXX, c++, g++, clang++ and the "
        "ziglang wheel (pip install ziglang)"
    )


@cache
def compiler_version() -> str:
    """The first line that the compiler prints for `--version`."""
    command = find_compiler()
    try:
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise CompileError(f"{command[0]} --version fails: {error}") from error
    return done.stdout.partition("\n")[0]


@cache
def cpu_model() -> tuple[str, str]:
    """The CPU's model, and its features, which -march=native uses."""
    first = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    facts = dict(re.findall(r"^(.*?)\s*: (.*\S)", first, re.MULTILINE))
    model = facts.get("model name") or facts.get("CPU part") or platform.machine()
    return model, facts.get("flags") or facts.get("Features") or ""


def cache_bytes(index: int) -> int:
    """What a core's data cache (0), second-level (2) or third-level cache (3) holds; 0 without one,
    or if the system does not say."""
    with contextlib.suppress(OSError, ValueError):
        size = Path(f"/sys/devices/system/cpu/cpu0/cache/index{index}/size").read_text()
        return int(size.rstrip("K\n")) << 10
    return 0


def load(source: Path, macros: Macros) -> ctypes.CDLL:
    """`source`, compiled with -D for each macro, as a shared library of this process. Raises
    CompileError with the first complaint."""
    return ctypes.CDLL(str(compile_library(source, macros)))


def compile_library(source: Path, macros: Macros, wait: bool = True) -> Path:
    """`source`, compiled with -D for each macro. Raises as `compile_once`."""
    compiler = find_compiler()

    def build(path: Path, options: list[str], checks: str) -> None:
        # The checks come from standard input and follow the kernel file, which -include reads.
        command = [*compiler, *FLAGS, *options, "-include", str(source), "-x", "c++", "-"]
        command += [f"-I{SOURCES}", "-o", str(path)]
        # A new session: Ctrl-C must not end the compiler, which would look like a compile error.
        done = subprocess.run(
            command, input=checks, capture_output=True, text=True, start_new_session=True
        )
        if done.returncode:
            log = done.stderr.strip() or f"it ends with status {done.returncode}"
            raise CompileError(
                f"{compiler[0]} cannot compile {source.name}: {first_complaint(log)}"
            )

    inputs = [*compiler, compiler_version(), *cpu_model(), *FLAGS]
    return compile_once(source, inputs, macros, build, wait)


class CpuDevice(Device):
    """The host CPU."""

    name = "cpu"
    sharing = (shared_memory.MEMFD,)
    is_cpu = True
    xp = np
    most_chunk_bytes = 512 << 10

    def __init__(self) -> None:
        self.compiler, self.arch, self.facts = compiler_version(), cpu_model()[0], {}
        self.loaded, self.later = {}, []
        self.loop = load(Path(__file__).with_name("loop_cpu.cpp"), {})
        self.l1_bytes, self.l2_bytes = cache_bytes(0), cache_bytes(2)
        self.last_level_bytes = self.l2_bytes + cache_bytes(3)  # where L3 holds what L2 evicts

    def compile(self, stem: str, macros: Macros, wait: bool = True) -> Path:
        return compile_library(SOURCES / f"{stem}.cu", macros, wait)

    def opened(self, path: Path) -> ctypes.CDLL:
        return ctypes.CDLL(str(path))

    def function(self, loaded: ctypes.CDLL, entry: str, threads: int | None = None) -> Any:
        try:
            return ctypes.cast(getattr(loaded, entry), c_void_p).value
        except AttributeError as error:
            stem = Path(loaded._name).name.partition("-")[0]
            raise DeviceError(f"{stem}.cu has no RANK_KERNEL({entry})") from error

    def allocate(self, size_bytes: int, sharing: str, ordinary: bool = False) -> HostMemory:
        return shared_memory.allocate(size_bytes)

    def open(
        self, handle: bytes, size_bytes: int, sharing: str, descriptor: int | None = None
    ) -> HostMemory:
        return shared_memory.open_shared(handle, size_bytes)

    def private(self, size_bytes: int) -> HostMemory:
        """Anonymous memory, in huge pages where the system grants them, touched by this process."""
        pages = mmap.mmap(-1, max(size_bytes, 1), flags=mmap.MAP_PRIVATE)  # and MAP_ANONYMOUS
        pages.madvise(mmap.MADV_HUGEPAGE)
        memory = HostMemory(pages, size_bytes)
        memory.view[:] = 0
        return memory

    def array(self, address: int, shape: tuple[int, ...], dtype: Any) -> Any:
        size_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        memory = (ctypes.c_char * size_bytes).from_address(address)
        return np.frombuffer(memory, dtype).reshape(shape)

    def run(
        self,
        actions: Sequence[Action],
        check: Step,
        counts: Counts,
        watch: Watch,
        graph: bool = False,
    ) -> Stamps:
        stamps_ns = np.zeros((counts.timed + 1, 4), np.int64)
        numbers = len(actions), counts.warmup, counts.timed, counts.checks
        done = self.loop.run_block(
            native_actions([*actions, Action(check, Phase.CHECK)]),
            *map(c_long, numbers),
            c_void_p(stamps_ns.ctypes.data),
            ctypes.byref(watch),
        )
        return stamps_ns[:done]

    def sequence(self, steps: Sequence[Step]) -> Step:
        ended = [*map(Action, steps), Action()]  # the last one runs nothing
        function = self.function(self.loop, "run_sequence")
        return Step("steps in a row", function, native_actions(ended))

    def python(self, name: str, function: Callable[[], object], entries: int = 1) -> Step:
        callback = ctypes.CFUNCTYPE(None)(function)
        # It ignores its argument, which the step keeps alive.
        return Step(name, ctypes.cast(callback, c_void_p).value, callback)

    def caller(self, step: Step) -> Callable[[], None]:
        function = ctypes.CFUNCTYPE(None, c_void_p)(ready(step.function))
        return lambda: function(ctypes.addressof(step.argument))
