"""A kernel file on the CPU: finds the C++ compiler, compiles a shared library, and loads it."""

import contextlib
import ctypes
import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from kernels.devices.compile_cache import CompileError, compile_once, first_complaint, layout_checks
from kernels.devices.device import Kernel

FLAGS = ["-std=c++17", "-O3", "-march=native", "-fwrapv", "-fPIC", "-shared"]


class CpuModule:
    """A kernel file, loaded as a shared library of this process."""

    def __init__(self, path: Path) -> None:
        self.library = ctypes.CDLL(str(path))

    def kernel(self, name: str, threads: int | None = None) -> Kernel:
        return Kernel(name, ctypes.cast(getattr(self.library, name), ctypes.c_void_p).value or 0)


@cache
def find_compiler() -> list[str]:
    """The command of a C++ compiler: `$CXX`, c++, g++, clang++, or the ziglang wheel.

    Raises CompileError if `$CXX` is not a command, or if no compiler is installed.
    """
    if chosen := os.environ.get("CXX"):
        with contextlib.suppress(ValueError, IndexError):  # an open quote; nothing but spaces
            command = shlex.split(chosen)
            if shutil.which(command[0]):
                return command
        raise CompileError(f"$CXX names {chosen!r}, which is not a program here")
    for name in ("c++", "g++", "clang++"):
        if shutil.which(name):
            return [name]
    if find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "c++", "-nostdlib++"]
    raise CompileError("no C++ compiler was found: looked for $CXX, c++, g++, clang++ and the "
                       "ziglang wheel (pip install ziglang)")


@cache
def compiler_version() -> str:
    """The first line that the compiler prints for `--version`."""
    command = find_compiler()
    try:
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise CompileError(f"{command[0]} --version fails: {error}") from error
    return (done.stdout.splitlines() or ["unknown version"])[0]


@cache
def cpu_name() -> str:
    """The CPU's model, and a hash of the features that -march=native uses."""
    first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    pattern = re.compile(r"^([^\t:]+?)\s*:[ \t]*(.*)$", re.MULTILINE)
    lines: dict[str, str] = dict(pattern.findall(first))
    model = lines.get("model name") or lines.get("CPU part") or platform.machine()
    features = lines.get("flags") or lines.get("Features") or ""
    return f"{model} {hashlib.sha256(features.encode()).hexdigest()[:8]}"


def compile_kernel(source: Path, macros: Mapping[str, str],
                   structures: Sequence[type[ctypes.Structure]] = ()) -> Path:
    """`source`, compiled with -D for each macro. Raises CompileError with the first complaint, also
    if one of `structures` has another layout in C++ than in Python."""
    compiler = find_compiler()
    options = [*FLAGS, *(f"-D{name}={value}" for name, value in sorted(macros.items()))]
    checks = layout_checks(structures)

    def build(path: Path) -> None:
        # The checks come from standard input and follow the kernel file, which -include reads.
        command = [*compiler, *options, "-include", str(source), "-x", "c++", "-", "-o", str(path)]
        # A new session: Ctrl-C must not end the compiler, which would look like a compile error.
        done = subprocess.run(command, input=checks, capture_output=True, text=True,
                              start_new_session=True)
        if done.returncode:
            log = done.stderr.strip() or f"it ends with status {done.returncode}"
            complaint = first_complaint(log)
            raise CompileError(f"{compiler[0]} cannot compile {source.name}: {complaint}")

    inputs = [*compiler, compiler_version(), cpu_name(), *options, checks]
    return compile_once(source, inputs, ".so", build)
