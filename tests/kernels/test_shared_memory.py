"""Memory shared between ranks: other users cannot open it, and other memory is never mapped in its
place."""

import fcntl
import os
import re
import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.devices.device import DeviceError
from kernels.devices.gpu_driver import IPC_HANDLE
from kernels.devices.shared_memory import (
    MEMFD,
    NAMED,
    SEALS,
    HostMemory,
    allocate,
    forget_name,
    open_shared,
    stamp,
)
from tests.bench.faulty_runs import wait_for
from tests.launch import few, mpirun

pytestmark = pytest.mark.alone

NOBODY = 65534
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")
SIZE = 5000  # two pages, plus one page for the stamp


def mapped_or_open() -> tuple[int, int]:
    """The number of mappings of our memory in this process, and its number of open descriptors."""
    return Path("/proc/self/maps").read_text().count("wiretax"), len(os.listdir("/proc/self/fd"))


def names() -> list[Path]:
    return sorted(Path("/dev/shm").glob("wiretax-*"))


@pytest.fixture(params=[MEMFD, NAMED])
def memory(request):
    memory = allocate(SIZE, request.param, "run 1 of rank 0")
    yield memory
    forget_name(memory.handle)
    memory.close()


def opened(memory: HostMemory, size_bytes: int = SIZE, label: str = "run 1 of rank 0") -> None:
    open_shared(memory.handle, size_bytes, memory.type, label).close()


@as_root
def test_another_user_cannot_open_memory_or_its_name(memory):
    command = ["cat", memory.handle.decode()]
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


def test_a_peer_cannot_resize_a_memfd():
    """A process that touches memory behind a truncated end dies of SIGBUS without a message."""
    memory = allocate(SIZE, MEMFD)
    for size in (0, 1 << 20):
        with pytest.raises(PermissionError):
            os.truncate(memory.handle, size)
    memory.close()


def other_inode(
    memory: HostMemory,
    chown: bool = False,
    mode: int = 0o600,
    seals: int = SEALS,
    size_bytes: int = 2 * 4096 + 4096,
    label: str = "run 1 of rank 0",
) -> None:
    """Put another memfd in place of the memory's descriptor, as a process that reuses the process
    id would."""
    fd = os.memfd_create("other", os.MFD_ALLOW_SEALING)
    os.fchmod(fd, mode)
    os.ftruncate(fd, size_bytes)
    os.pwrite(fd, stamp(SIZE, label), 8192)
    if chown:
        os.fchown(fd, NOBODY, NOBODY)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    assert memory.fd is not None
    os.dup2(fd, memory.fd)
    os.close(fd)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({}, None),
        ({"label": "run 1 of rank 1"}, "another run"),
        ({"size_bytes": 1 << 20}, "not of the size"),
        ({"mode": 0o640}, "alone"),
        ({"seals": 0}, "cut short"),
        pytest.param({"chown": True}, "alone", marks=as_root),
    ],
)
def test_memory_behind_a_reused_process_id_is_refused_and_not_mapped(changed, why):
    """`{}` is the control: an identical memfd is accepted as the memory."""
    memory = allocate(SIZE, MEMFD, "run 1 of rank 0")
    other_inode(memory, **changed)
    before = mapped_or_open()
    if why is None:
        opened(memory)
    else:
        with pytest.raises(DeviceError, match=why):
            opened(memory)
    assert mapped_or_open() == before
    memory.close()


def test_memory_of_another_size_or_label_is_refused(memory):
    opened(memory)
    before = mapped_or_open()
    for request, why in (
        ((SIZE - 4096,), "not of the size"),
        ((SIZE - 1,), "another run"),
        ((SIZE, "run 1 of rank 1"), "another run"),
    ):
        with pytest.raises(DeviceError, match=why):
            opened(memory, *request)
    assert mapped_or_open() == before


def test_named_memory_that_was_cut_or_lies_behind_a_link_is_refused():
    memory = allocate(SIZE, NAMED, "run 1 of rank 0")
    path = Path(memory.handle.decode())
    for size, why in ((4096, "not of the size"), (3 * 4096, "another run")):
        os.truncate(path, size)
        with pytest.raises(DeviceError, match=why):
            opened(memory)
    moved = path.rename(path.with_suffix(".moved"))
    path.symlink_to(moved)
    with pytest.raises(DeviceError, match="cannot be opened"):
        opened(memory)
    moved.unlink()
    forget_name(memory.handle)
    memory.close()


def test_a_failed_allocation_leaves_no_name():
    """Without the check, a rank in a container with 64 MB of /dev/shm would die of SIGBUS at its
    first store."""
    before = names()
    with pytest.raises(OSError, match=r"No space|too large|Cannot allocate"):
        allocate(1 << 50, NAMED)
    assert names() == before


OWN = os.getpid()
GOOD = [b"/proc/%d/fd/0" % OWN, b"/dev/shm/wiretax-4026531836-%d-%s" % (OWN, b"0" * 32)]
PIECES = [
    b"/proc/self/fd/0",
    b"/etc/passwd",
    b"/dev/shm/wiretax-../../etc/passwd",
    b"\n",
    b"\0",
    b"-1",
    b"9" * 40,
    "٣".encode(),
    b"[" * 2000,
    b"/proc/1/fd/0",
    b"",
    b"7",
]


def damage(good: bytes, at: int, cut: int, piece: bytes) -> bytes:
    return good[:at] + piece + good[at + cut :]


damaged = st.one_of(
    st.binary(max_size=80),
    st.sampled_from(PIECES),
    st.builds(
        damage,
        st.sampled_from(GOOD),
        st.integers(0, 60),
        st.integers(0, 5),
        st.sampled_from(PIECES),
    ),
)


@given(handle=damaged, type=st.sampled_from([MEMFD, NAMED]))
def test_a_damaged_handle_is_refused_and_nothing_is_mapped_or_left_open(handle, type):
    before = mapped_or_open()
    with pytest.raises(DeviceError):
        open_shared(handle, SIZE, type, "run")
    forget_name(handle)
    assert mapped_or_open() == before


OPTIONS = ("-b", "16K", "-e", "16K", "-n", "3", "--algorithm", "two_shot", "--lean")


@pytest.mark.parametrize(
    ("fault", "why"),
    few(
        [
            ("stale", "the memory /proc/.* another run, rank or allocation"),
            ("no handle", ".* is no handle of memfd"),
            ("swapped", "the memory /proc/.* another run, rank or allocation"),
        ],
        2,
    ),
)
def test_wrong_memory_ends_all_ranks_with_one_sentence(tmp_path, fault, why):
    before = names()
    done = mpirun(3, "tests/ranks/tampered_ranks.py", fault, *OPTIONS, "--out", str(tmp_path))
    assert done.returncode == 3
    assert re.fullmatch(rf".*memfd: rank 0: {why}.*\n", done.stderr), done.stderr
    # The witness removes the files after the ranks end.
    wait_for(lambda: not list(tmp_path.iterdir()), 5)
    assert names() == before


def test_the_handle_of_gpu_memory_has_a_grammar():
    """Handles that do not match are refused before a call of the driver; test_device_gpu.py opens
    valid handles."""
    good = b"0000:41:00.0 " + b"ab" * 64 + b" 0 4096 cudaMalloc"
    assert IPC_HANDLE.fullmatch(good)
    for old, new in (
        (b"0000", b"zzzz"),
        (b"ab", b""),
        (b" 0 ", b" -1 "),
        (b"4096", b"9" * 16),
        (b"cudaMalloc", b"malloc"),
        (b"cudaMalloc", b"cudaMalloc\n"),
        (good, b""),
    ):
        assert not IPC_HANDLE.fullmatch(good.replace(old, new, 1))
