"""The compile cache loads only its own binaries, compiles once, and checks the structures that C++ and Python share."""

import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.harness import tuned
from kernels.devices.compile_cache import CompileError, cache_folder, cached_file
from kernels.devices.cpu import CpuModule, compile_kernel
from kernels.devices.device import layout_checks
from kernels.devices.gpu_driver import build
from tests.another_user import as_root, said_as
from tests.kernels.kernel_resources import nvrtc
from tests.launch import ROOT

LOAD = """
import sys
from pathlib import Path
from kernels.devices.cpu import CpuModule, compile_kernel
print(CpuModule(compile_kernel(Path(sys.argv[1]), {})).library.answer())
"""
SOURCE = 'extern "C" int answer() { return 42; }\n'
ATTACK = """
#include <fcntl.h>
__attribute__((constructor)) static void strike() { creat("%s", 0600); }
extern "C" int answer() { return 13; }
"""
NAMELESS = 54321


class Cache:
    """A cache with one library of a source with `answer()` 42; an attacker's library creates `struck`."""

    def __init__(self, folder: Path) -> None:
        self.home, self.source, self.struck, self.log = (
            folder / n for n in ("home", "tiny.cu", "struck", "log")
        )
        self.source.write_text(SOURCE)
        self.slow = (
            folder / "slow"
        )  # while it exists, the compiler writes its output but does not exit
        self.compiler = folder / "counting-c++"
        self.compiler.write_text(
            f'#!/bin/sh\ncase "$*" in *tiny*) echo >>"{self.log}"; c++ "$@";'
            f'while [ -e "{self.slow}" ]; do sleep 0.01; done;; *) exec c++ "$@";; esac\n'
        )
        self.compiler.chmod(0o755)
        (folder / "attack.cpp").write_text(ATTACK % self.struck)
        self.attackers = folder / "attack.so"
        subprocess.run(
            ["c++", "-shared", "-fPIC", folder / "attack.cpp", "-o", self.attackers], check=True
        )

    def start(self) -> "subprocess.Popen[str]":
        environment = {
            **os.environ,
            "CXX": str(self.compiler),
            "PYTHONPATH": str(ROOT),
            "XDG_CACHE_HOME": str(self.home),
        }
        return subprocess.Popen(
            [sys.executable, "-c", LOAD, self.source],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def load(self, processes: int = 1) -> None:
        """Start the processes together, and check that each prints the right answer."""
        for process in [self.start() for _ in range(processes)]:
            assert process.communicate(timeout=60) == ("42\n", "")

    def compiles(self) -> int:
        return len(self.log.read_text())

    def files(self) -> list[Path]:
        return sorted((self.home / "wiretax").iterdir())

    def library(self) -> Path:
        (path,) = self.files()
        return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    cache = Cache(tmp_path_factory.mktemp("cache"))
    cache.load(processes=3)
    assert cache.compiles() == 1
    return cache


def flip(path: Path, cache: Cache) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path, cache: Cache) -> None:
    os.truncate(path, path.stat().st_size - 1)


def replace(path: Path, cache: Cache) -> None:
    shutil.copyfile(cache.attackers, path)


def link(path: Path, cache: Cache) -> None:
    shutil.copyfile(path, cache.home / "outside")
    path.unlink()
    path.symlink_to(cache.home / "outside")


def pipe(path: Path, cache: Cache) -> None:
    path.unlink()
    os.mkfifo(path)


def test_an_intact_library_is_compiled_once(cache):
    before = cache.compiles()
    cache.load()
    assert cache.compiles() == before


@pytest.mark.parametrize("alter", [flip, cut, replace, link, pipe])
def test_an_altered_library_is_compiled_anew_and_never_loaded(cache, alter):
    before, path = cache.compiles(), cache.library()
    alter(path, cache)
    name = path.name.rsplit("-", 1)[0]
    assert cached_file(path.parent, name, ".so") is None
    cache.load(processes=2)
    assert cache.compiles() == before + 1
    assert not cache.struck.exists()
    assert cached_file(path.parent, name, ".so") == cache.library()


def test_the_attackers_library_strikes_when_loaded(cache):
    """The control of the test above, which would otherwise prove nothing."""
    program = "import ctypes, sys; print(ctypes.CDLL(sys.argv[1]).answer())"
    done = subprocess.run(
        [sys.executable, "-c", program, cache.attackers], capture_output=True, text=True
    )
    assert done.stdout == "13\n"
    assert cache.struck.exists()
    cache.struck.unlink()


def test_the_next_compile_removes_the_unfinished_file_of_a_killed_rank(tmp_path):
    cache = Cache(tmp_path)
    cache.slow.touch()
    killed = cache.start()
    deadline = time.monotonic() + 30
    while not list(cache.home.glob("wiretax/*.part")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    cache.slow.unlink()
    assert [path.suffix for path in cache.files()] == [".part"]
    cache.load()
    assert cache.library().suffix == ".so"
    assert cache.compiles() == 2


def test_only_the_owner_can_access_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    folder = cache_folder()
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o755)
    assert cache_folder().stat().st_mode & 0o777 == 0o700
    for mode in (0o770, 0o702):
        folder.chmod(mode)
        with pytest.raises(
            CompileError,
            match="can be written by others: set XDG_CACHE_HOME to a folder of your own",
        ):
            cache_folder()
    folder.chmod(0o700)
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CompileError, match="is a link"):
        cache_folder()


@as_root
def test_another_users_folder_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    os.chown(cache_folder(), 65534, 65534)
    with pytest.raises(CompileError, match="belongs to another user"):
        cache_folder()


def test_a_cache_folder_that_cannot_be_made_is_reported(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(
        CompileError, match=r"the compile cache cannot be made: .*/file.*; set XDG_CACHE_HOME"
    ):
        cache_folder()


@as_root
def test_without_a_home_the_message_names_the_remedy():
    nowhere = {"HOME": None, "XDG_CACHE_HOME": None, "XDG_DATA_HOME": None}
    assert said_as(NAMELESS, NAMELESS, cache_folder, **nowhere) == (
        "the compile cache cannot be made: Could not determine home directory.; "
        "set XDG_CACHE_HOME to a folder of your own"
    )
    assert said_as(NAMELESS, NAMELESS, tuned.default_folder, **nowhere) == (
        "there is no home folder for bench.tune's table: set HOME, or XDG_DATA_HOME"
    )


SHARED = """
struct Pair { char* from; long count; int in; };
struct alignas(128) Line { unsigned long long value; };
struct Lines { Line first; Line others[2][3]; };
"""


def structure(name, *fields):
    return type(name, (ctypes.Structure,), {"_fields_": list(fields)})


PAIR = structure(
    "Pair", ("from_", ctypes.c_void_p), ("count", ctypes.c_long), ("in_", ctypes.c_int)
)
LINE = structure("Line", ("value", ctypes.c_uint64), ("rest", ctypes.c_char * 120))
LINES = structure("Lines", ("first", LINE), ("others", LINE * 3 * 2))
MOVED = structure(
    "Pair", ("count", ctypes.c_long), ("from_", ctypes.c_void_p), ("in_", ctypes.c_int)
)
LONGER = structure("Pair", *PAIR._fields_, ("more", ctypes.c_long))
SHORTER = structure("Pair", *PAIR._fields_[:2])
OTHER_NAME = structure(
    "Pair", ("from_", ctypes.c_void_p), ("number", ctypes.c_long), ("in_", ctypes.c_int)
)
LAYOUTS = [
    (PAIR, None),
    (LINES, None),
    (LONGER, "more"),
    (MOVED, "Pair.count is at byte 0 in Python and elsewhere in C++"),
    (SHORTER, "Pair has 16 B in Python and another size in C++"),
    (OTHER_NAME, "number"),
]


def check_on_cpu(source: Path, checked: type[ctypes.Structure]) -> None:
    assert CpuModule(compile_kernel(source, {}, [checked])).kernel("answer").function


def check_with_nvrtc(source: Path, checked: type[ctypes.Structure]) -> None:
    try:
        compiler = nvrtc()
    except CompileError as error:
        pytest.skip(str(error))
    options = ["--gpu-architecture=sm_90", "-std=c++17"]
    build(
        compiler, source, options, f"NVRTC cannot compile {source.name}", layout_checks([checked])
    )


@pytest.mark.parametrize("check", [check_on_cpu, check_with_nvrtc])
@pytest.mark.parametrize(("checked", "complaint"), LAYOUTS)
def test_a_structure_with_another_layout_in_python_is_refused_by_name(
    tmp_path, monkeypatch, check, checked, complaint
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = tmp_path / "shared.cu"
    source.write_text(f"{SHARED}#ifndef __CUDACC__\n{SOURCE}#endif\n")
    if complaint is None:
        check(source, checked)
        return
    with pytest.raises(
        CompileError, match=rf"cannot compile shared\.cu: .*error: .*{re.escape(complaint)}"
    ) as refusal:
        check(source, checked)
    assert "Pair" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_the_cache_distinguishes_layouts(tmp_path, monkeypatch):
    """A process must not load a binary for one layout after only another layout passed the checks."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = tmp_path / "shared.cu"
    source.write_text(f"{SHARED}#ifndef __CUDACC__\n{SOURCE}#endif\n")
    assert (
        compile_kernel(source, {}, [PAIR])
        == compile_kernel(source, {}, [PAIR])
        != compile_kernel(source, {})
    )
    with pytest.raises(CompileError, match=r"Pair\.count"):
        compile_kernel(source, {}, [MOVED])
