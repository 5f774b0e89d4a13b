"""The matmul in the background of a footprint: fp32, as wide as the device, our own kernel; on a
CPU on another core, on a GPU in another stream."""

import ctypes
import os
import threading
import time
from ctypes import c_long, c_uint64, c_void_p
from typing import Any

import numpy as np

from bench.harness.iteration import ARRIVED, LEFT, Run
from collectives.operation import World
from kernels.devices.cpu import CpuDevice
from kernels.devices.device import PACK_BYTES, Counts, DeviceError, Memory, Stamps, Step

ROWS, LANES = 8, PACK_BYTES // 4  # rows and columns of an item of gemm.cu
COLUMNS, INNER = 1040, 1024  # rows of 4160 B: rows of 4 KiB would share few sets of a cache
CPU_WIDTH = 32  # a CPU's matmul is as large as a GPU's with this many multiprocessors
MOST_ITEMS = 1 << 20  # 3 to 5 us each, in a block of seconds at most
FEWEST, MOST = 4, 250  # launches during an iteration: a stream has room for about 1,000 entries


class Gemm(ctypes.Structure):
    """`Gemm` of gemm.cu: a matmul, and the items that a launch computes."""

    _fields_ = [
        *((name, c_void_p) for name in ("a", "b", "c")),
        *((name, c_long) for name in ("columns", "inner", "first", "items")),
    ]


class Background(ctypes.Structure):
    """`Background` of gemm.cu: a matmul that repeats until it is stopped."""

    _fields_ = [
        ("gemm", Gemm),
        ("items", c_long),
        ("ends_ns", c_void_p),
        ("most", c_long),
        ("done", c_long),
        ("stop", c_uint64),
    ]


STRUCTURES = (Gemm, Background)
Progress = np.ndarray[Any, np.dtype[np.float64]]


def launches_within(spans_ns: Stamps, ends_ns: Any) -> Progress:
    """The number of launches within each span (from, to), [n, 2], of consecutive launches that
    ended at these times, to a fraction of a launch; nan for spans that they do not cover."""
    if len(ends_ns) < 2:
        return np.full(len(spans_ns), np.nan)
    numbers = np.arange(len(ends_ns), dtype=np.float64)
    at = np.interp(spans_ns, ends_ns, numbers, left=np.nan, right=np.nan)
    return np.asarray(at[:, 1] - at[:, 0])


def _operands(world: World, width: int) -> tuple[list[Memory], Gemm]:
    """The matrices, and the matmul of all of its items. Raises DeviceError."""
    rows = 2 * ROWS * width  # on a GPU enough for 520 threads of each multiprocessor
    draw = np.random.default_rng(0)
    memories = [
        world.device.store(draw.standard_normal(size, np.float32))
        for size in (rows * INNER, INNER * COLUMNS)
    ]
    memories.append(world.device.private(4 * rows * COLUMNS))
    addresses = [memory.address for memory in memories]
    items = rows // ROWS * COLUMNS // LANES
    return memories, Gemm(*addresses, COLUMNS, INNER, 0, items)


class CoreMatmul:
    """Items of the matmul on a CPU core without ranks, one launch each."""

    flops = 2.0 * ROWS * LANES * INNER

    def __init__(self, world: World, core: int) -> None:
        self.core = core
        self.memories, gemm = _operands(world, CPU_WIDTH)
        self.ends_ns = np.zeros(MOST_ITEMS, np.int64)
        self.work = Background(gemm, gemm.items, self.ends_ns.ctypes.data, MOST_ITEMS)
        self.work.gemm.items = 1
        module = world.device.compile("gemm", {}, STRUCTURES)
        step = Step(module.kernel("multiply_until_stopped"), self.work)
        self.call = world.device.caller(step)

    def during(self, run: Run, counts: Counts) -> tuple[Stamps, Progress]:
        """Runs iterations with the matmul in the background. Returns their stamps, and the launches
        that ended within each operation, nan where the matmul did not last; [timed]."""
        self.work.done = self.work.stop = 0
        thread = threading.Thread(target=self._work, name="background")
        thread.start()
        while not self.work.done and thread.is_alive():
            time.sleep(1e-4)
        try:
            stamps_ns = run(counts)
        finally:
            self.work.stop = 1
            thread.join()
        ends_ns = self.ends_ns[: self.work.done]
        return stamps_ns, launches_within(stamps_ns[:, [ARRIVED, LEFT]], ends_ns)

    def _work(self) -> None:
        os.sched_setaffinity(0, {self.core})
        self.call()


class StreamMatmul:
    """The whole matmul in a second stream of a GPU, launch after launch."""

    def __init__(self, world: World) -> None:
        device: Any = world.device
        self.device, self.cupy, width = device, device.cupy, device.facts["multiprocessors"]
        self.memories, gemm = _operands(world, width)
        self.flops = 2.0 * ROWS * LANES * INNER * gemm.items
        module = world.device.compile("gemm", {}, STRUCTURES)
        self.step = Step(module.kernel("gemm"), gemm, width)
        self.stream = self.cupy.cuda.Stream(non_blocking=True)
        self.launches = FEWEST

    def during(self, run: Run, counts: Counts) -> tuple[Stamps, Progress]:
        """As on a core; one iteration at a time, begun after the side stream has been filled."""
        rows, progress = [], []
        for number in range(counts.total):
            ends = self._fill()
            stamps_ns = run(Counts(0, 0, 1) if counts.is_checked(number) else Counts(0, 1))
            self.stream.synchronize()
            if not len(stamps_ns):
                continue
            launches = self._launches_during(stamps_ns[0], ends)
            if counts.is_timed(number):
                rows.append(stamps_ns[0])
                progress.append(launches)
        return np.array(rows, np.int64).reshape(-1, 4), np.array(progress, np.float64)

    def _fill(self) -> list[Any]:
        """Launches the matmul; returns the events of the begin and of each launch's end."""
        events = [self.cupy.cuda.Event() for _ in range(self.launches + 1)]
        self.stream.use()  # CuPy's `with` would end with its default stream, not with the device's
        try:
            events[0].record(self.stream)
            for event in events[1:]:
                self.step.kernel.function(self.step.blocks, self.step.argument)
                event.record(self.stream)
        finally:
            self.device.stream.use()
        return events

    def _launches_during(self, row_ns: Any, events: list[Any]) -> float:
        """The launches within the operation; the next iteration gets twice as many as it took."""
        elapsed_ms = self.cupy.cuda.get_elapsed_time
        origin_ns = 1e6 * elapsed_ms(events[0], self.device.origin)
        ends_ns = [1e6 * elapsed_ms(events[0], event) for event in events]
        span_ns = row_ns[[ARRIVED, LEFT]] + origin_ns
        twice = int(2 * (len(events) - 1) * span_ns[1] / ends_ns[-1])
        self.launches = min(max(twice, FEWEST), MOST)
        return float(launches_within(span_ns[None], np.array(ends_ns))[0])


Matmul = CoreMatmul | StreamMatmul


def open_matmul(world: World, core: int | None) -> Matmul:
    """The matmul for this device; a CPU needs a core. Raises DeviceError."""
    if not isinstance(world.device, CpuDevice):
        return StreamMatmul(world)
    if core is None:
        raise DeviceError(
            "the matmul takes one core for each rank besides the ranks' own, and "
            f"{world.communicator.size} ranks leave too few"
        )
    return CoreMatmul(world, core)
