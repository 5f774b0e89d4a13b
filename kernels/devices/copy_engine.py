"""A GPU's copy engines (DMA, AMD: SDMA): copies in a second stream, beside the kernels'."""

import os
from collections.abc import Sequence
from typing import Any

from kernels.devices.device import CopyEngine, DeviceError, Kernel, Step
from kernels.devices.gpu_stream import GpuStream

ANY_DIRECTION = 4  # cudaMemcpyDefault
# hipMemcpyDeviceToDeviceNoCU: HIP copies within what it takes for one device with a kernel, and a
# peer's memory looks like that to the process that opened it.
WITHOUT_KERNEL = 1024


class GpuCopyEngine(CopyEngine):
    """The engines of a GPU, for copies of memory shared in this mode. Raises DeviceError."""

    def __init__(self, device: GpuStream, sharing: str) -> None:
        self.device, is_hip = device, device.name == "hip"
        # CUDA's manual: a copy from host to host memory is synchronous. At a gate it never ends.
        if sharing == "host_staged":
            raise DeviceError("between host memories the driver copies with the CPU, not an engine")
        if is_hip and os.environ.get("HSA_ENABLE_SDMA") == "0":
            raise DeviceError("HSA_ENABLE_SDMA=0 makes AMD's driver copy with kernels")
        with device.calling("making a stream"):
            self.stream = device.cupy.cuda.Stream(non_blocking=True)
        self.kind = WITHOUT_KERNEL if is_hip else ANY_DIRECTION

    def copy(self, target: int, source: int, size_bytes: int) -> Step:
        def enqueue(blocks: int, argument: Any) -> None:
            self.device.runtime.memcpyAsync(target, source, size_bytes, self.kind, self.stream.ptr)

        return Step(Kernel(f"copy of {size_bytes} B", enqueue), None)

    def beside(self, steps: Sequence[Step]) -> Step:
        reached = self._event()

        def enqueue(blocks: int, argument: Any) -> None:
            reached.record(self.device.stream)
            self.stream.wait_event(reached)
            self.stream.use()
            try:
                self.device.enqueue(*steps)
            finally:
                self.device.stream.use()

        return Step(Kernel("copies beside", enqueue), steps, entries=2 + len(steps))

    def join(self) -> Step:
        ended = self._event()

        def enqueue(blocks: int, argument: Any) -> None:
            ended.record(self.stream)
            self.device.stream.wait_event(ended)

        return Step(Kernel("end of the copies", enqueue), None, entries=2)

    def _event(self) -> Any:
        with self.device.calling("making an event"):
            return self.device.cupy.cuda.Event(disable_timing=True)
