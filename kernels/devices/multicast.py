"""Memory of all ranks' GPUs behind one multicast address of an NVSwitch (NVLS), by CUDA's driver.

The driver blocks a bind or a mapping until all devices are in the object (CUDA Driver API,
"Multicast Object Management"). So all ranks must have joined before any calls `bind`."""

import struct
from contextlib import suppress

from kernels.devices.device import DeviceError
from kernels.devices.gpu_stream import GpuStream
from kernels.devices.virtual_memory import FILE_DESCRIPTOR, RECOMMENDED, VirtualMemory

MULTICAST_SUPPORTED = 132  # CU_DEVICE_ATTRIBUTE_MULTICAST_SUPPORTED


class GpuMulticast:
    """A part of this GPU's memory at `own`, and at `address` all ranks' parts. The ranks call in
    turn: one `create`, then all `join`, then all `bind`. Raises DeviceError."""

    def __init__(self, device: GpuStream, ranks: int, size_bytes: int) -> None:
        self.memory = VirtualMemory(device)
        self.number = device.ordinal  # also the driver's
        if not device.driver_value("cuDeviceGetAttribute", MULTICAST_SUPPORTED, self.number):
            raise DeviceError(
                "the driver offers no multicast: this GPU is on no NVSwitch that can sum"
            )
        wanted = self._properties(ranks, size_bytes)
        self.unit_bytes = self.memory.value("MulticastGetGranularity", wanted, RECOMMENDED)
        self.size_bytes = -(-size_bytes // self.unit_bytes) * self.unit_bytes
        self.properties = self._properties(ranks, self.size_bytes)

    def create(self) -> int:
        """A descriptor of a new multicast object, for all ranks; the caller closes it."""
        created = self.memory.value("MulticastCreate", self.properties)
        try:
            return self.memory.export(created)
        finally:  # the descriptor keeps the object
            self.memory.call("MemRelease", created)

    def join(self, descriptor: int) -> None:
        """Adds this GPU to the object."""
        self.object = self.memory.take(descriptor)
        self.memory.call("MulticastAddDevice", self.object, self.number)

    def bind(self) -> None:
        """Puts memory of this GPU behind the object, and maps both."""
        memory, size_bytes = self.memory, self.size_bytes
        part = memory.create(size_bytes)
        memory.call("MulticastBindMem", self.object, 0, part, 0, size_bytes, 0)
        memory.undo.callback(
            memory.call, "MulticastUnbind", self.object, self.number, 0, size_bytes
        )
        self.own = memory.map(part, size_bytes, self.unit_bytes)
        self.address = memory.map(self.object, size_bytes, self.unit_bytes)

    def close(self) -> None:
        with suppress(DeviceError):  # a lost device takes its memory along
            self.memory.close()

    def _properties(self, ranks: int, size_bytes: int) -> bytes:
        """CUmulticastObjectProp."""
        return struct.pack("I4xQQQ", ranks, size_bytes, FILE_DESCRIPTOR, 0)
