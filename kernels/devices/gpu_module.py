"""A kernel file on a GPU: NVRTC or hipRTC compiles it through CuPy, and CuPy loads it."""

import ctypes
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kernels.devices.compile_cache import (
    SOURCES,
    CompileError,
    compile_once,
    first_complaint,
    layout_checks,
)
from kernels.devices.device import Kernel


class GpuModule:
    """A kernel file, loaded. A launch has at most `threads` threads per block."""

    def __init__(self, module: Any, threads: int, calling: Callable[[str], Any]) -> None:
        self.module, self.threads, self.calling = module, threads, calling

    def kernel(self, name: str, threads: int | None = None) -> Kernel:
        threads = min(threads or self.threads, self.threads)
        with self.calling(f"looking up {name}"):
            function = self.module.get_function(name)
            # This query loads the kernel. The first launch would load it otherwise, and wait for
            # the device behind a closed gate.
            self.registers = function.num_regs

        def enqueue(blocks: int, argument: Any) -> None:
            # CuPy passes an array of size 1 by value.
            value = np.frombuffer(argument, np.dtype((np.void, ctypes.sizeof(argument))))
            function((blocks,), (threads,), (value,))

        return Kernel(name, enqueue)


def compile_kernel(cupy: Any, arch: str, compiler: str, stem: str, macros: Mapping[str, str],
                   structures: Sequence[type[ctypes.Structure]] = ()) -> Path:
    """`kernels/<stem>.cu`, compiled for `sm_90` or `gfx1201` with -D for each macro. Raises
    CompileError, also if one of `structures` has another layout in C++ than in Python."""
    source, is_hip = SOURCES / f"{stem}.cu", arch.startswith("gfx")
    target = [f"--offload-arch={arch}", "-O3"] if is_hip else [f"--gpu-architecture={arch}"]
    macro_options = [f"-D{name}={value}" for name, value in sorted(macros.items())]
    options = [*target, "-std=c++17", *macro_options]
    refusal = f"{compiler} cannot compile {source.name} for {arch}"
    checks = layout_checks(structures)

    def write_binary(path: Path) -> None:
        path.write_bytes(build(cupy.cuda.nvrtc, source, options, refusal, checks)[1])

    suffix = ".hsaco" if is_hip else ".cubin"
    return compile_once(source, [compiler, *options, checks], suffix, write_binary)


def build(nvrtc: Any, source: Path, options: Sequence[str], refusal: str,
          checks: str = "") -> tuple[bytes, bytes, str]:
    """The compiler's PTX, binary and log; `checks` is C++ text that follows the source. Raises
    CompileError: `refusal` and the first complaint."""
    program = nvrtc.createProgram(source.read_text() + checks, source.name, [], [])
    try:
        folders = f"-I{source.parent}", f"-I{SOURCES}/include"
        nvrtc.compileProgram(program, (*options, *folders))
        # On HIP, getPTX returns the code object. CuPy drops its last byte, a 0, as a string's end.
        ptx = nvrtc.getPTX(program)
        binary = ptx if options[0].startswith("--offload-arch") else nvrtc.getCUBIN(program)
        return ptx, binary + b"\0", nvrtc.getProgramLog(program)
    except RuntimeError as error:
        complaint = first_complaint(f"{error}\n{nvrtc.getProgramLog(program)}")
        raise CompileError(f"{refusal}: {complaint}") from error
    finally:
        nvrtc.destroyProgram(program)
