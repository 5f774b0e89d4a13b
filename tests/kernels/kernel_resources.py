"""Reads the kernels' GPU resources from compiler output, without a GPU or a driver.

`python -m tests.kernels.kernel_resources [ARCHITECTURE ...]` prints kernels.csv of
docs/experiments/data.
NVIDIA's figures come from NVRTC's log of the cubin, AMD's from clang's assembly.
"""

import csv
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from kernels.devices.compile_cache import SOURCES, CompileError
from kernels.devices.device import DeviceError
from kernels.devices.gpu_driver import build, compiler_flags, load_cupy

PRELUDE = Path(__file__).parents[1] / "hip_prelude.h"
ARCHITECTURES = ("sm_80", "sm_90", "sm_120", "gfx942", "gfx1100", "gfx1201")
BLOCK_THREADS = 512  # the kernels' launch bounds
# The most threads that a multiprocessor holds: CUDA C++ Programming Guide, "Technical
# Specifications per Compute Capability". All three have 65,536 registers in four equal partitions,
# and give them to warps in units of 256.
SM_THREADS = {"sm_80": 2048, "sm_90": 2048, "sm_120": 1536}
AMD_FIGURES = (
    "vgpr_count",
    "sgpr_count",
    "group_segment_fixed_size",
    "private_segment_fixed_size",
    "vgpr_spill_count",
    "sgpr_spill_count",
)
CLANGS = ("clang-22", "amdclang++", "/opt/rocm/llvm/bin/clang++")


@dataclass(frozen=True)
class Resources:
    """Resources of one kernel on one architecture. `registers`: per thread (AMD: VGPRs); `scalars`:
    SGPRs per wave; `spills`: registers that did not fit (NVIDIA: counted in `stack_bytes`);
    `blocks`: blocks of 512 threads that a multiprocessor (an SM, a CU on gfx9, a WGP on RDNA) holds
    at once."""

    kernel: str
    architecture: str
    registers: int
    scalars: int | None
    shared_bytes: int
    stack_bytes: int
    spills: int
    blocks: int
    wave: int


class Built(msgspec.Struct):
    """A compiled kernel file: PTX or assembly, the resources of each kernel, and NVRTC's binary and
    log."""

    text: str
    kernels: list[Resources]
    binary: bytes = b""
    log: str = ""


class NoCompiler(CompileError):
    """A compiler is not installed; the text is the reason to skip a test."""


@cache
def nvrtc() -> Any:
    """CuPy's NVRTC. Raises NoCompiler without it."""
    try:
        cupy = load_cupy()
        cupy.cuda.nvrtc.getVersion()  # loads NVRTC
    except (DeviceError, RuntimeError) as error:
        raise NoCompiler(f"no NVRTC was found: {error}") from error
    if cupy.cuda.runtime.is_hip:
        raise NoCompiler("no NVRTC was found: the installed CuPy is built for ROCm")
    return cupy.cuda.nvrtc


@cache
def clang() -> str:
    """A clang that compiles for AMD's GPUs. Raises NoCompiler without one."""
    for name in CLANGS:
        if path := shutil.which(name):
            return path
    raise NoCompiler(f"system tool absent: {CLANGS[0]}")


def compile_for(source: Path, architecture: str, macros: Mapping[str, str]) -> Built:
    """Compiles a kernel file. Raises CompileError, also without a compiler."""
    options = [f"-D{name}={value}" for name, value in macros.items()]
    if architecture.startswith("sm_"):
        flags = [*compiler_flags(architecture), "--ptxas-options=-v", *options]
        refusal = f"{source.name} does not compile for {architecture}"
        ptx, binary, log = build(nvrtc(), source, flags, refusal)
        return Built(ptx.decode(), cuda_resources(log, architecture), binary, log)
    # The prelude replaces hipRTC's built-in declarations.
    assembly = hip_assembly(clang(), source, architecture, ["-include", str(PRELUDE), *options])
    return Built(assembly, amd_resources(assembly, architecture))


HIP = ["-x", "hip", "--cuda-device-only", "--no-gpu-bundle-output", "-nogpulib", "-nogpuinc"]


def hip_assembly(compiler: str, source: Path, architecture: str, options: Sequence[str]) -> str:
    """The assembly that this clang makes of a kernel file for an AMD GPU. Raises CompileError."""
    flags = [*HIP, "-S", "-o", "-", *compiler_flags(architecture), *options]
    # A copy of the environment: pytest changes the real one for each test, in another thread, and
    # exec would fail.
    done = subprocess.run(
        [compiler, *flags, str(source)], capture_output=True, text=True, env=dict(os.environ)
    )
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "error" in line]
        complaint = (errors or [done.stderr])[0][:200]
        raise CompileError(f"{source.name} does not compile for {architecture}: {complaint}")
    return done.stdout


def cuda_resources(log: str, architecture: str) -> list[Resources]:
    """The resources of each kernel in NVRTC's log, which has the output of ptxas -v."""
    kernels = []
    for part in log.split("Compiling entry function '")[1:]:
        name = part.partition("'")[0]
        matches = [
            re.search(rf"(\d+) {figure}", part)
            for figure in ("registers", "bytes smem", "bytes stack frame")
        ]
        registers, shared, stack = (int(match[1]) if match else 0 for match in matches)
        warps = 4 * (65536 // 4 // (-(-registers * 32 // 256) * 256))
        blocks = min(warps * 32, SM_THREADS[architecture]) // BLOCK_THREADS
        kernels.append(Resources(name, architecture, registers, None, shared, stack, 0, blocks, 32))
    return sorted(kernels, key=lambda r: r.kernel)


def amd_resources(assembly: str, architecture: str) -> list[Resources]:
    """The resources of each kernel in an assembly file, from its metadata and from LLVM's figure of
    waves per SIMD."""
    kernels = []
    for part in re.findall(
        r"\.group_segment_fixed_size:.*?\.wavefront_size: +\d+", assembly, re.DOTALL
    ):
        stated = dict(re.findall(r"\.(\w+): +(\S+)", part))
        name, wave = stated["name"], int(stated["wavefront_size"])
        occupancy = re.search(
            rf"^{name}:.*?^; Occupancy: (\d+)", assembly, re.MULTILINE | re.DOTALL
        )
        assert occupancy, f"no occupancy of {name} in the assembly for {architecture}"
        blocks = 4 * int(occupancy[1]) * wave // BLOCK_THREADS  # a CU or a WGP has four SIMDs
        registers, scalars, shared, stack, *spills = (int(stated[figure]) for figure in AMD_FIGURES)
        kernels.append(
            Resources(
                name, architecture, registers, scalars, shared, stack, sum(spills), blocks, wave
            )
        )
    return sorted(kernels, key=lambda r: r.kernel)


def main(architectures: Sequence[str]) -> None:
    """Prints the table for these architectures. Raises CompileError without a compiler."""
    kernels = [
        kernel
        for architecture in architectures
        for source in SOURCES.rglob("*.cu")
        for kernel in compile_for(source, architecture, {}).kernels
    ]
    print("# Registers of each kernel, 2 ranks, float32; NVRTC, clang.")
    print("# Command: python -m tests.kernels.kernel_resources")
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow([field.name for field in fields(Resources)])
    order = architectures.index
    table.writerows(map(astuple, sorted(kernels, key=lambda r: (r.kernel, order(r.architecture)))))


if __name__ == "__main__":
    main(sys.argv[1:] or ARCHITECTURES)
