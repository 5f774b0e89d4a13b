"""Tests the CPU device: its compilers, its shared memory, its checks of results and its timed
loop."""

import ctypes
import time

import numpy as np
import pytest

from bench.harness.iteration import ARRIVED, DONE, LEFT, Iteration
from collectives.operation import Operation
from kernels.devices.compile_cache import CompileError
from kernels.devices.cpu import CpuDevice, compiler_version, find_compiler
from kernels.devices.device import WRONG_BYTES, Counts, Gate, Pattern, Step, Watch, Wrong


def test_the_compiler_in_cxx_must_exist(monkeypatch):
    find_compiler.cache_clear()
    compiler_version.cache_clear()
    monkeypatch.setenv("CXX", "no-such-compiler -O1")
    with pytest.raises(CompileError, match=r"no-such-compiler --version fails: .*No such file"):
        compiler_version()
    monkeypatch.undo()
    find_compiler.cache_clear()


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
    check = device.caller(device.loop_step("count_wrong", pattern))
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
    write, check = (
        device.caller(device.loop_step(name, pattern)) for name in ("write_pattern", "count_wrong")
    )
    watch.iteration = 40
    write()
    assert np.array_equal(buffer.read().view(np.float32), np.resize(np.roll(period, -40), count))
    for iteration, wrong_elements in ((40, 0), (71, 0), (41, count)):
        watch.iteration = iteration
        check()
        assert report_of(wrong).elements == wrong_elements


def test_only_iterations_after_the_warm_up_are_timed():
    names, times_ns, callbacks = list[str](), list[int](), list[object]()

    def step(name: str) -> Step:
        def note(_: int) -> None:
            names.append(name)
            times_ns.append(time.monotonic_ns())

        callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(note)
        callbacks.append(callback)
        return Step(name, ctypes.cast(callback, ctypes.c_void_p).value, Gate())

    prepare, meet, operation, consume, check = map(
        step, ("prepare", "meet", "operation", "consume", "check")
    )
    iteration = Iteration("", prepare, Operation(operation), consume, check)
    (stamps,) = CpuDevice().run(iteration.actions(meet), check, Counts(2, 1), Watch())
    assert names == ["prepare", "meet", "operation", "consume"] * 3
    met_ns, operated_ns, consumed_ns = times_ns[9:]
    order = [met_ns, stamps[ARRIVED], operated_ns, stamps[LEFT], consumed_ns, stamps[DONE]]
    assert order == sorted(order)
