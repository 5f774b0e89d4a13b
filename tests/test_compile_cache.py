"""What lies in the compile cache and is not what we compiled is compiled anew, and never runs."""

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from bench.harness import picks
from kernels.devices.compile_cache import CompileError, cache_folder, kept
from tests.another_user import as_root, said_as
from tests.launch import ROOT

LOAD = """
import os, sys
from pathlib import Path
from kernels.devices.cpu import CpuDevice
device = CpuDevice()
os.environ["XDG_CACHE_HOME"] = sys.argv[2]
print(device._load(Path(sys.argv[1]), {}).library.answer())
"""
SOURCE = 'extern "C" int answer() { return 42; }\n'
ATTACK = """
#include <fcntl.h>
__attribute__((constructor)) static void strike() { creat("%s", 0600); }
extern "C" int answer() { return 13; }
"""
STRANGER, NAMELESS = 65534, 54321


class Cache:
    """A cache with one library in it, of a source whose `answer()` is 42; `struck` is what an attacker's makes."""

    def __init__(self, folder: Path) -> None:
        self.home, self.source, self.struck, self.log = (folder / n for n in ("home", "tiny.cu", "struck", "log"))
        self.source.write_text(SOURCE)
        self.compiler = folder / "counting-c++"
        self.compiler.write_text(f'#!/bin/sh\ncase "$*" in *tiny*) echo >>"{self.log}";; esac\nexec c++ "$@"\n')
        self.compiler.chmod(0o755)
        (folder / "attack.cpp").write_text(ATTACK % self.struck)
        self.attackers = folder / "attack.so"
        subprocess.run(["c++", "-shared", "-fPIC", folder / "attack.cpp", "-o", self.attackers], check=True)

    def start(self) -> "subprocess.Popen[str]":
        environment = {**os.environ, "CXX": str(self.compiler), "PYTHONPATH": str(ROOT)}
        return subprocess.Popen([sys.executable, "-c", LOAD, self.source, self.home], cwd=ROOT, env=environment,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def load(self, processes: int = 1) -> None:
        """Each of so many new processes, started together, gets the right answer."""
        for process in [self.start() for _ in range(processes)]:
            assert process.communicate(timeout=60) == ("42\n", "")

    def compiled(self) -> int:
        return len(self.log.read_text())

    def library(self) -> Path:
        (path,) = (self.home / "wiretax").iterdir()
        return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    cache = Cache(tmp_path_factory.mktemp("cache"))
    cache.load()
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


def give_away(path: Path, cache: Cache) -> None:
    os.chown(path, 65534, 65534)


def open_up(path: Path, cache: Cache) -> None:
    path.chmod(0o602)


def test_a_library_that_is_ours_is_compiled_once(cache):
    before = cache.compiled()
    cache.load()
    assert cache.compiled() == before


@pytest.mark.parametrize("altered", [flip, cut, replace, link, pipe, open_up,
                                     pytest.param(give_away, marks=as_root)])
def test_a_library_that_was_altered_or_is_not_ours_is_compiled_anew(cache, altered):
    before, path = cache.compiled(), cache.library()
    altered(path, cache)
    name = path.name.rsplit("-", 1)[0]
    assert kept(path.parent, name, ".so") is None
    cache.load(processes=2)
    assert cache.compiled() == before + 1
    assert not cache.struck.exists()
    assert kept(path.parent, name, ".so") == cache.library()


def test_the_control_of_the_attack(cache):
    """Loaded, the attacker's library strikes: so that it did not, above, says something."""
    program = "import ctypes, sys; print(ctypes.CDLL(sys.argv[1]).answer())"
    done = subprocess.run([sys.executable, "-c", program, cache.attackers], capture_output=True, text=True)
    assert done.stdout == "13\n"
    assert cache.struck.exists()
    cache.struck.unlink()


def test_what_was_compiled_is_ours_alone_whatever_the_umask(tmp_path):
    cache = Cache(tmp_path)
    before = os.umask(0)
    try:
        cache.load()
        cache.load()
    finally:
        os.umask(before)
    assert cache.compiled() == 1
    made = (cache.home, cache.home / "wiretax", cache.library())
    assert [path.stat().st_mode & 0o777 for path in made] == [0o700, 0o700, 0o600]


def test_the_folder_is_ours_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    cache_folder().chmod(0o755)
    assert cache_folder().stat().st_mode & 0o777 == 0o700
    cache_folder().parent.chmod(0o777)
    with pytest.raises(CompileError, match="others can replace it: set XDG_CACHE_HOME"):
        cache_folder()
    cache_folder_of = tmp_path / "home" / "wiretax"
    cache_folder_of.parent.chmod(0o1777)  # as /tmp
    assert cache_folder() == cache_folder_of
    cache_folder_of.rename(tmp_path / "elsewhere")
    cache_folder_of.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CompileError, match="is a link or can be written by others: set XDG_CACHE_HOME"):
        cache_folder()


@as_root
def test_another_user_s_folder_is_refused_and_ours_is_closed_to_them(cache, tmp_path, monkeypatch):
    for parent in (cache.home, *cache.home.parents[:3]):
        parent.chmod(parent.stat().st_mode | 0o055)
    done = subprocess.run(["ls", cache.library().parent], capture_output=True, text=True, user=65534, group=65534,
                          extra_groups=[])
    assert "Permission denied" in done.stderr
    assert str(cache.library().parent) in done.stderr
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    os.chown(cache_folder(), 65534, 65534)
    with pytest.raises(CompileError, match="belongs to another user: set XDG_CACHE_HOME"):
        cache_folder()


@as_root
@pytest.mark.parametrize(("owner", "group", "mode", "is_safe"), [
    ("own", "own", 0o700, True),
    ("own", "own", 0o775, True),  # a umask of 002, and nobody else in the group
    ("own", STRANGER, 0o775, False),
    ("own", STRANGER, 0o1775, True),
    ("own", "own", 0o777, False),
    (0, STRANGER, 0o775, True),  # /home on Debian
    (0, 0, 0o777, False),
    (0, 0, 0o1777, True),
    (STRANGER, STRANGER, 0o755, False),
    (STRANGER, STRANGER, 0o1777, False),  # who owns it may rename what lies in it
])
def test_no_folder_above_is_one_where_another_user_can_replace_the_cache(owner, group, mode, is_safe):
    user = pwd.getpwnam("daemon")
    with tempfile.TemporaryDirectory() as name:
        top, parent, home = Path(name), Path(name) / "parent", Path(name) / "parent" / "home"
        home.mkdir(parents=True)
        for path, uid, gid, its in ((top, 0, 0, 0o755), (home, user.pw_uid, user.pw_gid, 0o700),
                                    (parent, user.pw_uid if owner == "own" else owner,
                                     user.pw_gid if group == "own" else group, mode)):
            os.chown(path, uid, gid)
            path.chmod(its)
        said = said_as(user.pw_uid, user.pw_gid, cache_folder, XDG_CACHE_HOME=str(home))
        refused = f"the compile cache {home}/wiretax lies in {parent}, where others can replace it: set XDG_CACHE_HOME"
        assert said == str(home / "wiretax") if is_safe else said.startswith(refused)


def test_a_link_above_the_folder_is_followed_once(tmp_path, monkeypatch):
    """It could lead elsewhere by the time that a library is loaded."""
    (tmp_path / "home").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "home")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "link"))
    assert cache_folder() == tmp_path / "home" / "wiretax"


@as_root
def test_without_a_home_the_way_out_is_named():
    nowhere = {"HOME": None, "XDG_CACHE_HOME": None, "XDG_DATA_HOME": None}
    assert said_as(NAMELESS, NAMELESS, cache_folder, **nowhere) == (
        "there is no home folder for the compile cache: set HOME, or set XDG_CACHE_HOME to a folder of your own")
    assert said_as(NAMELESS, NAMELESS, picks.default_folder, **nowhere) == (
        "there is no home folder for what bench.tune finds: set HOME, or XDG_DATA_HOME")
