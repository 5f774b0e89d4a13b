"""The compile cache loads only its own binaries, compiles once, and compares constants that C++ and
Python share."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kernels.devices.compile_cache import (
    CompileError,
    cache_folder,
    cached_file,
    compile_once,
    source_with_headers,
)
from kernels.devices.cpu import CpuDevice
from kernels.devices.device import CONSTANTS
from tests.another_user import as_root
from tests.launch import ROOT

LOAD = """
import sys
from pathlib import Path
from kernels.devices.cpu import load
print(load(Path(sys.argv[1]), {}).answer())
"""
SOURCE = 'extern "C" int answer() { return 42; }\n'
NAMELESS = 54321


class Cache:
    """A cache with one library of a source with `answer()` 42. The compiler logs each compile of
    the source."""

    def __init__(self, folder: Path) -> None:
        self.home, self.source, self.log = (folder / n for n in ("home", "tiny.cu", "log"))
        self.source.write_text(SOURCE)
        self.compiler = folder / "counting-c++"
        self.compiler.write_text(
            f'#!/bin/sh\ncase "$*" in *tiny*) case "$*" in *-shared*)\necho >>"{self.log}"\n'
            ';; esac;; esac\nexec c++ "$@"\n'
        )
        self.compiler.chmod(0o755)

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
    """A cache that was empty when three ranks started together, and that compiled once."""
    cache = Cache(tmp_path_factory.mktemp("cache"))
    cache.load(processes=3)
    assert cache.compiles() == 1
    return cache


def test_an_attackers_library_is_never_loaded_and_compiled_anew(cache, tmp_path):
    before, path = cache.compiles(), cache.library()
    source = tmp_path / "attack.cpp"
    source.write_text(SOURCE.replace("42", "13"))
    subprocess.run(["c++", "-shared", "-fPIC", source, "-o", path], check=True)
    assert ctypes.CDLL(str(path)).answer() == 13  # without the check it would load
    name = path.name.rsplit("-", 1)[0]
    assert cached_file(path.parent, name) is None
    cache.load(processes=2)
    assert cache.compiles() == before + 1
    assert cached_file(path.parent, name) == cache.library()


def test_a_changed_header_flag_or_compiler_is_another_binary(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    header, source = tmp_path / "part.h", tmp_path / "k.cu"
    header.write_text("// one")
    source.write_text('#include "part.h"\n')

    def build(flags="-O3", compiler="c++ 1"):
        inputs = [compiler, flags]
        return compile_once(source, inputs, {}, lambda path, *_: path.write_text("code"))

    first = build()
    assert build() == first
    header.write_text("// two")
    assert len({first, build(), build("-O2"), build(compiler="c++ 2")}) == 4
    assert [path.name for path in source_with_headers(source)] == ["k.cu", "part.h"]


def test_a_failed_compile_leaves_no_file_and_shows_the_compilers_message(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(CompileError, match=r"cannot compile allreduce_ring\.cu: .*Nonsense"):
        CpuDevice().load("allreduce_ring", {"WT_ELEMENT": "Nonsense"})
    assert not list((tmp_path / "wiretax").glob("allreduce_ring*"))


def test_only_the_owner_can_access_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    folder = cache_folder()
    folder.chmod(0o755)
    assert cache_folder().stat().st_mode & 0o777 == 0o700
    modes = [0o702]
    if os.getuid() == 0:
        os.chown(folder, -1, NAMELESS)  # a group that may have members
        modes.append(0o770)
    for mode in modes:
        folder.chmod(mode)
        with pytest.raises(
            CompileError, match="others can write it; set XDG_CACHE_HOME to a folder"
        ):
            cache_folder()
    folder.chmod(0o700)
    if os.getuid() == 0:
        os.chown(folder, NAMELESS, NAMELESS)
        with pytest.raises(CompileError, match="belongs to another user"):
            cache_folder()
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CompileError, match="is a link"):
        cache_folder()


def test_a_folder_above_that_others_can_write_to_is_refused(open_folder, monkeypatch):
    """They could exchange the cache between its check and its use."""
    home = open_folder / "home"
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "link"))
    (home / "cache").mkdir(parents=True)
    (home / "link").symlink_to("cache")
    modes = [0o777]
    if os.getuid() == 0:
        os.chown(home, -1, NAMELESS)  # a group that may have members
        modes.append(0o775)
    for mode in modes:
        home.chmod(mode)
        with pytest.raises(CompileError, match=rf"replace what is in {home}: chmod go-w"):
            cache_folder()
    for mode in (0o1777, 0o755):  # sticky, as /tmp
        home.chmod(mode)
        assert cache_folder() == home / "cache" / "wiretax"
    home.chmod(0o777)
    open_folder.chmod(0o700)  # nobody else gets to `home`
    assert cache_folder()


@as_root
def test_a_folder_above_of_another_user_is_refused(open_folder, monkeypatch):
    """As root with a user's HOME: 6 of 10 starts ran a library of that user's."""
    home = open_folder / "home"
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / ".cache"))
    assert cache_folder()
    os.chown(home, NAMELESS, NAMELESS)
    for folder in (".cache", "empty"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(home / folder))
        with pytest.raises(CompileError, match="other users can replace what is in"):
            cache_folder()
    assert not (home / "empty").exists()  # root's folder would shut that user out


def test_a_cache_folder_that_cannot_be_made_is_reported(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(
        CompileError,
        match=r"the compile cache .*/file/wiretax: Not a directory; set XDG_CACHE_HOME",
    ):
        cache_folder()


def test_a_constant_or_a_capacity_that_differs_from_pythons_is_refused_by_name(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(CompileError, match="a writer's room holds the longest message"):
        CpuDevice().load("allreduce_one_shot_ll", {"WT_MOST_BYTES": 65536})
    monkeypatch.setitem(CONSTANTS, "HALF_BYTES", 1 << 20)
    with pytest.raises(CompileError, match="HALF_BYTES is 1048576 in Python and not in C"):
        CpuDevice().load("alltoall", {})
