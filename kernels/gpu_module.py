"""A kernel file on a GPU: compiled by NVRTC or hipRTC through CuPy for one architecture, kept in our cache, loaded."""

import ctypes
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kernels.device import Kernel
from kernels.module import SOURCES, CompileError, compiled


class GpuModule:
    """A kernel file, loaded; launches have so many threads a block."""

    def __init__(self, module: Any, threads: int, calling: Callable[[str], Any]) -> None:
        self.module, self.threads, self.calling = module, threads, calling

    def kernel(self, name: str) -> Kernel:
        with self.calling(f"looking up {name}"):
            function = self.module.get_function(name)
            # To ask is to load: at its first launch it would wait for the device, behind a closed gate.
            self.registers = function.num_regs

        def enqueue(blocks: int, argument: Any) -> None:
            # One array of size 1 is an argument by value.
            value = np.frombuffer(argument, np.dtype((np.void, ctypes.sizeof(argument))))
            function((blocks,), (self.threads,), (value,))

        return Kernel(name, enqueue)


def compile_kernel(cupy: Any, arch: str, compiler: str, stem: str, macros: Mapping[str, str]) -> Path:
    """The compiled form of `kernels/<stem>.cu` for `sm_90` or `gfx1201`, with -D for each macro. Raises CompileError
    with the compiler's first complaint."""
    source, nvrtc, is_hip = SOURCES / f"{stem}.cu", cupy.cuda.nvrtc, arch.startswith("gfx")
    defines = [f"-D{name}={value}" for name, value in sorted(macros.items())]
    target = [f"--offload-arch={arch}", "-O3"] if is_hip else [f"--gpu-architecture={arch}"]
    options = [*target, "-std=c++17", *defines]

    def compile_to(path: Path) -> None:
        program = nvrtc.createProgram(source.read_text(), source.name, [], [])
        try:
            nvrtc.compileProgram(program, (*options, f"-I{SOURCES}"))
            # On HIP the code object comes by the name of PTX. CuPy takes the last byte, a zero, for a string's end.
            code = nvrtc.getPTX(program) if is_hip else nvrtc.getCUBIN(program)
            path.write_bytes(code + b"\0")
        except RuntimeError as error:
            said = [line for line in nvrtc.getProgramLog(program).splitlines() if "error" in line]
            raise CompileError(
                f"{compiler} cannot compile {source.name} for {arch}: {(said or [str(error)])[0][:200]}"
            ) from error
        finally:
            nvrtc.destroyProgram(program)

    return compiled(source, options, compiler, ".hsaco" if is_hip else ".cubin", compile_to)
