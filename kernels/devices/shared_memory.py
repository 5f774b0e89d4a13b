"""Host memory that processes share: the CPU's slabs, and a GPU's where peers cannot map its own.

A peer opens a memfd through `/proc/PID/fd/N`: without a name to guess, a leftover after SIGKILL, or
the limit of /dev/shm. The page behind the data holds a random stamp that the handle repeats: in
another PID namespace, or after a process has ended, its path leads to other memory."""

import contextlib
import fcntl
import mmap
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from kernels.devices.device import Bytes, DeviceError

MEMFD, CONTROL_GROUP = "memfd", Path("/sys/fs/cgroup")
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
    flush_register: int = 0

    def __post_init__(self) -> None:
        self.view = np.frombuffer(self.map, np.uint8)
        self.address = self.view.ctypes.data

    def read(self, offset: int = 0, size_bytes: int | None = None) -> Bytes:
        end = self.size_bytes if size_bytes is None else offset + size_bytes
        return self.view[offset:end].copy()

    def write(self, data: np.ndarray[Any, Any], offset: int = 0) -> None:
        content = np.ascontiguousarray(data).view(np.uint8).reshape(-1)
        self.view[offset : offset + data.nbytes] = content

    def export(self) -> None:
        return None

    def close(self) -> None:
        del self.view
        self.map.close()
        if self.fd is not None:
            os.close(self.fd)


def available_bytes() -> int:
    """The host memory that processes can still take: as the kernel estimates it, and within the
    limit of this control group (version 2)."""
    free_bytes: int = psutil.virtual_memory().available
    with contextlib.suppress(OSError, ValueError, KeyError):  # no version 2, or no limit
        limit = int((CONTROL_GROUP / "memory.max").read_text())
        facts = dict(map(str.split, (CONTROL_GROUP / "memory.stat").read_text().splitlines()))
        cached = int(facts["inactive_file"]) + int(facts["active_file"])
        used = int((CONTROL_GROUP / "memory.current").read_text()) - cached
        free_bytes = min(free_bytes, limit - used)
    return max(0, free_bytes)


def stamp_offset(size_bytes: int) -> int:
    """The size in bytes, rounded up to whole pages."""
    return -(-size_bytes // mmap.PAGESIZE) * mmap.PAGESIZE


def allocate(size_bytes: int) -> HostMemory:
    """Shared memory; its handle is its path and its stamp. This process zeroes it, so that the
    pages lie near its core. Raises OSError, also if memory runs out."""
    fd = os.memfd_create("wiretax", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.fchmod(fd, 0o600)  # a new memfd has mode 0777
        os.posix_fallocate(fd, 0, stamp_offset(size_bytes) + mmap.PAGESIZE)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
        stamp = secrets.token_hex(16).encode()
        handle = b"/proc/%d/fd/%d %s" % (os.getpid(), fd, stamp)
        memory = HostMemory(mmap.mmap(fd, 0), size_bytes, handle, MEMFD, fd)
    except OSError:
        os.close(fd)
        raise
    memory.view[:] = 0
    os.pwrite(fd, stamp, stamp_offset(size_bytes))
    return memory


def open_shared(handle: bytes, size_bytes: int) -> HostMemory:
    """A peer's memory. Raises DeviceError if it cannot be opened, or is not what is expected."""
    path, stamp = handle.decode().split()
    try:
        fd = os.open(path, os.O_RDWR)
        try:
            if os.pread(fd, len(stamp), stamp_offset(size_bytes)) != stamp.encode():
                raise DeviceError(f"the memory {path} is not the one that its handle names")
            return HostMemory(mmap.mmap(fd, 0), size_bytes, type=MEMFD)
        finally:
            os.close(fd)
    except OSError as error:
        raise DeviceError(f"the memory {path} cannot be opened: {error.strerror}") from error
