"""Memory of all ranks' GPUs behind one multicast address of an NVSwitch (NVLS), by CUDA's driver.

The driver blocks a bind or a mapping until all devices are in the object (CUDA Driver API,
"Multicast Object Management"). So all ranks must have joined before any calls `bind`."""

import struct
from contextlib import ExitStack, suppress

from kernels.devices.device import DeviceError
from kernels.devices.gpu_stream import GpuStream

MULTICAST_SUPPORTED = 132  # CU_DEVICE_ATTRIBUTE_MULTICAST_SUPPORTED
PINNED, ON_DEVICE, FILE_DESCRIPTOR, READ_AND_WRITE, RECOMMENDED = 1, 1, 1, 3, 1


class GpuMulticast:
    """A part of this GPU's memory at `own`, and at `address` all ranks' parts. The ranks call in
    turn: one `create`, then all `join`, then all `bind`. Raises DeviceError."""

    def __init__(self, device: GpuStream, ranks: int, size_bytes: int) -> None:
        self.driver, self.value_of, self.undo = device.driver, device.driver_value, ExitStack()
        self.number = device.ordinal  # also the driver's
        if not self.value_of("cuDeviceGetAttribute", MULTICAST_SUPPORTED, self.number):
            raise DeviceError(
                "the driver offers no multicast: this GPU is on no NVSwitch that can sum"
            )
        wanted = self._properties(ranks, size_bytes)
        self.unit_bytes = self.value_of("cuMulticastGetGranularity", wanted, RECOMMENDED)
        self.size_bytes = -(-size_bytes // self.unit_bytes) * self.unit_bytes
        self.properties = self._properties(ranks, self.size_bytes)

    def create(self) -> int:
        """A descriptor of a new multicast object, for all ranks; the caller closes it."""
        created = self.value_of("cuMulticastCreate", self.properties)
        try:
            return self.value_of("cuMemExportToShareableHandle", created, FILE_DESCRIPTOR, 0)
        finally:  # the descriptor keeps the object
            self.driver("cuMemRelease", created)

    def join(self, descriptor: int) -> None:
        """Adds this GPU to the object."""
        self.object = self.value_of("cuMemImportFromShareableHandle", descriptor, FILE_DESCRIPTOR)
        self.undo.callback(self.driver, "cuMemRelease", self.object)
        self.driver("cuMulticastAddDevice", self.object, self.number)

    def bind(self) -> None:
        """Puts memory of this GPU behind the object, and maps both."""
        properties = struct.pack("iiiiQQ", PINNED, FILE_DESCRIPTOR, ON_DEVICE, self.number, 0, 0)
        memory = self.value_of("cuMemCreate", self.size_bytes, properties, 0)
        self.undo.callback(self.driver, "cuMemRelease", memory)
        self.driver("cuMulticastBindMem", self.object, 0, memory, 0, self.size_bytes, 0)
        self.undo.callback(
            self.driver, "cuMulticastUnbind", self.object, self.number, 0, self.size_bytes
        )
        self.own, self.address = self._map(memory), self._map(self.object)

    def close(self) -> None:
        with suppress(DeviceError):  # a lost device takes its memory along
            self.undo.close()

    def _map(self, handle: int) -> int:
        size_bytes = self.size_bytes
        access = struct.pack("iii", ON_DEVICE, self.number, READ_AND_WRITE)
        address = self.value_of("cuMemAddressReserve", size_bytes, self.unit_bytes, 0, 0)
        self.undo.callback(self.driver, "cuMemAddressFree", address, size_bytes)
        self.driver("cuMemMap", address, size_bytes, 0, handle, 0)
        self.undo.callback(self.driver, "cuMemUnmap", address, size_bytes)
        self.driver("cuMemSetAccess", address, size_bytes, access, 1)
        return address

    def _properties(self, ranks: int, size_bytes: int) -> bytes:
        """CUmulticastObjectProp."""
        return struct.pack("I4xQQQ", ranks, size_bytes, FILE_DESCRIPTOR, 0)
