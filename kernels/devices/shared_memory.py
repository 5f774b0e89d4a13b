"""Host memory that processes share: the CPU's slabs, and a GPU's where peers cannot map its own.

A peer opens a memfd through `/proc/PID/fd/N`: without a name to guess, a leftover after SIGKILL, or
the limit of /dev/shm. If that path is closed, a POSIX shared-memory object serves; its name goes
when all peers have opened it. A stamp in the page behind the data (a magic, the size, a digest of
the label) lets a peer refuse memory of another run, rank or allocation."""

import contextlib
import fcntl
import hashlib
import mmap
import os
import re
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kernels.devices.device import Bytes, DeviceError

MEMFD, NAMED = "memfd", "posix shared memory"
HANDLES = {
    MEMFD: rb"/proc/[1-9][0-9]{0,9}/fd/[0-9]{1,9}",
    NAMED: rb"/dev/shm/wiretax-[0-9]{1,10}-[0-9]{1,10}-[0-9a-f]{32}",
}
MEMORY_FACTS, CONTROL_GROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
# Without these seals a peer could cut the memory off; touching it then raises SIGBUS.
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


@dataclass(eq=False)
class HostMemory:
    """Host memory, mapped into this process. Its owner keeps `fd` open: a memfd's path needs it."""

    map: mmap.mmap
    size_bytes: int
    handle: bytes = b""
    type: str = "private"
    fd: int | None = None

    def __post_init__(self) -> None:
        self.view = np.frombuffer(self.map, np.uint8)
        self.address = self.view.ctypes.data

    def read(self) -> Bytes:
        return self.view[: self.size_bytes].copy()

    def write(self, data: np.ndarray[Any, Any], offset: int = 0) -> None:
        content = np.ascontiguousarray(data).view(np.uint8).reshape(-1)
        self.view[offset : offset + data.nbytes] = content

    def close(self) -> None:
        del self.view
        self.map.close()
        if self.fd is not None:
            os.close(self.fd)


def available_bytes(sharing: str = "") -> int:
    """The host memory that processes can still take: as the kernel estimates it, within the limit
    of this control group (version 2), and for NAMED memory in /dev/shm."""
    facts = dict(line.split()[:2] for line in MEMORY_FACTS.read_text().splitlines())
    free_bytes = int(facts["MemAvailable:"]) << 10
    with contextlib.suppress(OSError, ValueError):  # no version 2, or no limit
        limit = int((CONTROL_GROUP / "memory.max").read_text())
        facts = dict(map(str.split, (CONTROL_GROUP / "memory.stat").read_text().splitlines()))
        cached = int(facts["inactive_file"]) + int(facts["active_file"])
        used = int((CONTROL_GROUP / "memory.current").read_text()) - cached
        free_bytes = min(free_bytes, limit - used)
    if sharing == NAMED:
        room = os.statvfs("/dev/shm")
        free_bytes = min(free_bytes, room.f_bavail * room.f_frsize)
    return max(0, free_bytes)


def stamp_offset(size_bytes: int) -> int:
    """The size in bytes, rounded up to whole pages."""
    return -(-size_bytes // mmap.PAGESIZE) * mmap.PAGESIZE


def stamp(size_bytes: int, label: str) -> bytes:
    return b"wiretax\0" + size_bytes.to_bytes(8, "little") + hashlib.sha256(label.encode()).digest()


def allocate(size_bytes: int, type: str, label: str = "") -> HostMemory:
    """Shared memory of this type; its handle is its path. This process zeroes it, so that the pages
    lie near its core. Raises OSError, also if memory runs out."""
    if type == NAMED:
        # harness/witness.py finds a killed rank's memory by this name. Containers that share
        # /dev/shm can have equal process ids, so the name also has the PID namespace.
        owner = f"{os.stat('/proc/self/ns/pid').st_ino}-{os.getpid()}"
        path = f"/dev/shm/wiretax-{owner}-{secrets.token_hex(16)}"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    else:
        fd = os.memfd_create("wiretax", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        path = f"/proc/{os.getpid()}/fd/{fd}"
    try:
        os.fchmod(fd, 0o600)  # a new memfd has mode 0777
        # Fails now if /dev/shm is full; a later store would raise SIGBUS.
        os.posix_fallocate(fd, 0, stamp_offset(size_bytes) + mmap.PAGESIZE)
        if type == MEMFD:
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
        memory = HostMemory(mmap.mmap(fd, 0), size_bytes, path.encode(), type, fd)
    except OSError:
        os.close(fd)
        forget_name(path.encode())
        raise
    memory.view[:] = 0
    memory.write(np.frombuffer(stamp(size_bytes, label), np.uint8), stamp_offset(size_bytes))
    return memory


def forget_name(handle: bytes) -> None:
    """Removes the name of this memory, if it has one."""
    if re.fullmatch(HANDLES[NAMED], handle):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(handle)


def open_shared(handle: bytes, size_bytes: int, type: str, label: str = "") -> HostMemory:
    """A peer's memory. Raises DeviceError if it cannot be opened, or is not what is expected."""
    if not re.fullmatch(HANDLES[type], handle):
        raise DeviceError(f"{handle[:60]!r} is no handle of {type}")
    path, nofollow = handle.decode(), 0 if type == MEMFD else os.O_NOFOLLOW  # /proc/PID/fd: a link
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY | nofollow)
        try:
            if objection := _objection(fd, size_bytes, type, label):
                raise DeviceError(f"the memory {path} is refused: {objection}")
            return HostMemory(mmap.mmap(fd, 0), size_bytes, handle, type)
        finally:
            os.close(fd)
    except OSError as error:
        raise DeviceError(f"the memory {path} cannot be opened: {error.strerror}") from error


def _objection(fd: int, size_bytes: int, type: str, label: str) -> str | None:
    """Why this process must not map the peer's memory; None if it may."""
    status = os.fstat(fd)
    is_private = status.st_uid == os.geteuid() and not status.st_mode & 0o077
    if not stat.S_ISREG(status.st_mode) or not is_private:
        return "it does not belong to this user alone"
    if status.st_size != stamp_offset(size_bytes) + mmap.PAGESIZE:
        return f"it is not of the size that this rank expects, {size_bytes} B"
    if type == MEMFD and fcntl.fcntl(fd, fcntl.F_GET_SEALS) & SEALS != SEALS:
        return "it could be cut short"
    expected = stamp(size_bytes, label)
    if os.pread(fd, len(expected), stamp_offset(size_bytes)) != expected:
        return "it belongs to another run, rank or allocation"
    return None
