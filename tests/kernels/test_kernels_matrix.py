"""Compiles every kernel file with the oldest compilers that the extras allow. `python -m
tests.kernels.compile_matrix` has all compilers and architectures, with all of their code."""

import ctypes

import pytest

from kernels.devices import gpu_driver
from kernels.devices.compile_cache import SOURCES, CompileError
from kernels.devices.device import layout_checks
from tests.kernels import compile_matrix
from tests.kernels.compile_matrix import (
    CLANGS,
    HIPRTC_FUNCTIONS,
    HIPRTC_NAMES,
    OLDEST_CUDA12,
    code,
    flaws_by_file,
    install,
    nvrtc_wheels,
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


def test_the_oldest_nvrtc_refuses_a_lambda_without_the_option_of_gpu_driver(
    oldest_nvrtc, monkeypatch
):
    with_option = gpu_driver.compiler_flags("sm_90")
    without = [flag for flag in with_option if flag != "-default-device"]
    assert len(without) == len(with_option) - 1
    monkeypatch.setattr(gpu_driver, "compiler_flags", lambda architecture: without)
    complaint = r"gemm\.cu does not compile for sm_90: .*execution space"
    with pytest.raises(CompileError, match=complaint):
        code(oldest_nvrtc, SOURCES / "gemm.cu", "sm_90")


def test_the_matrix_checks_every_structure_in_a_file_that_has_it():
    found = [
        {s.__name__ for s in compile_matrix.shared_with(SOURCES / f"{stem}.cu")} for stem in FILES
    ]
    of_the_cpus_loop = {"LibraryCall", "NativeAction", "NativeBlock"}
    everything = {s.__name__ for s in structures_compared_in_runs()}
    assert set.union(*found) == everything - of_the_cpus_loop
    for stem, names in zip(FILES, found, strict=True):
        assert stem not in COLLECTIVES or names >= {"Arguments", "Control", "Own", "Watch"}


def test_the_oldest_nvrtc_compares_the_layout_of_structures_with_pythons(oldest_nvrtc, monkeypatch):
    class Arguments(ctypes.Structure):
        _fields_ = (("count", ctypes.c_long),)

    monkeypatch.setattr(compile_matrix, "layouts", lambda source: layout_checks([Arguments]))
    complaint = r"Arguments.count is at byte 0 in Python and elsewhere in C\+\+"
    with pytest.raises(CompileError, match=complaint):
        code(oldest_nvrtc, SOURCES / "allgather.cu", "sm_90")


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
        "__device__ float rsqrtf(float x) { return x; }",
        "enum { MASK1, MASK2 };",
        "__device__ int min(int a, int b) { return a < b ? a : b; }",
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


def test_the_matrix_has_the_nvrtc_of_every_lock():
    versions = [wheel.partition("==")[2].split(".")[:2] for wheel in nvrtc_wheels()]
    assert versions[:3] == [["12", "0"], ["13", "0"], ["13", "2"]]
    assert {major for major, _ in versions[3:]} == {"12", "13"}


def test_an_absent_compiler_fails_the_matrix_with_one_sentence(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setattr(compile_matrix, "nvrtc_wheels", lambda: ("nvidia-cuda-nvrtc==0.0",))
    assert compile_matrix.main() == 1
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    assert printed.err.startswith("nvidia-cuda-nvrtc==0.0 cannot be installed: ")
    assert not list(tmp_path.rglob("nvidia*"))
