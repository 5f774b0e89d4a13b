"""Each GPU extra has a lock and an environment of its own: one CuPy never overwrites another."""

import re
import subprocess
import sys

import pytest
from packaging.requirements import Requirement

from tests.launch import ROOT, end_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
ENGINES = tomllib.loads((ROOT / "tests/recorded/engine_pins.toml").read_text())
GPUS = "cuda12", "cuda13", "rocm", "rocm10"


def locked(name: str) -> set[str]:
    lock = (ROOT / f"locks/{name}.lock").read_text()
    return set(re.findall(r"^([a-z0-9-]+)==", lock, re.MULTILINE))


def required(extra: str) -> set[str]:
    return {re.split(r"[\[>=]", requirement)[0] for requirement in EXTRAS[extra]}


def make(*words: str) -> "subprocess.CompletedProcess[str]":
    # PIP=true: a broken Makefile must not install anything here.
    return end_of("make", "PIP=true", *words)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engines_own_packages_satisfy_ours(engine):
    """`pip install .`, with the extra of its CUDA, must change none of them."""
    pins = ENGINES[engine]
    cuda = next(name[-2:] for name in pins if name.startswith("nvidia-nccl-cu"))
    ours = map(Requirement, [*PROJECT["dependencies"], *EXTRAS[f"cuda{cuda}"]])
    shared = [each for each in ours if each.name in pins]
    assert f"nvidia-nccl-cu{cuda}" in {each.name for each in shared}
    changed = [str(each) for each in shared if pins[each.name] not in each.specifier]
    assert not changed


@pytest.mark.parametrize("gpu", GPUS)
def test_the_lock_of_a_gpu_extra_has_its_cupy_alone_and_the_test_tools(gpu):
    assert required(gpu) | required("test") <= locked(gpu)
    cupy = {name for name in locked(gpu) if name.startswith("cupy")}
    assert cupy == {name for name in required(gpu) if name.startswith("cupy")}
    assert len(cupy) == (gpu != "rocm10")  # for which AMD's bindings do


def test_the_locks_follow_the_project():
    """A lock of an older pyproject.toml installs what an extra now has, for any Python."""
    assert required("reports") <= locked("runtime") - locked("docs")
    for path in sorted((ROOT / "locks").glob("*.lock")):
        lines = [line for line in path.read_text().splitlines() if "==" in line.partition(" ")[0]]
        open_end = [line for line in lines if "python_full_version >" in line or "; sys" in line]
        assert not [line for line in open_end if "< '3.15'" not in line], path


def test_make_refuses_a_gpu_without_a_lock_and_a_second_cupy():
    unknown = make("setup", "GPU=cuda11")
    second = make(
        "check", "GPU=rocm", "-o", ".venv-rocm/.installed-runtime", "-W", "locks/dev.lock"
    )
    unnamed = make("test-gpu", "-o", ".venv/.installed-runtime")
    assert [unknown.returncode, second.returncode, unnamed.returncode] == [2, 2, 2]
    assert "must be one of: cuda12 cuda13 rocm rocm10" in unknown.stderr
    assert (
        "locks/dev.lock has packages of its own: run make check without GPU=rocm" in second.stderr
    )
    assert "make test-gpu GPU=cuda13, or cuda12, rocm or rocm10" in unnamed.stderr
