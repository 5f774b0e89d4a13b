"""Tests the CPU device: its compilers, its shared memory, its checks of results and its timed
loop."""

import ctypes
import subprocess
import sys
import time

import numpy as np
import pytest

from bench.harness.iteration import ARRIVED, BEGUN, DONE, LEFT, Iteration
from collectives.operation import Operation
from kernels.devices.compile_cache import CompileError
from kernels.devices.cpu import CpuDevice, compiler_version, find_compiler
from kernels.devices.device import (
    PHASES,
    WRONG_BYTES,
    Counts,
    DeviceError,
    Gate,
    Kernel,
    Pattern,
    Step,
    Watch,
    Wrong,
)
from tests.launch import ROOT


def test_the_compiler_in_cxx_must_exist(monkeypatch):
    find_compiler.cache_clear()
    compiler_version.cache_clear()
    monkeypatch.setenv("CXX", "no-such-compiler -O1")
    with pytest.raises(CompileError, match=r"no-such-compiler --version fails: .*No such file"):
        compiler_version()
    monkeypatch.undo()
    find_compiler.cache_clear()


PEER = """
import ctypes, sys
from kernels.devices.cpu import CpuDevice
memory = CpuDevice().open(sys.argv[1].encode(), 8192, "memfd")
ctypes.c_uint64.from_address(memory.address + 4096).value += 1
"""


def test_another_process_sees_the_shared_memory_until_its_owner_closes_it():
    device = CpuDevice()
    memory = device.allocate(8192, "memfd")
    word = ctypes.c_uint64.from_address(memory.address + 4096)
    word.value = 41
    subprocess.run([sys.executable, "-c", PEER, memory.handle.decode()], check=True, cwd=ROOT)
    assert word.value == 42
    memory.close()
    with pytest.raises(DeviceError, match="cannot be opened"):
        device.open(memory.handle, 8192, "memfd")


def report_of(wrong):
    return Wrong.from_buffer_copy(bytes(wrong.read()))


@pytest.mark.parametrize("element_bytes", [2, 4, 8])
def test_each_wrong_element_counts_once_at_every_position(element_bytes):
    """A wrong result must not pass for a right one, and the count must not exceed the number of
    elements."""
    device, watch, count, segments = CpuDevice(), Watch(), 1003, 3
    table, draw = 64 * 31 * element_bytes, np.random.default_rng(element_bytes)
    tables = draw.integers(0, 256, (segments, table + 31 * element_bytes), np.uint8)
    right = np.array([np.resize(row[:table], count * element_bytes) for row in tables])
    got, stored, wrong = (device.private(n) for n in (right.size, tables.size, WRONG_BYTES))
    stored.write(tables.ravel())
    at = draw.choice(segments * count, 40, replace=False)
    broken = right.reshape(-1, element_bytes).copy()
    broken[at, draw.integers(0, element_bytes, 40)] ^= 1
    sizes = segments, count * element_bytes, table, 31, element_bytes
    pattern = Pattern(got.address, stored.address, *sizes, wrong.address, ctypes.addressof(watch))
    check = device.caller(Step(device.compile("iteration", {}).kernel("count_wrong"), pattern))
    for data, n, first in (
        (right, 0, 0),
        (broken, 40, min(at)),
        (right ^ 255, segments * count, 0),
    ):
        wrong.write(np.zeros(WRONG_BYTES, np.uint8))
        watch.iteration = 31 * n
        got.write(data.ravel())
        check()
        report = report_of(wrong)
        assert (report.elements, report.iteration) == (n, 31 * n)
        assert report.offset == first * element_bytes
        for bits, values in ((report.expected, right), (report.got, data)):
            element = values.reshape(-1, element_bytes)[first].tobytes()
            assert bits == (int.from_bytes(element, "little") if n else 0)


def test_the_pattern_of_another_iteration_is_wrong_everywhere():
    """Otherwise data that an earlier iteration left behind would pass for a result."""
    device, watch, count = CpuDevice(), Watch(), 1003
    period = np.arange(31, dtype=np.float32)
    tables = device.store(np.tile(period, 65))
    buffer, wrong = device.private(4 * count), device.private(WRONG_BYTES)
    sizes = 1, 4 * count, 64 * period.nbytes, 31, 4
    pattern = Pattern(
        buffer.address, tables.address, *sizes, wrong.address, ctypes.addressof(watch)
    )
    module = device.compile("iteration", {})
    write, check = (
        device.caller(Step(module.kernel(name), pattern))
        for name in ("write_pattern", "count_wrong")
    )
    watch.iteration = 40
    write()
    assert np.array_equal(buffer.read().view(np.float32), np.resize(np.roll(period, -40), count))
    for iteration, wrong_elements in ((40, 0), (71, 0), (41, count)):
        watch.iteration = iteration
        check()
        assert report_of(wrong).elements == wrong_elements


class Noted:
    """Steps that record the watch when they run: the iteration, the phase and the call; and the
    time."""

    def __init__(self, stop_at: int = 0) -> None:
        self.watch, self.notes, self.stop_at = Watch(), list[tuple[str, int, str, int]](), stop_at
        self.times_ns: list[int] = []
        self.callbacks: list[object] = []

    def step(self, name: str) -> Step:
        def note(_: int) -> None:
            watch = self.watch
            self.times_ns.append(time.monotonic_ns())
            self.notes.append((name, watch.iteration, PHASES[watch.phase], watch.calls))
            watch.stop = len(self.notes) == self.stop_at

        callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(note)
        self.callbacks.append(callback)
        return Step(Kernel(name, ctypes.cast(callback, ctypes.c_void_p).value), Gate())

    def run(self, counts: Counts, chain_calls: int = 0, late: bool = False) -> np.ndarray:
        iteration = Iteration(
            -1,
            "",
            self.step("prepare"),
            Operation(self.step("operation")),
            self.step("consume"),
            self.step("check"),
            late=self.step("late") if late else None,
            chain_calls=chain_calls,
        )
        actions = iteration.actions(self.step("meet"))
        return CpuDevice().run(actions, iteration.check, counts, self.watch)

    @property
    def names(self) -> list[str]:
        return [name for name, *_ in self.notes]


def test_the_watch_names_the_step_of_an_isolated_iteration():
    """The message for a hung rank uses these words."""
    noted = Noted()
    stamps = noted.run(Counts(1, 1, 1), late=True)
    steps = [
        ("prepare", "writing the send buffer"),
        ("meet", "barrier"),
        ("late", "barrier"),
        ("operation", "the collective"),
        ("consume", "reading the result"),
    ]
    checked = [*steps, ("check", "check")]
    assert noted.notes == [
        (name, number, phase, 0)
        for number, iteration in enumerate((checked, steps, checked), 1)
        for name, phase in iteration
    ]
    assert noted.watch.phase == 0
    assert stamps.shape == (1, 4)
    assert 0 < stamps[0][ARRIVED] < stamps[0][LEFT] < stamps[0][DONE]


def test_only_iterations_after_the_warm_up_are_timed():
    noted = Noted()
    (stamps,) = noted.run(Counts(2, 1))
    assert noted.names == ["prepare", "meet", "operation", "consume"] * 3
    meet, operation, consume = noted.times_ns[9:]
    order = [meet, stamps[ARRIVED], operation, stamps[LEFT], consume, stamps[DONE]]
    assert order == sorted(order)


def test_the_watch_keeps_the_last_call_of_a_chain():
    """Otherwise a rank that has finished its chain would look further behind than a rank that hangs
    in its chain."""
    noted = Noted()
    (stamps,) = noted.run(Counts(0, 1, 0), chain_calls=2)
    begin, chain = ["prepare", "meet"], ["operation", "consume"]
    assert noted.names == [*begin, "consume", "consume", *begin, *chain, *chain]
    assert [call for *_, call in noted.notes] == [0] * 6 + [1, 1, 2, 2]
    assert noted.watch.calls == 2
    order = [stamps[column] for column in (BEGUN, DONE, ARRIVED, LEFT)]
    assert order == sorted(order)


def test_a_stopped_iteration_gives_no_row_and_runs_no_further_step():
    noted = Noted(stop_at=7)  # the second iteration's operation
    assert len(noted.run(Counts(0, 5))) == 1
    assert noted.names[4:] == ["prepare", "meet", "operation"]
