"""The stamps of an operation whose enqueueing takes a GPU's host a while."""

import ctypes
import time

from bench.harness.iteration import ARRIVED, LEFT, Iteration
from collectives.operation import Operation
from kernels.devices.device import Counts, Gate, Stamps, Step, Watch
from kernels.devices.gpu import GpuDevice
from kernels.devices.gpu_driver import visible_gpus


def run(host_s: float, count: int, *pauses_s: float) -> list[Stamps]:
    """The stamps of a block of `count` iterations, and of one after each pause; enqueueing the
    operation takes `host_s` seconds."""
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
    blocks = []
    for pause_s in (0, *pauses_s):
        time.sleep(pause_s)
        blocks.append(device.run(actions, idle, Counts(0, count), watch))
    return blocks


def times_us(host_s: float, count: int) -> list[float]:
    """The times of the operation in `count` iterations."""
    [stamps] = run(host_s, count)
    return [float(ns) / 1e3 for ns in stamps[:, LEFT] - stamps[:, ARRIVED]]


def arrivals_ms(pause_s: float) -> list[list[float]]:
    """When the iterations of two blocks began, since the first one; with a pause between them."""
    first, second = run(0, 3, pause_s)
    since_ns = first[0, ARRIVED]
    return [[float(ns) / 1e6 for ns in own[:, ARRIVED] - since_ns] for own in (first, second)]
