"""Tests the CPU device: its compile cache, its compilers and its shared memory."""

import ctypes
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bench.harness.iteration import ARRIVED, BEGUN, DONE, LEFT, Iteration
from collectives.operation import Operation
from kernels.devices import cpu as device_cpu
from kernels.devices import shared_memory
from kernels.devices.compile_cache import (
    CompileError,
    cache_folder,
    compile_once,
    source_with_headers,
)
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
from tests.launch import ROOT, mpirun

pytestmark = pytest.mark.alone


def counting_compiler(folder: Path) -> tuple[Path, Path]:
    """Wraps the system's compiler and logs each compile. Returns the script and the log."""
    log, script = folder / "compiled", folder / "counting-c++"
    script.write_text(
        f'#!/bin/sh\ncase "$*" in *-shared*) echo "$*" >> "{log}";; esac\nexec c++ "$@"\n'
    )
    script.chmod(0o755)
    return script, log


def test_ranks_that_start_together_on_an_empty_cache_compile_each_kernel_once(tmp_path):
    script, log = counting_compiler(tmp_path)
    done = mpirun(
        4,
        "tests/ranks/stress_ranks.py",
        "50",
        "1",
        "ring",
        CXX=str(script),
        XDG_CACHE_HOME=str(tmp_path / "cache"),
    )
    assert done.returncode == 0, done.stderr
    compiled = log.read_text().splitlines()
    assert len(compiled) == len({line.rsplit(" -o ")[0] for line in compiled}) >= 4
    left = [p.name for p in (tmp_path / "cache" / "wiretax").iterdir() if p.suffix != ".so"]
    assert left == []
    again = mpirun(
        4,
        "tests/ranks/stress_ranks.py",
        "50",
        "1",
        "ring",
        CXX=str(script),
        XDG_CACHE_HOME=str(tmp_path / "cache"),
    )
    assert again.returncode == 0
    assert log.read_text().splitlines() == compiled


def test_a_changed_header_flag_or_compiler_is_another_binary(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    header, source = tmp_path / "part.h", tmp_path / "k.cu"
    header.write_text("// one")
    source.write_text('#include "part.h"\n')

    def build(flags="-O3", compiler="c++ 1"):
        return compile_once(
            source, [compiler, flags], {}, (), ".so", lambda path, *_: path.write_text("binary")
        )

    first = build()
    assert build() == first
    header.write_text("// two")
    assert len({first, build(), build("-O2"), build(compiler="c++ 2")}) == 4
    assert [p.name for p in source_with_headers(source)] == ["k.cu", "part.h"]


def test_a_failed_compile_leaves_no_file_and_shows_the_compilers_message(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(CompileError, match=r"cannot compile allreduce_ring\.cu: .*Nonsense"):
        device_cpu.CpuDevice().compile("allreduce_ring", {"ELEMENT": "Nonsense"})
    assert not list((tmp_path / "wiretax").glob("allreduce_ring*.so*"))


def test_a_cache_that_others_can_write_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert stat.S_IMODE(cache_folder().stat().st_mode) == 0o700
    cache_folder().chmod(0o777)
    with pytest.raises(CompileError, match="written by others"):
        cache_folder()


def test_the_compiler_in_cxx_must_exist(monkeypatch):
    device_cpu.find_compiler.cache_clear()
    monkeypatch.setenv("CXX", "no-such-compiler -O1")
    with pytest.raises(CompileError, match="no-such-compiler"):
        device_cpu.find_compiler()
    monkeypatch.undo()
    device_cpu.find_compiler.cache_clear()


@pytest.mark.parametrize("way", device_cpu.CpuDevice.sharing)
def test_another_process_sees_the_shared_memory_and_no_name_is_left(way):
    before = set(os.listdir("/dev/shm"))
    device = device_cpu.CpuDevice()
    memory = device.allocate(8192, way)
    peer = (
        "import sys, ctypes; from kernels.devices.cpu import CpuDevice;"
        "m = CpuDevice().open(sys.argv[1].encode(), 8192, sys.argv[2]);"
        "ctypes.c_uint64.from_address(m.address + 4096).value += 1"
    )
    ctypes.c_uint64.from_address(memory.address + 4096).value = 41
    subprocess.run([sys.executable, "-c", peer, memory.handle.decode(), way], check=True, cwd=ROOT)
    assert ctypes.c_uint64.from_address(memory.address + 4096).value == 42
    shared_memory.forget_name(memory.handle)
    memory.close()
    assert set(os.listdir("/dev/shm")) == before
    with pytest.raises(DeviceError, match="cannot be opened"):
        device.open(memory.handle, 8192, way)


@pytest.mark.parametrize("size_bytes", [2, 4, 8])
def test_each_wrong_element_counts_once_at_every_position(size_bytes):
    """A wrong result must not pass for a right one, and the count must not exceed the number of elements."""
    device, watch, count, segments = device_cpu.CpuDevice(), Watch(), 1003, 3
    table, draw = 64 * 31 * size_bytes, np.random.default_rng(size_bytes)
    tables = draw.integers(0, 256, (segments, table + 31 * size_bytes), np.uint8)
    right = np.array([np.resize(row[:table], count * size_bytes) for row in tables])
    got, tables_memory, wrong = (device.private(n) for n in (right.size, tables.size, WRONG_BYTES))
    tables_memory.write(tables.ravel())
    at = draw.choice(segments * count, 40, replace=False)
    broken = right.reshape(-1, size_bytes).copy()
    broken[at, draw.integers(0, size_bytes, 40)] ^= 1
    pattern = Pattern(
        got.address,
        tables_memory.address,
        segments,
        count * size_bytes,
        table,
        31,
        size_bytes,
        wrong.address,
        ctypes.addressof(watch),
    )
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
        report = Wrong.from_buffer_copy(bytes(wrong.read()))
        assert (report.elements, report.iteration, report.offset) == (n, 31 * n, first * size_bytes)
        for bits, values in ((report.expected, right), (report.got, data)):
            stored = values.reshape(-1, size_bytes)[first].tobytes()
            assert bits == (int.from_bytes(stored, "little") if n else 0)


def test_the_pattern_of_another_iteration_is_wrong_everywhere():
    """Otherwise data that an earlier iteration left behind would pass for a result."""
    device, watch, count, period = (
        device_cpu.CpuDevice(),
        Watch(),
        1003,
        np.arange(31, dtype=np.float32),
    )
    tables = device.store(np.tile(period, 65))
    buffer, wrong = device.private(4 * count), device.private(WRONG_BYTES)
    pattern = Pattern(
        buffer.address,
        tables.address,
        1,
        4 * count,
        64 * period.nbytes,
        31,
        4,
        wrong.address,
        ctypes.addressof(watch),
    )
    write, check = (
        device.caller(Step(device.compile("iteration", {}).kernel(name), pattern))
        for name in ("write_pattern", "count_wrong")
    )
    watch.iteration = 40
    write()
    assert np.array_equal(buffer.read().view(np.float32), np.resize(np.roll(period, -40), count))
    for iteration, wrong_elements in ((40, 0), (71, 0), (41, count)):
        watch.iteration = iteration
        check()
        assert Wrong.from_buffer_copy(bytes(wrong.read())).elements == wrong_elements


class Noted:
    """Steps that record the watch when they run: the iteration, the phase and the call; and the time."""

    def __init__(self, stop_at: int = 0) -> None:
        self.watch, self.notes, self.stop_at = Watch(), list[tuple[str, int, str, int]](), stop_at
        self.times_ns: list[int] = []
        self.callbacks: list[object] = []

    def step(self, name: str) -> Step:
        def note(_: int) -> None:
            self.times_ns.append(time.monotonic_ns())
            self.notes.append(
                (name, self.watch.iteration, PHASES[self.watch.phase], self.watch.calls)
            )
            self.watch.stop = len(self.notes) == self.stop_at

        callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(note)
        self.callbacks.append(callback)
        address = ctypes.cast(callback, ctypes.c_void_p).value
        return Step(Kernel(name, address), Gate())

    def run(self, counts: Counts, chain_calls: int = 0, late: bool = False) -> np.ndarray:
        steps = {
            name: self.step(name)
            for name in ("prepare", "operation", "consume", "check", "meet", "late")
        }
        iteration = Iteration(
            -1,
            "",
            steps["prepare"],
            Operation(steps["operation"], lambda: None),
            steps["consume"],
            steps["check"],
            late=steps["late"] if late else None,
            chain_calls=chain_calls,
        )
        return device_cpu.CpuDevice().run(
            iteration.actions(steps["meet"]), iteration.check, counts, self.watch
        )


def test_the_watch_names_the_step_of_an_isolated_iteration():
    """The message for a hung rank uses these words."""
    noted = Noted()
    stamps = noted.run(Counts(1, 1, 1), late=True)
    iteration = [
        ("prepare", "writing the send buffer"),
        ("meet", "barrier"),
        ("late", "barrier"),
        ("operation", "the collective"),
        ("consume", "reading the result"),
    ]
    check = [("check", "check")]
    expected = [
        (name, number, phase, 0)
        for number, steps in enumerate(([*iteration, *check], iteration, [*iteration, *check]), 1)
        for name, phase in steps
    ]
    assert noted.notes == expected
    assert noted.watch.phase == 0
    assert stamps.shape == (1, 4)
    assert 0 < stamps[0][ARRIVED] < stamps[0][LEFT] < stamps[0][DONE]


def test_only_iterations_after_the_warm_up_are_timed():
    noted = Noted()
    stamps = noted.run(Counts(2, 1))
    assert [name for name, *_ in noted.notes] == ["prepare", "meet", "operation", "consume"] * 3
    _, meet_ns, operation_ns, consume_ns = noted.times_ns[8:]
    assert (
        meet_ns
        <= stamps[0][ARRIVED]
        <= operation_ns
        <= stamps[0][LEFT]
        <= consume_ns
        <= stamps[0][DONE]
    )


def test_the_watch_keeps_the_last_call_of_a_chain():
    """Otherwise a rank that has finished its chain would look further behind than a rank that hangs in its chain."""
    noted = Noted()
    stamps = noted.run(Counts(0, 1, 0), chain_calls=2)
    assert [(name, call) for name, _, _, call in noted.notes] == [
        ("prepare", 0),
        ("meet", 0),
        ("consume", 0),
        ("consume", 0),
        ("prepare", 0),
        ("meet", 0),
        ("operation", 1),
        ("consume", 1),
        ("operation", 2),
        ("consume", 2),
    ]
    assert noted.watch.calls == 2
    assert list(stamps[0][[BEGUN, DONE, ARRIVED, LEFT]]) == sorted(stamps[0])


def test_a_stopped_iteration_gives_no_row_and_runs_no_further_step():
    noted = Noted(stop_at=7)  # the second iteration's operation
    assert len(noted.run(Counts(0, 5))) == 1
    assert [name for name, *_ in noted.notes[4:]] == ["prepare", "meet", "operation"]
