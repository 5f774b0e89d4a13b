"""Memory by a driver's virtual memory management: created, exported as a file descriptor, imported
by another process, and mapped (CUDA Driver API, "Virtual Memory Management"). HIP has the same
calls and structures (hip_runtime_api.h)."""

import ctypes
import struct
from contextlib import ExitStack
from typing import Any

from kernels.devices.gpu_stream import GpuStream

PREFIXES = {"cuda": "cu", "hip": "hip"}  # of the driver's functions
# By the type's name in a sharing mode. ROCm knows hipMemAllocationTypeUncached since 7.0.2; before
# rocm-systems pull request 4476 it is fine-grained memory.
TYPES = {"": 1, "uncached": 0x40000000}
ON_DEVICE, FILE_DESCRIPTOR, READ_AND_WRITE, RECOMMENDED = 1, 1, 3, 1
LARGE_PAGE_BYTES = 2 << 20
# HIP 7.1 and newer take a descriptor by its value, as CUDA, and older ones by its address
# (ROCm/rocm-systems pull request 759, kvcache-ai/Mooncake pull request 1550).
HIP_TAKES_VALUE = 70_100_000


class VirtualMemory:
    """What one owner makes with these calls; `close` undoes it in reverse. Each method raises
    DeviceError."""

    def __init__(self, device: GpuStream) -> None:
        self.device, self.undo = device, ExitStack()
        self.prefix = PREFIXES[device.name]

    def call(self, name: str, *arguments: Any) -> None:
        """Calls a function of the driver, which is named without CUDA's or HIP's prefix."""
        self.device.driver(self.prefix + name, *arguments)

    def value(self, name: str, *arguments: Any) -> int:
        """What such a function writes to its first argument, which `arguments` leave out."""
        return self.device.driver_value(self.prefix + name, *arguments)

    def create(self, size_bytes: int, type: str = "") -> int:
        """A handle of new memory of this GPU, of a type of TYPES."""
        return self._kept(self.value("MemCreate", size_bytes, self._properties(type), 0))

    def unit_bytes(self, type: str = "") -> int:
        """What sizes and addresses of such memory are multiples of: large pages, also where the
        driver names less. What ROCm recommends was wrong before 7.11."""
        named = self.value("MemGetAllocationGranularity", self._properties(type), RECOMMENDED)
        return max(named, LARGE_PAGE_BYTES)

    def export(self, handle: int) -> int:
        """A new file descriptor, which keeps what the handle names; the caller closes it."""
        return self.value("MemExportToShareableHandle", handle, FILE_DESCRIPTOR, 0)

    def take(self, descriptor: int) -> int:
        """A handle of what another process has exported. The descriptor must stay open until it is
        mapped: before rocm-systems pull request 8440 ROCm reads it only then."""
        passed: Any = descriptor
        is_hip, version = self.device.name == "hip", self.device.runtime.runtimeGetVersion()
        if is_hip and version < HIP_TAKES_VALUE:
            passed = ctypes.byref(ctypes.c_int(descriptor))
        return self._kept(self.value("MemImportFromShareableHandle", passed, FILE_DESCRIPTOR))

    def map(self, handle: int, size_bytes: int, unit_bytes: int) -> int:
        """The address at which this GPU reaches it from now on."""
        access = struct.pack("iii", ON_DEVICE, self.device.ordinal, READ_AND_WRITE)
        address = self.value("MemAddressReserve", size_bytes, unit_bytes, 0, 0)
        self.undo.callback(self.call, "MemAddressFree", address, size_bytes)
        self.call("MemMap", address, size_bytes, 0, handle, 0)
        self.undo.callback(self.call, "MemUnmap", address, size_bytes)
        self.call("MemSetAccess", address, size_bytes, access, 1)
        return address

    def close(self) -> None:
        self.undo.close()

    def _kept(self, handle: int) -> int:
        self.undo.callback(self.call, "MemRelease", handle)
        return handle

    def _properties(self, type: str) -> bytes:
        """CUmemAllocationProp, which the driver knows by the GPU's own number."""
        number = self.device.ordinal
        return struct.pack("iiiiQQ", TYPES[type], FILE_DESCRIPTOR, ON_DEVICE, number, 0, 0)
