"""Host memory that processes share.

It is a memfd, which a peer opens through `/proc/PID/fd/N`: it has no name to guess, leaves nothing behind even after
SIGKILL, and does not depend on the size of /dev/shm. Where that path is closed, a POSIX shared-memory object serves,
which is unlinked as soon as every peer has it.
"""

import ctypes
import json
import mmap
import os
import secrets
from pathlib import Path
from typing import Any

import numpy as np

from kernels.device import Bytes, DeviceError

MEMFD, NAMED = "memfd", "posix shared memory"


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
    """A stretch of memory that other processes map as well."""

    def __init__(self, fd: int, size_bytes: int, handle: bytes, type: str) -> None:
        super().__init__(mmap.mmap(fd, size_bytes), size_bytes, handle, type)
        self.fd = fd

    def close(self) -> None:
        super().close()
        os.close(self.fd)


def allocate(size_bytes: int, type: str) -> SharedMemory:
    """Shared memory of that type, zeroed and touched here, so that it lies near this process's core."""
    if type == NAMED:
        path = f"/dev/shm/wiretax-{secrets.token_hex(16)}"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    else:
        fd = os.memfd_create("wiretax", os.MFD_CLOEXEC)
        path = f"/proc/{os.getpid()}/fd/{fd}"
    os.ftruncate(fd, size_bytes)
    where = {"pid": os.getpid(), "path": path, "size_bytes": size_bytes, "type": type}
    memory = SharedMemory(fd, size_bytes, json.dumps(where).encode(), type)
    ctypes.memset(memory.address, 0, size_bytes)
    return memory


def forget_name(handle: bytes) -> None:
    """Removes the name of memory that was allocated with one."""
    path = Path(json.loads(handle)["path"])
    if path.parent == Path("/dev/shm"):
        path.unlink(missing_ok=True)


def open_shared(handle: bytes) -> SharedMemory:
    """A peer's memory, mapped here. Raises DeviceError if it cannot be had or has another size."""
    where = json.loads(handle)
    try:
        fd = os.open(where["path"], os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise DeviceError(f"the memory of process {where['pid']} cannot be opened: {error.strerror}") from error
    if os.fstat(fd).st_size != where["size_bytes"]:
        os.close(fd)
        raise DeviceError(f"the memory of process {where['pid']} is not of the size that it announced")
    return SharedMemory(fd, where["size_bytes"], handle, where["type"])
