"""Host memory that processes share.

It is a memfd, which a peer opens through `/proc/PID/fd/N`: it has no name to guess, leaves nothing behind even after
SIGKILL, and does not depend on the size of /dev/shm. Where that path is closed, a POSIX shared-memory object serves,
which is unlinked as soon as every peer has it.

Both are their owner's alone. Behind the data lies a page with a stamp: a magic, the size, and a digest of the label
that both sides were told, so that whoever attaches knows the memory from a stale one, another run's, another rank's.
"""

import contextlib
import ctypes
import fcntl
import hashlib
import mmap
import os
import re
import secrets
import stat
from typing import Any

import numpy as np

from kernels.devices.device import Bytes, DeviceError

MEMFD, NAMED = "memfd", "posix shared memory"
HANDLES = {MEMFD: rb"/proc/[1-9][0-9]{0,9}/fd/[0-9]{1,9}",
           NAMED: rb"/dev/shm/wiretax-[0-9]{1,10}-[0-9]{1,10}-[0-9a-f]{32}"}
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL  # whoever touches what was cut off dies of SIGBUS


class HostMemory:
    """Memory of the host, mapped here; its pages may go beyond `size_bytes`."""

    def __init__(self, map: mmap.mmap, size_bytes: int, handle: bytes, type: str) -> None:
        self.map, self.size_bytes, self.handle, self.type = map, size_bytes, handle, type
        self.view = np.frombuffer(map, np.uint8)
        self.address = self.view.ctypes.data

    def read(self) -> Bytes:
        return self.view[: self.size_bytes].copy()

    def write(self, data: np.ndarray[Any, Any], offset: int = 0) -> None:
        self.view[offset : offset + data.nbytes] = np.ascontiguousarray(data).view(np.uint8).reshape(-1)

    def close(self) -> None:
        del self.view
        self.map.close()


class SharedMemory(HostMemory):
    """A stretch of memory that other processes map as well, whole pages and that of the stamp."""

    def __init__(self, fd: int, size_bytes: int, handle: bytes, type: str) -> None:
        super().__init__(mmap.mmap(fd, stamp_offset(size_bytes) + mmap.PAGESIZE), size_bytes, handle, type)
        self.fd = fd

    def close(self) -> None:
        super().close()
        os.close(self.fd)


def stamp_offset(size_bytes: int) -> int:
    return -(-size_bytes // mmap.PAGESIZE) * mmap.PAGESIZE


def stamp(size_bytes: int, label: str) -> bytes:
    """What stands behind memory of this size and label."""
    return b"wiretax\0" + size_bytes.to_bytes(8, "little") + hashlib.sha256(label.encode()).digest()


def allocate(size_bytes: int, type: str, label: str = "") -> SharedMemory:
    """Shared memory of that type, zeroed and touched here, so that it lies near this process's core. Its handle is the
    path to it. Raises OSError, where there is no room too."""
    if type == NAMED:
        # Whose it is, for who clears up behind a killed rank (harness/witness.py); a process number alone would not do
        # where containers share /dev/shm.
        owner = f"{os.stat('/proc/self/ns/pid').st_ino}-{os.getpid()}"
        path = f"/dev/shm/wiretax-{owner}-{secrets.token_hex(16)}"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    else:
        fd = os.memfd_create("wiretax", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        path = f"/proc/{os.getpid()}/fd/{fd}"
    try:
        os.fchmod(fd, 0o600)  # a memfd is everybody's by birth
        os.posix_fallocate(fd, 0, stamp_offset(size_bytes) + mmap.PAGESIZE)  # a full /dev/shm is said here
        if type == MEMFD:
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
        memory = SharedMemory(fd, size_bytes, path.encode(), type)
    except OSError:
        os.close(fd)
        forget_name(path.encode())
        raise
    ctypes.memset(memory.address, 0, size_bytes)
    memory.write(np.frombuffer(stamp(size_bytes, label), np.uint8), stamp_offset(size_bytes))
    return memory


def forget_name(handle: bytes) -> None:
    """Removes the name of memory that was allocated with one."""
    if re.fullmatch(HANDLES[NAMED], handle):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(handle)


def open_shared(handle: bytes, size_bytes: int, type: str, label: str = "") -> SharedMemory:
    """A peer's memory, mapped here. Raises DeviceError if it cannot be had, or is not what was asked for: memory of
    this user alone, of this size, that keeps its size, with this label."""
    if not re.fullmatch(HANDLES[type], handle):
        raise DeviceError(f"{handle[:60]!r} is no handle of {type}")
    path, follow = handle.decode(), 0 if type == MEMFD else os.O_NOFOLLOW  # the kernel's links are to be followed
    with contextlib.ExitStack() as undo:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY | follow)
            undo.callback(os.close, fd)
            if wrong := _wrong(fd, size_bytes, type, label):
                raise DeviceError(f"the memory {path} is refused: {wrong}")
            memory = SharedMemory(fd, size_bytes, handle, type)
        except OSError as error:
            raise DeviceError(f"the memory {path} cannot be opened: {error.strerror}") from error
        undo.pop_all()
    return memory


def _wrong(fd: int, size_bytes: int, type: str, label: str) -> str | None:
    """What is wrong with a peer's memory, found before it is mapped."""
    about = os.fstat(fd)
    if not stat.S_ISREG(about.st_mode) or about.st_uid != os.geteuid() or about.st_mode & 0o077:
        return "it is not this user's alone"
    if about.st_size != stamp_offset(size_bytes) + mmap.PAGESIZE:
        return "it is not of the size that was asked for"
    if type == MEMFD and fcntl.fcntl(fd, fcntl.F_GET_SEALS) & SEALS != SEALS:
        return "it could be cut short"
    expected = stamp(size_bytes, label)
    if os.pread(fd, len(expected), stamp_offset(size_bytes)) != expected:
        return "it is of another run, rank or allocation"
    return None
