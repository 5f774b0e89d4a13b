"""Runs steps that act on the host while a GPU's executor enqueues them."""

import ctypes
import time

from bench.harness.iteration import ARRIVED, LEFT, Iteration
from collectives.operation import Operation
from kernels.devices.device import Counts, Gate, Kernel, Step, Watch
from kernels.devices.gpu import GpuDevice
from kernels.devices.gpu_driver import visible_gpus


class Loop:
    """A GPU, and steps that note their names on the host; enqueueing `operation` takes `host_s`
    seconds."""

    def __init__(self, host_s: float = 0.0) -> None:
        self.device, self.host_s = GpuDevice(visible_gpus()[1][0]), host_s
        self.watch = self.device.watch(Watch())
        idle = Gate(watch=ctypes.addressof(self.watch))
        self.idle = Step(self.device.compile("iteration", {}).kernel("nothing"), idle)
        self.enqueued: list[str] = []
        self.operation = self.noted("operation", self.host_s)

    def noted(self, name: str, host_s: float = 0.0, step: Step | None = None) -> Step:
        """A step, such as a library call, that notes its name and enqueues `step`, by default
        `idle`."""

        def enqueue(blocks: int, argument: object) -> None:
            self.enqueued.append(name)
            time.sleep(host_s)
            self.device.enqueue(step or self.idle)

        return Step(Kernel(name, enqueue), None)

    def iteration(self, chain_calls: int = 0) -> Iteration:
        consume, check = self.noted("consume"), self.noted("check")
        return Iteration(
            -1,
            "",
            self.noted("prepare"),
            Operation(self.operation),
            consume,
            check,
            chain_calls=chain_calls,
        )

    def run(self, count: int) -> list[float]:
        """The times in us of the operation in `count` iterations."""
        idle = self.idle
        actions = Iteration(-1, "", idle, Operation(self.operation), idle, idle).actions(idle)
        stamps = self.device.run(actions, idle, Counts(0, count), self.watch)
        return [float(ns) / 1e3 for ns in stamps[:, LEFT] - stamps[:, ARRIVED]]


def slow_host() -> object:
    loop = Loop(0.02)
    loop.run(1)
    return {"times_us": loop.run(6)}


def many_iterations() -> object:
    loop = Loop()
    loop.run(1)
    begun_s = time.monotonic()
    return {"times_us": loop.run(600), "elapsed_s": time.monotonic() - begun_s}
