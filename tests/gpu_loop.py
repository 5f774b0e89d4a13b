"""Run by itself: the GPU's timed loop with a host that does something while it enqueues. Prints what came as JSON."""

import ctypes
import json
import sys
import time

from kernels.devices import gpu as device_gpu
from kernels.devices.device import DeviceError, Gate, Kernel, Plan, Step, Watch
from kernels.devices.gpu import GpuDevice
from kernels.devices.gpu_driver import visible_gpus


def main(what: str) -> dict[str, object]:
    device = GpuDevice(visible_gpus()[1][0])
    watch = device.watch(Watch())
    idle = Step(device.nothing, Gate(watch=ctypes.addressof(watch)))
    enqueued = 0

    def enqueue(blocks: int, argument: object) -> None:
        nonlocal enqueued
        enqueued += 1
        if what in ("slow_host", "late_host"):
            time.sleep(0.02 if what == "slow_host" else 0.2)
        device.enqueue(idle)

    operation = Step(Kernel("a library's call", enqueue), None)

    def run(iterations: int, graph: bool = False) -> list[float]:
        stamps = device.run(Plan(idle, idle, operation, idle, idle, 0, iterations, 0, 0, graph), watch)
        return [float(t) for t in (stamps[:, 1] - stamps[:, 0]) / 1e3]

    run(1)
    if what == "graph":
        run(8)
        by_stream, enqueued = enqueued, 0
        run(8, graph=True)
        return {"enqueued": {"stream": by_stream, "graph": enqueued}}
    if what == "late_host":
        device_gpu.HOLD_NS = 100_000_000
        try:
            run(3)
        except DeviceError as error:
            return {"error": str(error)}
        return {"error": "none"}
    began_s = time.monotonic()
    return {"times_us": run(6 if what == "slow_host" else 600), "elapsed_s": time.monotonic() - began_s}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
