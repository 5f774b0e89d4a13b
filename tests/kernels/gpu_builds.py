"""Builds kernel files for GPUs that this machine need not have, and looks for flaws in the code.

`python -m tests.kernels.gpu_builds STEM ARCHITECTURE [MACRO=VALUE ...]` prints what each kernel of
kernels/STEM.cu takes: spills, stack and shared memory.

The user's compile cache keeps the compilers' output under a hash of all inputs, so that a second
session builds only changed kernels."""

import hashlib
import re
import secrets
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest

from kernels.devices import gpu_driver
from kernels.devices.compile_cache import CompileError, cache_folder
from kernels.devices.layout import SOURCES
from tests.kernels import kernel_resources as resources
from tests.kernels.kernel_code import innermost_loops, kernels_in, loads_at_once, wide_loads
from tests.kernels.kernel_resources import Built, NoCompiler, Resources, compile_for

# The widest kernels: most pointers, two elements per word, rounding.
WIDE = (("WT_ELEMENT", "Bfloat16"), ("WT_REDOP", "Avg"), ("WT_STREAM_SLAB", "1"), ("WT_WORLD", "8"))
WITHOUT_MAIN_LOOP = {
    "meet",
    "flag_ping_pong",
    "link_ping_pong",
    "announce",
    "await_copies",
    "leave",
    "one_shot_ll",  # these two load packets
    "one_shot_sentinel",
}
# These kernels loop over a token's rows and look up the address of the next row; or over a matrix's
# rows and compute their addresses (AMD's compiler then loads for the next turn before a turn ends);
# or over tokens in all ranks' buffers.
LOOKING_UP = re.compile(
    r"(combine|round_trip)_\w+|(un)?pack_parts|gemv\w*|allreduce_rmsnorm_\w+_registered"
)
# Of a block, by the kernels that use it on purpose: the chains of stable_norm.h, or the sums of 16
# subgroups.
SHARED_BYTES = {
    r"\w+_rmsnorm_stable": 4 * 2048,
    r"allreduce_rmsnorm_\w+|add_rmsnorm": 4 * 16,
    "": 0,
}
CACHED_FOR_S = 30 * 24 * 3600

T = TypeVar("T")


def cached(result_type: type[T], make: Callable[[], T], *depends: object) -> T:
    """The result of `make`, cached under a hash of `depends`. Exceptions are not cached."""
    key = hashlib.sha256(repr(depends).encode()).hexdigest()[:24]
    path = cache_folder() / f"tested-{key}"
    if path.exists():
        path.touch()
        return msgspec.msgpack.decode(zlib.decompress(path.read_bytes()), type=result_type)
    made = make()
    unfinished = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    unfinished.write_bytes(zlib.compress(msgspec.msgpack.encode(made), 1))
    unfinished.replace(path)
    return made


def remove_old_results() -> None:
    for path in cache_folder().glob("tested-*"):
        if path.stat().st_mtime < time.time() - CACHED_FOR_S:
            path.unlink(missing_ok=True)


def sources(stem: str, folder: Path = SOURCES) -> list[tuple[str, bytes]]:
    """The names and contents of a kernel file and of all files that it may include."""
    paths = [*folder.rglob("*.h"), resources.PRELUDE, folder / f"{stem}.cu"]
    return [(path.name, path.read_bytes()) for path in sorted(paths)]


@cache
def version(compiler: str) -> str:
    return subprocess.run(
        [compiler, "--version"], capture_output=True, text=True, check=True
    ).stdout


@cache
def toolchain(is_cuda: bool) -> tuple[object, ...]:
    """The compiler's version, and our code that calls it and reads its output. Raises CompileError
    without it."""
    ours = [Path(str(module.__file__)).read_bytes() for module in (resources, gpu_driver)]
    if not is_cuda:
        return (*ours, version(resources.clang()))
    wheels = sorted(
        f"{package.name} {package.version}"
        for package in metadata.distributions()
        if package.name and package.name.startswith(("cupy", "nvidia-cuda-nvrtc"))
    )
    return (*ours, resources.nvrtc().getVersion(), *wheels)


@cache
def compiled(
    stem: str, architecture: str, macros: tuple[tuple[str, str], ...] = (), folder: Path = SOURCES
) -> Built:
    """A compiled kernel file. Skips the test without a compiler for this architecture."""

    def make() -> Built:
        return compile_for(folder / f"{stem}.cu", architecture, dict(macros))

    try:
        tools = toolchain(architecture.startswith("sm_"))
        return cached(Built, make, architecture, macros, tools, sources(stem, folder))
    except NoCompiler as error:
        pytest.skip(str(error))


def flaws_of_loops(text: str, architecture: str) -> list[str]:
    """Main loops that do not start four loads of 16 bytes before a wait or a store."""
    flaws = []
    for kernel, lines in kernels_in(text, architecture).items():
        loops = [loop for loop in innermost_loops(lines) if wide_loads(loop) >= 4]
        if LOOKING_UP.fullmatch(kernel):
            loops = [lines]
        if not loops and kernel not in WITHOUT_MAIN_LOOP:
            flaws.append(f"{kernel} has no loop with four 16-byte loads")
        if any(loads_at_once(loop) < 4 for loop in loops):
            flaws.append(f"{kernel} starts less than four loads at once")
    return flaws


def misfits(kernels: list[Resources]) -> list[Resources]:
    """Kernels that do not fit into registers. Where others than SHARED_BYTES has use shared memory,
    clang has moved an array there."""
    return [
        r
        for r in kernels
        if r.stack_bytes
        or r.spills
        or r.shared_bytes
        != next(b for kernel, b in SHARED_BYTES.items() if re.match(kernel, r.kernel))
    ]


def main(stem: str, architecture: str, *macros: str) -> None:
    """Prints a line for each kernel of the file, or ends with a sentence."""
    values = dict[str, str]()
    for macro in macros:
        name, is_given, value = macro.partition("=")
        if not is_given:
            sys.exit(f"{macro!r} is no MACRO=VALUE")
        values[name] = value
    try:
        built = compile_for(SOURCES / f"{stem}.cu", architecture, values)
    except (CompileError, OSError) as error:
        sys.exit(f"{stem} for {architecture}: {error}")
    print(f"{'kernel':32} spills  stack  shared")
    for each in built.kernels:
        print(f"{each.kernel:32} {each.spills:6} {each.stack_bytes:6} {each.shared_bytes:7}")
    if architecture.startswith("sm_"):
        print("NVIDIA counts spills in the stack, in bytes.")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
