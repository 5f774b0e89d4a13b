"""A kernel file on a GPU: compiled by NVRTC or hipRTC through CuPy for one architecture, kept in our cache, loaded."""

import ctypes
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kernels.devices.compile_cache import SOURCES, CompileError, compiled
from kernels.devices.device import Kernel


class GpuModule:
    """A kernel file, loaded; launches have so many threads a block at most."""

    def __init__(self, module: Any, threads: int, calling: Callable[[str], Any]) -> None:
        self.module, self.threads, self.calling = module, threads, calling

    def kernel(self, name: str, threads: int | None = None) -> Kernel:
        threads = min(threads or self.threads, self.threads)
        with self.calling(f"looking up {name}"):
            function = self.module.get_function(name)
            # To ask is to load: at its first launch it would wait for the device, behind a closed gate.
            self.registers = function.num_regs

        def enqueue(blocks: int, argument: Any) -> None:
            # One array of size 1 is an argument by value.
            value = np.frombuffer(argument, np.dtype((np.void, ctypes.sizeof(argument))))
            function((blocks,), (threads,), (value,))

        return Kernel(name, enqueue)


def compile_kernel(cupy: Any, arch: str, compiler: str, stem: str, macros: Mapping[str, str]) -> Path:
    """`kernels/<stem>.cu`, compiled for `sm_90` or `gfx1201` with -D for each macro. Raises CompileError as `build`."""
    source, is_hip = SOURCES / f"{stem}.cu", arch.startswith("gfx")
    target = [f"--offload-arch={arch}", "-O3"] if is_hip else [f"--gpu-architecture={arch}"]
    options = [*target, "-std=c++17", *(f"-D{name}={value}" for name, value in sorted(macros.items()))]
    refusal = f"{compiler} cannot compile {source.name} for {arch}"

    def compile_to(unfinished: Path, target: Path) -> None:
        unfinished.write_bytes(build(cupy.cuda.nvrtc, source, options, refusal)[1])
        unfinished.replace(target)

    return compiled(source, options, compiler, ".hsaco" if is_hip else ".cubin", compile_to)


def build(nvrtc: Any, source: Path, options: Sequence[str], refusal: str) -> tuple[bytes, bytes, str]:
    """The compiler's PTX, its binary, and its log. Raises CompileError, the refusal with the first complaint."""
    program = nvrtc.createProgram(source.read_text(), source.name, [], [])
    try:
        nvrtc.compileProgram(program, (*options, f"-I{source.parent}", f"-I{SOURCES}/include"))
        # On HIP the code object comes by the name of PTX. CuPy takes the last byte, a zero, for a string's end.
        ptx = nvrtc.getPTX(program)
        binary = ptx if options[0].startswith("--offload-arch") else nvrtc.getCUBIN(program)
        return ptx, binary + b"\0", nvrtc.getProgramLog(program)
    except RuntimeError as error:
        said = [line for line in nvrtc.getProgramLog(program).splitlines() if "error" in line]
        raise CompileError(f"{refusal}: {(said or [str(error)])[0][:200]}") from error
    finally:
        nvrtc.destroyProgram(program)
