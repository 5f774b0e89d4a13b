"""Memory shared between ranks: other users cannot open it, and other memory is never mapped in its
place."""

import os
import re
import stat
import subprocess
from pathlib import Path

import pytest

from kernels.devices.device import DeviceError
from kernels.devices.shared_memory import HostMemory, allocate, open_shared
from tests.bench.faulty_runs import wait_for
from tests.launch import mpirun

NOBODY = 65534
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")
SIZE = 5000  # two pages, plus one page for the stamp


def mapped_or_open() -> tuple[int, int]:
    """The number of mappings of our memory in this process, and its number of open descriptors."""
    return Path("/proc/self/maps").read_text().count("wiretax"), len(os.listdir("/proc/self/fd"))


@pytest.fixture
def memory():
    memory = allocate(SIZE)
    yield memory
    memory.close()


@as_root
def test_another_user_cannot_open_memory(memory):
    command = ["cat", memory.handle.decode().split()[0]]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    done = subprocess.run(
        command,
        env={"PATH": os.defpath, "LC_ALL": "C"},
        capture_output=True,
        text=True,
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
    )
    assert "Permission denied" in done.stderr
    # The file's mode also denies access, in case /proc is ever open to other users.
    assert stat.S_IMODE(os.fstat(memory.fd).st_mode) == 0o600


def test_a_peer_cannot_resize_memory(memory):
    """A process that touches memory behind a truncated end dies of SIGBUS without a message."""
    for size in (0, 1 << 20):
        with pytest.raises(PermissionError):
            os.truncate(memory.handle.split()[0], size)


def put_in_place(memory: HostMemory, other: str) -> None:
    """Puts this in place of the memory's descriptor, as a process that reuses the process id
    would."""
    fd, end = os.pipe() if other == "a pipe" else (os.memfd_create("other"), -1)
    if other != "a pipe":
        os.truncate(fd, 1 << 20)
    if other == "the same memory":
        os.pwrite(fd, bytes(memory.map), 0)
    assert memory.fd is not None
    os.dup2(fd, memory.fd)
    for descriptor in {fd, end} - {-1}:
        os.close(descriptor)


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ("the same memory", None),  # the control
        ("another memfd", "is not the one that its handle names"),
        ("a pipe", "cannot be opened"),
    ],
)
def test_memory_behind_a_reused_process_id_is_refused_and_not_mapped(memory, other, why):
    put_in_place(memory, other)
    before = mapped_or_open()
    if why is None:
        open_shared(memory.handle, SIZE).close()
    else:
        with pytest.raises(DeviceError, match=why):
            open_shared(memory.handle, SIZE)
    assert mapped_or_open() == before


OPTIONS = ("-b", "16K", "-e", "16K", "-n", "3", "--algorithm", "two_shot")


def test_wrong_memory_ends_all_ranks_with_one_sentence(tmp_path):
    done = mpirun(3, "tests/ranks/tampered_ranks.py", "stale", *OPTIONS, "--out", str(tmp_path))
    assert done.returncode == 3
    why = "the memory /proc/.* is not the one that its handle names"
    assert re.fullmatch(rf".*memfd: rank 0: {why}.*\n", done.stderr), done.stderr
    # The witness removes the files after the ranks end.
    wait_for(lambda: not list(tmp_path.iterdir()), 5)
