"""Compiles every kernel file with the oldest compilers that the extras allow. `python -m
tests.kernels.compile_matrix` has all compilers and architectures, with all of their code."""

import pytest

from kernels.devices import gpu_driver
from kernels.devices.compile_cache import SOURCES, CompileError
from tests.kernels import compile_matrix
from tests.kernels.compile_matrix import (
    CLANGS,
    HIPRTC_FUNCTIONS,
    HIPRTC_NAMES,
    OLDEST_CUDA12,
    code,
    flaws_by_file,
    install,
)
from tests.kernels.gpu_builds import cached, sources
from tests.kernels.test_kernels_compile import COLLECTIVES, FILES
from tests.launch import few
from tests.test_house import structures_compared_in_runs


@pytest.fixture(scope="module")
def oldest_nvrtc():
    try:
        install(OLDEST_CUDA12)
    except CompileError as error:
        pytest.skip(str(error))
    return OLDEST_CUDA12


@pytest.fixture(scope="module")
def oldest_clang():
    try:
        compile_matrix.clang_of(CLANGS[0])
    except CompileError as error:
        pytest.skip(str(error))
    return CLANGS[0]


def test_every_file_compiles_with_the_oldest_nvrtc(oldest_nvrtc):
    assert flaws_by_file(oldest_nvrtc, "sm_90") == {stem: [] for stem in FILES}


def test_the_matrix_checks_every_structure_in_a_file_that_has_it():
    found = [
        {s.__name__ for s in compile_matrix.shared_with(SOURCES / f"{stem}.cu")} for stem in FILES
    ]
    of_the_cpus_loop = {"LibraryCall", "NativeAction", "NativeBlock"}
    everything = {s.__name__ for s in structures_compared_in_runs()}
    assert set.union(*found) == everything - of_the_cpus_loop
    for stem, names in zip(FILES, found, strict=True):
        assert stem not in COLLECTIVES or names >= {"Arguments", "Control", "Own", "Watch"}


@pytest.mark.parametrize("architecture", few(["gfx942", "gfx1201"], 1))
@pytest.mark.parametrize("stem", FILES)
def test_a_file_compiles_with_the_oldest_clang_and_the_names_of_hiprtc(
    oldest_clang, stem, architecture
):
    """Syntax alone: the whole matrix also makes the code."""

    def syntax() -> str:
        return code(oldest_clang, SOURCES / f"{stem}.cu", architecture, "-fsyntax-only")

    flags = gpu_driver.compiler_flags(architecture)
    names = HIPRTC_NAMES.read_text() + HIPRTC_FUNCTIONS.read_text()
    assert cached(str, syntax, oldest_clang, architecture, flags, names, sources(stem)) == ""


@pytest.mark.parametrize(
    "clash",
    [
        "struct half2 { int low, high; };",
        "enum { MASK1, MASK2 };",
        "__device__ float root(float x) { return rsqrtf(x); }",
    ],
)
def test_a_name_that_hiprtc_already_declares_is_found(oldest_clang, clash, tmp_path):
    source = tmp_path / "clash.cu"
    source.write_text(clash)
    with pytest.raises(CompileError, match=r"clash\.cu does not compile"):
        code(oldest_clang, source, "gfx1201")
    source.write_text("struct half_2 { int low, high; };")
    code(oldest_clang, source, "gfx1201")
