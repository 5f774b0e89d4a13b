"""Reads the kernels' GPU resources from compiler output, without a GPU or a driver.

`python -m tests.kernels.kernel_resources [--world N] [--datatype T] [--arch A ...]` prints the table of
docs/experiments/kernels.md.
NVIDIA's figures come from NVRTC's log of the cubin, AMD's from clang's assembly.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from kernels.devices.compile_cache import SOURCES, CompileError
from kernels.devices.device import MOST_RANKS, DeviceError
from kernels.devices.gpu_driver import build, compiler_flags, load_cupy

PRELUDE = Path(__file__).parents[1] / "hip_prelude.h"
ARCHITECTURES = ("sm_80", "sm_90", "sm_120", "gfx942", "gfx1100", "gfx1201")
BLOCK_THREADS = 512  # the kernels' launch bounds
# The most threads that a multiprocessor holds: CUDA C++ Programming Guide, "Technical Specifications per Compute
# Capability". All three have 65,536 registers in four equal partitions, and give them to warps in units of 256.
SM_THREADS = {"sm_80": 2048, "sm_90": 2048, "sm_120": 1536}
AMD_FIGURES = (
    "vgpr_count",
    "sgpr_count",
    "group_segment_fixed_size",
    "private_segment_fixed_size",
    "vgpr_spill_count",
    "sgpr_spill_count",
)
DATATYPES = (
    "float32",
    "float16",
    "bfloat16",
    "float64",
    "int32",
    "int64",
    "int8",
    "uint8",
    "float8_e4m3",
    "float8_e5m2",
)
# Kernels that take the first three types only.
COMPUTED_IN_FP32 = {"allreduce_rmsnorm", "allreduce_two_shot_quantized", "gemv_allreduce"}
LAYOUT = "{:<30} {:<8} {:>9} {:>5} {:>6} {:>5} {:>6} {:>6} {:>4}"
HEAD = LAYOUT.format(
    "kernel", "arch", "registers", "sgprs", "shared", "stack", "spills", "blocks", "wave"
)
CLANGS = ("clang-22", "amdclang++", "/opt/rocm/llvm/bin/clang++")


@dataclass(frozen=True)
class Resources:
    """Resources of one kernel on one architecture. `registers`: per thread (AMD: VGPRs); `scalars`: SGPRs per wave;
    `spills`: registers that did not fit (NVIDIA: counted in `stack_bytes`); `blocks`: blocks of 512 threads that a
    multiprocessor (an SM, a CU on gfx9, a WGP on RDNA) holds at once."""

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
def nvrtc() -> Any:
    """CuPy's NVRTC. Raises CompileError without it."""
    try:
        cupy = load_cupy()
        cupy.cuda.nvrtc.getVersion()  # loads NVRTC
    except (DeviceError, RuntimeError) as error:
        raise CompileError(f"no NVRTC was found: {error}") from error
    if cupy.cuda.runtime.is_hip:
        raise CompileError("no NVRTC was found: the installed CuPy is built for ROCm")
    return cupy.cuda.nvrtc


@cache
def clang() -> str:
    """A clang that compiles for AMD's GPUs. Raises CompileError without one."""
    for name in CLANGS:
        if path := shutil.which(name):
            return path
    raise CompileError(f"no clang for AMD GPUs was found: looked for {', '.join(CLANGS)}")


def compile_for(
    source: Path, architecture: str, macros: Mapping[str, str]
) -> tuple[str, list[Resources]]:
    """PTX or assembly of a kernel file, and its kernels' resources. Raises CompileError, also without a compiler."""
    options = [f"-D{name}={value}" for name, value in macros.items()]
    if architecture.startswith("sm_"):
        flags = [*compiler_flags(architecture), "--ptxas-options=-v", *options]
        ptx, _, log = build(
            nvrtc(), source, flags, f"{source.name} does not compile for {architecture}"
        )
        return ptx.decode(), cuda_resources(log, architecture)
    # The prelude replaces hipRTC's built-in declarations.
    assembly = hip_assembly(clang(), source, architecture, ["-include", str(PRELUDE), *options])
    return assembly, amd_resources(assembly, architecture)


def hip_assembly(compiler: str, source: Path, architecture: str, options: Sequence[str]) -> str:
    """The assembly that this clang makes of a kernel file for an AMD GPU. Raises CompileError."""
    hip = [
        "-x",
        "hip",
        "--cuda-device-only",
        "--no-gpu-bundle-output",
        "-nogpulib",
        "-nogpuinc",
        "-S",
        "-o",
        "-",
    ]
    command = [compiler, *hip, *compiler_flags(architecture), *options, str(source)]
    # A copy of the environment: pytest changes the real one for each test, in another thread, and exec would fail.
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    if done.returncode:
        complaint = next(
            (line for line in done.stderr.splitlines() if "error" in line), done.stderr
        )
        raise CompileError(f"{source.name} does not compile for {architecture}: {complaint[:200]}")
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
    """The resources of each kernel in an assembly file, from its metadata and from LLVM's figure of waves per SIMD."""
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


def row(resources: Resources) -> str:
    return LAYOUT.format(*("-" if figure is None else figure for figure in astuple(resources)))


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.kernels.kernel_resources",
        description="Prints the resources of each kernel on each GPU architecture.",
        allow_abbrev=False,
    )
    worlds = range(1, MOST_RANKS + 1)
    parser.add_argument("--world", type=int, default=2, choices=worlds, metavar="RANKS")
    parser.add_argument("--datatype", choices=DATATYPES, default="float32")
    parser.add_argument("--arch", choices=ARCHITECTURES, nargs="+", default=ARCHITECTURES)
    options = parser.parse_args(words)
    macros = {"WORLD": str(options.world), "ELEMENT": options.datatype.capitalize()}

    kernels: list[Resources] = []
    missing: dict[str, list[str]] = {}
    for architecture in dict.fromkeys(options.arch):
        try:
            for source in sorted(SOURCES.rglob("*.cu")):
                if source.stem not in COMPUTED_IN_FP32 or options.datatype in DATATYPES[:3]:
                    kernels += compile_for(source, architecture, macros)[1]
        except CompileError as error:
            missing.setdefault(str(error), []).append(architecture)
    for reason, architectures in missing.items():
        print(f"{', '.join(architectures)}: not shown, {reason}", file=sys.stderr)
    if not kernels:
        return 3
    rows = sorted(kernels, key=lambda r: (r.kernel, options.arch.index(r.architecture)))
    print(f"{options.world} ranks, {options.datatype}", HEAD, *map(row, rows), sep="\n")
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `head` may close the pipe early
    sys.exit(main())
