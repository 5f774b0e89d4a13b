"""What a machine or a Python lacks for `make allreduce`, `make test` or a command is one sentence.

A compiler, a network, a folder of one's own, an environment that works, or the packages."""

import ast
import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from kernels.devices.device import MOST_RANKS
from tests.launch import MPIRUN, ROOT

pytestmark = pytest.mark.unit

BASE_PYTHON = f"PYTHON={Path(sys.base_prefix, 'bin/python3')}"
FIRST_FILES = "reports/__init__.py", "wiretax/common/interpreter.py", "bench/__init__.py"


def run(*words, cwd=ROOT, **options):
    return subprocess.run(
        [str(word) for word in words], cwd=cwd, capture_output=True, text=True, **options
    )


def refusal(folder, *words, **options):
    """The sentences of a make that stops, without make's own line on the target that failed."""
    done = run("make", "-C", folder, *words, **options)
    assert done.returncode == 2, done
    return [line for line in done.stderr.splitlines() if not line.startswith("make")]


@pytest.fixture
def checkout(tmp_path):
    """A folder with a space that has what `make setup` reads."""
    folder = tmp_path / "a folder"
    folder.mkdir()
    for name in ("Makefile", "locks", "wiretax"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def test_a_number_of_ranks_that_is_none_starts_none():
    for ranks in ("x", "0", "-1", "2.5", "", "2 3", str(MOST_RANKS + 1)):
        (sentence,) = refusal(ROOT, "-n", "allreduce", f"RANKS={ranks}")
        assert f"RANKS is {ranks}, and must be a number from 1 to {MOST_RANKS}" in sentence


def test_the_former_names_of_the_libraries_and_their_variables_still_count():
    """A script that says `make peers PEERS_PAIRS=10` finds its runs where it did."""

    def campaign(*words):
        done = run("make", "-n", *words, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        return re.findall(r"bench\.campaign --out (\S+) --pairs (\S+)", done.stdout)

    assert campaign("libraries") == [("libraries", "6")]
    assert campaign("peers") == [("peers", "6")]
    assert campaign("libraries", "RANKS=4", "LIBRARIES_PAIRS=3") == [("libraries-4", "3")]
    assert campaign("peers", "PEERS_OUT=mine", "PEERS_PAIRS=10") == [("mine", "10")]
    done = run("make", "-n", "peers", "PEERS_ARGS=--algorithm auto,library -b 1M", cwd=ROOT)
    assert "-m bench.allreduce --algorithm auto,library -b 1M" in done.stdout


@pytest.mark.parametrize(
    ("gpu", "variants"),
    [
        ("cuda13", {"nccl": "", "nccl-memcpy": "NCCL_SHM_USE_CUDA_MEMCPY=1"}),
        (
            "rocm",
            {
                "rccl": "",
                "rccl-memcpy": "NCCL_SHM_USE_CUDA_MEMCPY=1",
                "rccl-windows": "NCCL_CUMEM_ENABLE=1",
            },
        ),
        (
            "rocm10",
            {
                "rccl": "",
                "rccl-memcpy": "NCCL_SHM_USE_CUDA_MEMCPY=1",
                "rccl-windows": "NCCL_CUMEM_ENABLE=1",
            },
        ),
    ],
)
def test_on_gpus_the_library_is_launched_by_what_it_reads_once_in_a_process(gpu, variants):
    """The table takes the fastest at each size. None of the launches sets anything else, and no
    other MPI is installed."""
    done = run("make", "-n", "libraries", f"GPU={gpu}", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    found = re.findall(r"--variant ([\w-]+)=\"(\S*) '[^']+/\.venv-(\w+)/bin/mpiexec'", done.stdout)
    assert found == [(name, words, gpu) for name, words in variants.items()]
    assert f"reports libraries libraries-{gpu}" in done.stdout
    assert "openmpi" not in done.stdout
    assert "reports compare" not in done.stdout


@pytest.mark.parametrize("target", ["allreduce", "check", "test"])
def test_a_machine_without_a_compiler_is_told_before_anything_is_installed(checkout, target):
    """Otherwise hundreds of tests would fail, each with its own error."""
    for tool in ("make", "nproc"):
        (checkout / tool).symlink_to(shutil.which(tool))
    (sentence,) = refusal(checkout, target, env={"PATH": str(checkout)})
    assert sentence.startswith("no C++ compiler is here: apt-get install g++")
    assert not (checkout / ".venv").exists()


def test_without_an_emulator_a_person_skips_its_tests_and_ci_fails_with_a_sentence(tmp_path):
    environment = {**os.environ, "WIRETAX_EMULATOR": str(tmp_path / "nowhere")}
    done = run("make", "--no-print-directory", "test-emulated", env=environment)
    assert (done.returncode, done.stdout.count("\n")) == (0, 1), done.stderr
    assert (
        f"skipped, because no emulator of AMD's instruction sets lies in {tmp_path}" in done.stdout
    )
    done = run(".ci/run", env=environment)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert f"no emulator of AMD's instruction sets lies in {tmp_path}" in done.stderr


def test_a_folder_of_another_user_is_left_alone():
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        shutil.copy(ROOT / "Makefile", folder)
        Path(folder).chmod(0o555)
        options = {"user": 65534, "group": 65534} if os.getuid() == 0 else {}
        path = f"{os.environ['PATH']}:{os.defpath}"  # the other user may not enter our folders
        (sentence,) = refusal(folder, "allreduce", env={**os.environ, "PATH": path}, **options)
        assert "may not write into this folder: clone Wiretax into a folder of your own" in sentence


def test_a_broken_environment_is_made_anew_and_a_missing_network_is_named(checkout):
    """An interpreter that was removed, behind a stamp that says that all is installed."""
    programs = checkout / ".venv/bin"
    programs.mkdir(parents=True)
    (programs / "python").symlink_to("/nowhere/python3")
    stamp = checkout / ".venv/.installed-runtime"
    stamp.touch()
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull}
    installing, sentence = refusal(checkout, "setup", BASE_PYTHON, env={**os.environ, **offline})
    assert installing == "Installing what locks/runtime.lock names into .venv ..."
    assert sentence.startswith("pip cannot install what locks/runtime.lock names: is the network ")
    assert "No matching distribution" in (checkout / ".venv/pip.log").read_text()
    assert run(programs / "python", "-m", "pip", "--version").returncode == 0
    assert not stamp.exists()


@pytest.mark.parametrize("module", ["reports", "bench.allreduce", "wiretax"])
def test_a_python_without_the_packages_names_the_environment(module):
    """As when .venv is not activated: -S hides the packages."""
    done = run(sys.executable, "-S", "-m", module)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "type `. .venv/bin/activate`" in done.stderr
    done = run(MPIRUN, "-n", "2", sys.executable, "-S", "-m", module)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


def test_an_older_python_can_read_the_files_that_refuse_it():
    for name in (*FIRST_FILES, "wiretax/__init__.py"):
        ast.parse((ROOT / name).read_text(), feature_version=(3, 8))


def test_the_command_of_a_checkout_runs_from_any_folder(checkout, tmp_path):
    """The link of `make setup`, in a path with a space, and beside names of a user."""
    environment = checkout / ".venv"
    (environment / "bin").mkdir(parents=True)
    (environment / "bin/python").symlink_to(sys.executable)
    (environment / "lib").symlink_to(Path(sys.prefix, "lib"))
    shutil.copy(Path(sys.prefix, "pyvenv.cfg"), environment)
    done = run("make", "-C", checkout, "setup", BASE_PYTHON, "PIP=true")
    assert done.returncode == 0, done.stderr
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports/__init__.py").write_text("raise ImportError('the folder of a user')")
    done = run(environment / "bin/wiretax", "show", "x", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (
        2,
        "reports: x cannot be read: No such file or directory\n",
    )


@pytest.fixture
def half_installed(checkout):
    """An environment whose pip another `make` is about to install."""
    programs = checkout / ".venv/bin"
    programs.mkdir(parents=True)
    (programs / "python").write_text("#!/bin/sh\nexit 1\n")
    (programs / "python").chmod(0o755)
    (checkout / ".venv/.installed-dev").touch()
    return checkout


@pytest.mark.parametrize("words", [("-n", "setup"), ("-qp", "setup"), ("-n", "test")])
def test_make_that_only_reads_leaves_an_installation_under_way_alone(half_installed, words):
    """bash completes the targets of `make` by `make -qp`, in any shell beside the installation."""
    before = {path: path.stat() for path in half_installed.glob(".venv*/**/*")}
    run("make", "-C", half_installed, *words)
    assert {path: path.stat() for path in half_installed.glob(".venv*/**/*")} == before
    assert len(before) == 3


def test_a_second_make_waits_for_the_first_and_finds_what_it_has_installed(half_installed):
    python = half_installed / ".venv/bin/python"
    with open(half_installed / ".venv.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        words = "make", "-C", str(half_installed), "setup"
        with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as second:
            with pytest.raises(subprocess.TimeoutExpired):
                second.wait(timeout=0.5)
            python.write_text("#!/bin/sh\nexit 0\n")
            (half_installed / ".venv/.installed-runtime").touch()
            fcntl.flock(lock, fcntl.LOCK_UN)
            assert second.communicate(timeout=60)[1] == ""
    assert second.returncode == 0
    assert (half_installed / ".venv/.installed-dev").exists()
