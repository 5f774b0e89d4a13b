"""What the kernels take of a GPU, as their compilers tell: none of it needs a GPU or a driver.

NVIDIA's figures are read from the cubin that NVRTC makes, AMD's from the assembly that clang makes.
"""

import ctypes
import re
import shutil
import struct
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from kernels.module import SOURCES, CompileError

ARCHITECTURES = ("sm_80", "sm_90", "sm_120", "gfx942", "gfx1100", "gfx1201")
BLOCK_THREADS = 512  # the most that the kernels promise the compiler
# Threads that a multiprocessor holds at most: CUDA C++ Programming Guide, "Technical Specifications per
# Compute Capability". It has 65,536 registers in all three, given to warps by 256, a quarter to each of its four parts.
SM_THREADS = {"sm_80": 2048, "sm_90": 2048, "sm_120": 1536}
CLANGS = ("clang-22", "amdclang++", "/opt/rocm/llvm/bin/clang++")


@dataclass(frozen=True)
class Resources:
    """Of one kernel on one architecture. `registers` are a thread's (AMD: VGPRs), `scalars` a wave's SGPRs, `spills`
    registers that did not fit (NVIDIA: counted in `stack_bytes`), `blocks` those of 512 threads that a multiprocessor
    holds at once: an SM, a CU on gfx9, a WGP on RDNA."""

    kernel: str
    architecture: str
    registers: int
    scalars: int | None
    shared_bytes: int
    stack_bytes: int
    spills: int
    blocks: int
    wave: int


@cache
def nvrtc() -> ctypes.CDLL:
    """NVRTC's library, of the wheel or of the system. Raises CompileError where there is none."""
    try:
        from cuda.pathfinder import load_nvidia_dynamic_lib

        return ctypes.CDLL(str(load_nvidia_dynamic_lib("nvrtc").abs_path))
    except (ImportError, RuntimeError, OSError) as error:
        raise CompileError("no NVRTC was found: pip install nvidia-cuda-nvrtc cuda-pathfinder") from error


@cache
def clang() -> str:
    """A clang that compiles for AMD's GPUs. Raises CompileError where there is none."""
    for name in CLANGS:
        if found := shutil.which(name):
            return found
    raise CompileError(f"no clang for AMD GPUs was found: looked for {', '.join(CLANGS)}")


def compile_for(source: Path, architecture: str, macros: Mapping[str, str]) -> tuple[str, list[Resources]]:
    """The PTX or assembly of a kernel file, and what each kernel in it takes. Raises CompileError with the compiler's
    first complaint, or where there is no compiler."""
    defines = [f"-D{name}={value}" for name, value in macros.items()]
    if architecture.startswith("sm_"):
        text, cubin = _by_nvrtc(source, [f"--gpu-architecture={architecture}", "-std=c++17", *defines])
        return text, cuda_resources(cubin, architecture)
    text = _by_clang(source, [f"--offload-arch={architecture}", "-std=c++17", "-O3", *defines])
    return text, amd_resources(text, architecture)


def _by_nvrtc(source: Path, options: list[str]) -> tuple[str, bytes]:
    library, program = nvrtc(), ctypes.c_void_p()

    def fetch(what: str) -> bytes:
        size = ctypes.c_size_t()
        getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
        data = ctypes.create_string_buffer(size.value)
        getattr(library, f"nvrtcGet{what}")(program, data)
        return data.raw

    library.nvrtcCreateProgram(ctypes.byref(program), source.read_bytes(), source.name.encode(), 0, None, None)
    try:
        given = [option.encode() for option in (*options, f"-I{source.parent}")]
        if library.nvrtcCompileProgram(program, len(given), (ctypes.c_char_p * len(given))(*given)):
            raise _refused(source, options[0], fetch("ProgramLog").decode())
        return fetch("PTX").decode(), fetch("CUBIN")
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _by_clang(source: Path, options: list[str]) -> str:
    # The prelude stands for what hipRTC declares before the first line.
    hip = ["-x", "hip", "--cuda-device-only", "--no-gpu-bundle-output", "-nogpulib", "-nogpuinc", "-S", "-o", "-"]
    command = [clang(), *hip, *options, "-include", str(SOURCES / "hip_prelude.h"), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise _refused(source, options[0], done.stderr)
    return done.stdout


def _refused(source: Path, architecture: str, said: str) -> CompileError:
    complaint = next((line for line in said.splitlines() if "error" in line), said[:200])
    return CompileError(f"{source.name} does not compile with {architecture}: {complaint[:200]}")


def cuda_resources(cubin: bytes, architecture: str) -> list[Resources]:
    """Of each kernel in a cubin, an ELF file: registers and stack from its section .nv.info, shared memory from the
    size of .nv.shared.<kernel>."""
    start, _flags, _, _, _, section_bytes, count, names = struct.unpack_from("<QIHHHHHH", cubin, 40)
    headers = [struct.unpack_from("<IIQQQQ", cubin, start + i * section_bytes) for i in range(count)]

    def text_at(offset: int) -> str:
        return cubin[offset : cubin.index(b"\0", offset)].decode()

    sections = {text_at(headers[names][4] + name): (offset, size) for name, _, _, _, offset, size in headers}
    symbols, strings = sections[".symtab"][0], sections[".strtab"][0]
    found: dict[int, dict[int, int]] = {}
    at, size = sections[".nv.info"]
    end = at + size
    while at < end:
        form, attribute, length = struct.unpack_from("<BBH", cubin, at)
        at += 4
        if form == 4:  # a record of `length` bytes; in other forms the length is the value
            symbol, value = struct.unpack_from("<II", cubin, at)
            found.setdefault(attribute, {})[symbol] = value
            at += length
    registers, frames = found[0x2F], found[0x11]  # EIATTR_REGCOUNT, EIATTR_FRAME_SIZE
    kernels = []
    for symbol, used in registers.items():
        name = text_at(strings + struct.unpack_from("<I", cubin, symbols + 24 * symbol)[0])
        shared = sections.get(f".nv.shared.{name}", (0, 0))[1]
        warps = 4 * (65536 // 4 // (-(-used * 32 // 256) * 256))
        blocks = min(warps * 32, SM_THREADS[architecture]) // BLOCK_THREADS
        kernels.append(Resources(name, architecture, used, None, shared, frames[symbol], 0, blocks, 32))
    return sorted(kernels, key=lambda r: r.kernel)


def amd_resources(assembly: str, architecture: str) -> list[Resources]:
    """Of each kernel in an assembly file: its metadata, and LLVM's own figure of the waves that a SIMD holds."""
    kernels = []
    for part in re.findall(r"\.group_segment_fixed_size:.*?\.wavefront_size: +\d+", assembly, re.DOTALL):
        stated = dict(re.findall(r"\.(\w+): +(\S+)", part))
        name, wave = stated["name"], int(stated["wavefront_size"])
        occupancy = re.search(rf"^{name}:.*?^; Occupancy: (\d+)", assembly, re.MULTILINE | re.DOTALL)
        assert occupancy, f"no occupancy of {name} in the assembly for {architecture}"
        kernels.append(
            Resources(
                kernel=name,
                architecture=architecture,
                registers=int(stated["vgpr_count"]),
                scalars=int(stated["sgpr_count"]),
                shared_bytes=int(stated["group_segment_fixed_size"]),
                stack_bytes=int(stated["private_segment_fixed_size"]),
                spills=int(stated["vgpr_spill_count"]) + int(stated["sgpr_spill_count"]),
                blocks=4 * int(occupancy[1]) * wave // BLOCK_THREADS,  # four SIMDs, of a CU or of a WGP
                wave=wave,
            )
        )
    return sorted(kernels, key=lambda r: r.kernel)
