"""A GPU's copy engines (DMA, AMD: SDMA): copies in a second stream, beside the kernels', and CUDA's
stream memory operations, which store and await a flag without a kernel.

HIP has such operations too, but not for this: they are beta, a wait wants `hipMallocSignalMemory`
and has no flush, and graphs capture them only since July 2026 (ROCm/rocm-systems pull 8911)."""

import os
from collections.abc import Sequence
from typing import Any

from kernels.devices.device import CopyEngine, DeviceError, Step
from kernels.devices.gpu_stream import GpuStream

ANY_DIRECTION = 4  # cudaMemcpyDefault
# hipMemcpyDeviceToDeviceNoCU: HIP copies within what it takes for one device with a kernel, and a
# peer's memory looks like that to the process that opened it.
WITHOUT_KERNEL = 1024
# CU_STREAM_WAIT_VALUE_EQ, _FLUSH and CU_DEVICE_ATTRIBUTE_CAN_FLUSH_REMOTE_WRITES: a device that may
# reorder a peer's copy and the flag behind it has the flush that orders both.
EQUAL, FLUSH, CAN_FLUSH = 1, 1 << 30, 98


class GpuCopyEngine(CopyEngine):
    """The engines of a GPU. Raises DeviceError."""

    def __init__(self, device: GpuStream) -> None:
        self.device, is_hip = device, device.name == "hip"
        if is_hip and os.environ.get("HSA_ENABLE_SDMA") == "0":
            raise DeviceError("HSA_ENABLE_SDMA=0 makes AMD's driver copy with kernels")
        with device.calling("making a stream"):
            self.stream = device.cupy.cuda.Stream(non_blocking=True)
        self.kind = WITHOUT_KERNEL if is_hip else ANY_DIRECTION
        self.waits = EQUAL
        if not is_hip and device.driver_value("cuDeviceGetAttribute", CAN_FLUSH, device.ordinal):
            self.waits |= FLUSH

    def copy(self, target: int, source: int, size_bytes: int) -> Step:
        def copy() -> None:
            self.device.runtime.memcpyAsync(target, source, size_bytes, self.kind, self._current())

        return self.device.python(f"copy of {size_bytes} B", copy)

    def store(self, address: int, value: int) -> Step:
        return self._on_value("cuStreamWriteValue32_v2", address, value, 0)

    def wait(self, address: int, value: int) -> Step:
        return self._on_value("cuStreamWaitValue32_v2", address, value, self.waits)

    def _on_value(self, name: str, address: int, value: int, flags: int) -> Step:
        def act() -> None:
            self.device.driver(name, self._current(), address, value, flags)

        return self.device.python(name, act)

    def _current(self) -> int:
        return int(self.device.cupy.cuda.get_current_stream().ptr)

    def beside(self, steps: Sequence[Step]) -> Step:
        reached = self._event()

        def enqueue() -> None:
            reached.record(self.device.stream)
            self.stream.wait_event(reached)
            self.stream.use()
            try:
                self.device.enqueue(*steps)
            finally:
                self.device.stream.use()

        return self.device.python("copies beside", enqueue, 2 + len(steps))

    def join(self) -> Step:
        ended = self._event()

        def wait() -> None:
            ended.record(self.stream)
            self.device.stream.wait_event(ended)

        return self.device.python("end of the copies", wait, 2)

    def _event(self) -> Any:
        with self.device.calling("making an event"):
            return self.device.cupy.cuda.Event(disable_timing=True)
