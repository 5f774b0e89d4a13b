"""The times of an operation whose enqueueing takes a GPU's host a while."""

import ctypes
import time

from bench.harness.iteration import ARRIVED, LEFT, Iteration
from collectives.operation import Operation
from kernels.devices.device import Counts, Gate, Step, Watch
from kernels.devices.gpu import GpuDevice
from kernels.devices.gpu_driver import visible_gpus


def times_us(host_s: float, count: int) -> list[float]:
    """The times of an operation in `count` iterations; enqueueing it takes `host_s` seconds."""
    device = GpuDevice(visible_gpus()[1][0])
    watch = device.watch(Watch())
    gate = Gate(watch=ctypes.addressof(watch))
    idle = device.loop_step("nothing", gate)

    def enqueue(blocks: int, argument: object) -> None:
        time.sleep(host_s)
        device.enqueue(idle)

    operation = Operation(Step("operation", enqueue, None))
    actions = Iteration("", idle, operation, idle, idle).actions(idle)
    device.run(actions, idle, Counts(0, 1), watch)  # the first use of a kernel takes longer
    stamps = device.run(actions, idle, Counts(0, count), watch)
    return [float(ns) / 1e3 for ns in stamps[:, LEFT] - stamps[:, ARRIVED]]
