"""Compiles every kernel file with older NVRTCs that the extras allow, and with the clangs of ROCm
6.3 and 7 beside the names that hipRTC declares; in `make test` with the oldest NVRTC, and the
oldest clang only reads the files."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path

import pytest

from kernels.devices import gpu_driver
from kernels.devices.compile_cache import CompileError
from kernels.devices.layout import SOURCES
from tests.kernels import compile_matrix, kernel_code
from tests.kernels.compile_matrix import (
    CLANGS,
    HIPRTC_FUNCTIONS,
    HIPRTC_NAMES,
    OLDER_NVRTC,
    clang_of,
    code,
    install,
)
from tests.kernels.gpu_builds import cached, sources
from tests.kernels.kernel_code import kernels_in
from tests.kernels.test_kernels_compile import COLLECTIVES, FILES, HALVES, UNSYNCHRONISED, disorder
from tests.launch import FULL, few

NVRTC_CELLS = product(OLDER_NVRTC, ("sm_90", "sm_80"))
CLANG_CELLS = product(CLANGS, ("gfx942", "gfx1201", "gfx1100"))


def flaws(compiler: str, architecture: str, stem: str) -> list[str]:
    """What is wrong with a kernel file's code: a sentence each."""

    def look() -> list[str]:
        if compiler in CLANGS and not FULL:
            syntax = code(compiler, SOURCES / f"{stem}.cu", architecture, "-fsyntax-only")
            return [syntax] if syntax else []
        text = code(compiler, SOURCES / f"{stem}.cu", architecture)
        kernels = kernels_in(text, architecture)
        if stem not in COLLECTIVES:
            return [] if kernels else [f"{stem} has no kernel"]
        # NVRTC before 12.8 has no fence.acquire and polls by acquire on every architecture, as on
        # sm_80.
        model = architecture if compiler in CLANGS or "fence.acquire.sys" in text else "sm_80"
        return disorder(kernels, model)

    files = [Path(str(file)) for file in (__file__, compile_matrix.__file__, kernel_code.__file__)]
    files += [HIPRTC_NAMES, HIPRTC_FUNCTIONS] if compiler in CLANGS else []
    checks = [*(file.read_bytes() for file in files), FULL]
    checks += [compile_matrix.layouts(SOURCES / f"{stem}.cu"), sorted(UNSYNCHRONISED), HALVES]
    flags = gpu_driver.compiler_flags(architecture)
    try:
        return cached(list[str], look, compiler, flags, checks, sources(stem))
    except CompileError as error:
        return [str(error)]


@pytest.mark.parametrize(("compiler", "architecture"), [*few(NVRTC_CELLS, 1), *few(CLANG_CELLS, 1)])
def test_every_file_compiles_and_orders_its_accesses(compiler, architecture):
    try:
        clang_of(compiler) if compiler in CLANGS else install(compiler)
    except CompileError as error:
        pytest.skip(str(error))
    with ThreadPoolExecutor(2) as compilers:
        found = compilers.map(partial(flaws, compiler, architecture), FILES)
        assert dict(zip(FILES, found, strict=True)) == {stem: [] for stem in FILES}


@pytest.mark.parametrize(
    "clash",
    [
        "struct half2 { int low, high; };",
        "enum { MASK1, MASK2 };",
        "__device__ float root(float x) { return rsqrtf(x); }",
        "__device__ float rsqrtf(float x) { return x; }",
    ],
)
def test_a_name_that_hiprtc_already_declares_is_found(clash, tmp_path):
    """clang alone would accept the first two and the last, and a user's hipRTC would not."""
    source, clang = tmp_path / "clash.cu", CLANGS[0]
    try:
        clang_of(clang)
    except CompileError as error:
        pytest.skip(str(error))
    source.write_text(clash)
    with pytest.raises(CompileError, match=r"clash\.cu does not compile"):
        code(clang, source, "gfx1201", "-fsyntax-only")
    source.write_text("struct half_2 { int low, high; };")
    code(clang, source, "gfx1201", "-fsyntax-only")
