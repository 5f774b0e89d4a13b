"""Compiles kernel files for GPUs that this machine need not have, and reads the resources of each
kernel: NVIDIA's from NVRTC's log of the cubin, AMD's from clang's assembly."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from kernels.devices.compile_cache import CompileError
from kernels.devices.device import DeviceError
from kernels.devices.gpu_driver import build, compiler_flags, load_bindings

PRELUDE = Path(__file__).parents[1] / "hip_prelude.h"
CLANGS = ("clang-22", "amdclang++", "/opt/rocm/llvm/bin/clang++")


class Resources(msgspec.Struct):
    """Resources of one kernel. `spills`: registers that did not fit (NVIDIA: counted in
    `stack_bytes`); `wave`: threads of a subgroup."""

    kernel: str
    shared_bytes: int
    stack_bytes: int
    spills: int
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
        cupy = load_bindings()
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
        return Built(ptx.decode(), cuda_resources(log), binary, log)
    # The prelude replaces hipRTC's built-in declarations.
    assembly = hip_assembly(clang(), source, architecture, ["-include", str(PRELUDE), *options])
    return Built(assembly, amd_resources(assembly))


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


def cuda_resources(log: str) -> list[Resources]:
    """The resources of each kernel in NVRTC's log, which has the output of ptxas -v."""
    kernels = []
    for part in log.split("Compiling entry function '")[1:]:
        matches = [
            re.search(rf"(\d+) {figure}", part) for figure in ("bytes smem", "bytes stack frame")
        ]
        shared, stack = (int(match[1]) if match else 0 for match in matches)
        kernels.append(Resources(part.partition("'")[0], shared, stack, 0, 32))
    return sorted(kernels, key=lambda r: r.kernel)


def amd_resources(assembly: str) -> list[Resources]:
    """The resources of each kernel in an assembly file, from its metadata."""
    kernels = []
    for part in re.findall(
        r"\.group_segment_fixed_size:.*?\.wavefront_size: +\d+", assembly, re.DOTALL
    ):
        stated = dict(re.findall(r"\.(\w+): +(\S+)", part))
        shared, stack = (int(stated[f"{kind}_segment_fixed_size"]) for kind in ("group", "private"))
        spills = int(stated["vgpr_spill_count"]) + int(stated["sgpr_spill_count"])
        wave = int(stated["wavefront_size"])
        kernels.append(Resources(stated["name"], shared, stack, spills, wave))
    return sorted(kernels, key=lambda r: r.kernel)
