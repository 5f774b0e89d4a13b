"""Memory of all ranks' GPUs behind one multicast address of an NVSwitch (NVLS), by CUDA's driver.

The driver blocks a bind or a mapping until all devices are in the object (CUDA Driver API,
"Multicast Object Management"). So all ranks must have joined before any calls `bind`."""

import ctypes
import struct
from contextlib import ExitStack, suppress
from ctypes import c_uint64
from typing import Any

from kernels.devices.device import DeviceError, Multicast
from kernels.devices.gpu_driver import driver_library
from kernels.devices.gpu_stream import GpuStream

MULTICAST_SUPPORTED = 132  # CU_DEVICE_ATTRIBUTE_MULTICAST_SUPPORTED
LEAST_ARCH, LEAST_NVRTC = 90, (12, 2)  # of multimem with sums in fp32, in PTX 8.2
PINNED, ON_DEVICE, FILE_DESCRIPTOR, READ_AND_WRITE, RECOMMENDED = 1, 1, 1, 3, 1


class GpuMulticast(Multicast):
    """A part of this GPU's memory at `own`, and at `address` all ranks' parts. The ranks call in
    turn: one `create`, then all `join`, then all `bind`. Raises DeviceError."""

    def __init__(self, device: GpuStream, ranks: int, size_bytes: int) -> None:
        self.device, self.own, self.address, self.undo = device, 0, 0, ExitStack()
        self.object = 0
        number, supported, unit = ctypes.c_int(), ctypes.c_int(), c_uint64()
        self._call("cuDeviceGetByPCIBusId", ctypes.byref(number), device.pci_bus_id.encode())
        self._call(
            "cuDeviceGetAttribute", ctypes.byref(supported), MULTICAST_SUPPORTED, number.value
        )
        if not supported.value:
            raise DeviceError(
                "the driver offers no multicast: this GPU is on no NVSwitch that can sum"
            )
        self.number = number.value
        self._call(
            "cuMulticastGetGranularity",
            ctypes.byref(unit),
            self._properties(ranks, size_bytes),
            RECOMMENDED,
        )
        self.unit_bytes = unit.value
        self.size_bytes = -(-size_bytes // self.unit_bytes) * self.unit_bytes
        self.properties = self._properties(ranks, self.size_bytes)

    def create(self) -> int:
        """A descriptor of a new multicast object, for all ranks; the caller closes it."""
        created, descriptor = c_uint64(), ctypes.c_int(-1)
        self._call("cuMulticastCreate", ctypes.byref(created), self.properties)
        try:
            self._call(
                "cuMemExportToShareableHandle",
                ctypes.byref(descriptor),
                created.value,
                FILE_DESCRIPTOR,
                0,
            )
        finally:  # the descriptor keeps the object
            self._call("cuMemRelease", created.value)
        return descriptor.value

    def join(self, descriptor: int) -> None:
        """Adds this GPU to the object."""
        joined = c_uint64()
        self._call(
            "cuMemImportFromShareableHandle", ctypes.byref(joined), descriptor, FILE_DESCRIPTOR
        )
        self.object = joined.value
        self._at_end("cuMemRelease", self.object)
        self._call("cuMulticastAddDevice", self.object, self.number)

    def bind(self) -> None:
        """Puts memory of this GPU behind the object, and maps both."""
        memory = c_uint64()
        properties = struct.pack("iiiiQQ", PINNED, FILE_DESCRIPTOR, ON_DEVICE, self.number, 0, 0)
        self._call("cuMemCreate", ctypes.byref(memory), self.size_bytes, properties, 0)
        self._at_end("cuMemRelease", memory.value)
        self._call("cuMulticastBindMem", self.object, 0, memory.value, 0, self.size_bytes, 0)
        self._at_end("cuMulticastUnbind", self.object, self.number, 0, self.size_bytes)
        self.own, self.address = self._map(memory.value), self._map(self.object)

    def close(self) -> None:
        self.undo.close()

    def _map(self, handle: int) -> int:
        reserved, access = c_uint64(), struct.pack("iii", ON_DEVICE, self.number, READ_AND_WRITE)
        self._call(
            "cuMemAddressReserve", ctypes.byref(reserved), self.size_bytes, self.unit_bytes, 0, 0
        )
        self._at_end("cuMemAddressFree", reserved.value, self.size_bytes)
        self._call("cuMemMap", reserved.value, self.size_bytes, 0, handle, 0)
        self._at_end("cuMemUnmap", reserved.value, self.size_bytes)
        self._call("cuMemSetAccess", reserved.value, self.size_bytes, access, 1)
        return reserved.value

    def _properties(self, ranks: int, size_bytes: int) -> bytes:
        """CUmulticastObjectProp."""
        return struct.pack("I4xQQQ", ranks, size_bytes, FILE_DESCRIPTOR, 0)

    def _call(self, name: str, *arguments: Any) -> None:
        """Calls the driver. The ABI takes a 64-bit number for a shorter one."""
        with self.device.calling(name):
            function = getattr(driver_library(self.device.name), name, None)
            if function is None:
                raise RuntimeError("the driver is too old and lacks it")
            wide = [c_uint64(a) if isinstance(a, int) else a for a in arguments]
            if status := function(*wide):
                raise RuntimeError(f"error {status}")

    def _at_end(self, name: str, *arguments: int) -> None:
        def call() -> None:
            with suppress(DeviceError):  # a lost device takes its memory along
                self._call(name, *arguments)

        self.undo.callback(call)
