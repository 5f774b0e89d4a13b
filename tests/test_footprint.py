"""`--beside gemm`: a matmul beside the collective, and what each loses to the other."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from bench.harness.sweep import modes
from bench.machine import placement
from collectives.layers.gemm import COLUMNS, INNER, bind_gemm
from kernels.devices.cpu import CpuDevice
from kernels.devices.device import Arguments, Gate, Plan, Step, Watch, progress
from reports.case import beside, find_states
from reports.footprint import footprint
from reports.result import Block, read
from reports.rows import views
from reports.table import render
from tests import fake_gpu
from tests.launch import ROOT, mpirun
from tests.synthetic_run import write_run

PRODUCT = """
import numpy as np
from types import SimpleNamespace
from kernels.devices.gpu_driver import visible_gpus
from kernels.devices.gpu import GpuDevice
from tests.test_footprint import product_is_right, some_is_done_beside
device = GpuDevice(visible_gpus()[1][0])
product_is_right(device)
some_is_done_beside(device)
"""


def product_is_right(device: Any) -> None:
    """All items, each once, are the matmul that numpy knows."""
    work = bind_gemm(cast(Any, SimpleNamespace(device=device)), None)
    call = device.caller(work.step)
    for item in range(work.items):
        work.step.argument.first = item
        call()
    a, b, c = (memory.read().view(np.float32) for memory in work.buffers)
    expected = a.reshape(-1, INNER).astype(np.float64) @ b.reshape(INNER, COLUMNS)
    assert np.abs(c.reshape(-1, COLUMNS) - expected).max() < 1e-2
    assert work.flops * work.items == 2.0 * expected.size * INNER


def some_is_done_beside(device: Any) -> None:
    """While a stream waits 40 ms, the one beside it does something; where it began too late, or did not last so long,
    nothing is known, and the next iteration has enough of it."""
    nothing, wait = (Step(device.compile("iteration", {}).kernel(name), argument)
                     for name, argument in (("nothing", Gate()), ("come_late", Arguments(timeout_ns=40_000_000))))
    work = bind_gemm(cast(Any, SimpleNamespace(device=device)), None)
    done = device.run(Plan(nothing, nothing, wait, nothing, nothing, 4, 12, 0, beside=work), device.watch(Watch()))
    assert done.shape == (12, 5)
    assert done[:, 4].max() > 0


def test_it_is_a_matmul_on_a_cpu():
    """Half a matmul would take half as long, and lose half as much."""
    product_is_right(CpuDevice())


@pytest.mark.parametrize("vendor", ["cuda", "hip"])
def test_it_is_the_same_matmul_on_a_gpu_in_software_in_a_stream_of_its_own(vendor):
    env = os.environ | fake_gpu.environment(vendor=vendor, sms=1)
    done = subprocess.run([sys.executable, "-c", PRODUCT], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_progress_is_what_was_done_within_a_span():
    """From launch to launch it goes on evenly; of what they do not cover nothing is known."""
    ends = np.array([1000, 2000, 4000])
    spans = np.array([[1000, 2000], [1500, 3000], [2000, 2200], [900, 1500], [3000, 4001]])
    assert progress(spans, ends).tolist() == [1000, 1000, 100, -1, -1]
    assert progress(spans[:1], ends[:1]).tolist() == [-1]


def test_its_rate_is_that_of_a_whole_core_or_of_a_shared_one():
    """Else what it loses would say nothing: on the core of whoever waits it gets about half. The warm-up is as long as
    numpy's threads, of another test's matmul, may go on spinning."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        pytest.skip("one core")
    device, watch = CpuDevice(), Watch()
    gate = Step(device.compile("iteration", {}).kernel("nothing"), Gate())
    wait = Step(device.compile("iteration", {}).kernel("come_late"), Arguments(timeout_ns=20_000_000))
    done = {}
    try:
        os.sched_setaffinity(0, {cpus[0]})
        for core in cpus[:2]:
            work = bind_gemm(cast(Any, SimpleNamespace(device=device)), core)
            stamps = device.run(Plan(gate, gate, wait, gate, gate, 20, 20, 0, beside=work), watch)
            assert stamps.shape == (20, 5)
            done[core] = stamps[:, 4].sum() / (stamps[:, 1] - stamps[:, 0]).sum()
    finally:
        os.sched_setaffinity(0, set(cpus))
    assert 0.2 < done[cpus[0]] / done[cpus[1]] < 0.8


def test_a_short_call_is_measured_in_a_chain_beside_it():
    """A call of a microsecond would hardly meet an item of the matmul."""
    assert modes(None, 16 << 10, beside=True) == ["chained"]
    assert modes(None, 1 << 20, beside=True) == ["isolated"]
    assert modes("both", 16 << 10, beside=True) == ["isolated", "chained"]


def test_a_rank_with_a_core_to_spare_has_it_beside_it(tmp_path):
    options = ("--sizes", "16K,2M", "--algorithm", "auto,library", "-n", "24", "--beside", "gemm", "--out", tmp_path)
    done = mpirun(1, "-m", "bench.allreduce", *map(str, options))
    if len(os.sched_getaffinity(0)) < 2:
        assert done.returncode == 3
        return
    assert (done.returncode, done.stderr) == (0, "")
    (path,) = tmp_path.glob("*.jsonl")
    result = read(path)
    with_it = [case for case in result.cases if beside(case.shape)]
    assert {(case.size_bytes, case.mode) for case in with_it} == {(16 << 10, "chained"), (2 << 20, "isolated")}
    assert {(case.status, case.n_wrong, case.bound_us) for case in with_it} == {("ok", 0, None)}
    for case in result.cases:
        rates = case.matmul_gflop_s, case.matmul_alone_gflop_s
        assert all(rate and rate.median > 1 for rate in rates) if beside(case.shape) else rates == (None, None)
    assert re.search(r"beside a matmul, chained, us of a call: what each\s+loses", done.stdout)
    assert max(map(len, done.stdout.partition("note:")[2].partition("run:")[0].splitlines())) <= 80


def test_without_a_core_to_spare_it_is_refused_once(tmp_path):
    """On a rank's own core it would take turns with it, which is no footprint."""
    cpus = sorted(os.sched_getaffinity(0))
    try:
        os.sched_setaffinity(0, set(cpus[:2]))
        done = mpirun(2, "-m", "bench.allreduce", "--beside", "gemm", "--out", str(tmp_path))
    finally:
        os.sched_setaffinity(0, set(cpus))
    assert (done.returncode, done.stdout) == (3, "")
    said = r"bench\.allreduce: --beside gemm takes a core of its own beside each rank, [^\n]+\n"
    assert re.fullmatch(said, done.stderr)
    assert list(tmp_path.iterdir()) == []


def test_python_cannot_loop_beside_it(tmp_path):
    done = mpirun(1, "-m", "bench.allreduce", "--beside", "gemm", "--dispatch", "python", "--out", str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "--beside is for the native loop" in done.stderr


@pytest.mark.parametrize("vendor", ["cuda", "hip"])
def test_the_command_on_gpus_in_software(tmp_path, vendor):
    environment: dict[str, Any] = fake_gpu.environment(vendor=vendor, sms=2) | {"FAKE_NCCL_BINDING": "none"}
    options = ("--sizes", "64K", "--mode", "isolated", "--algorithm", "two_shot+1b", "-n", "4", "-w", "0", "--lean")
    done = mpirun(2, "-m", "bench.allreduce", *options, "--beside", "gemm", "--out", str(tmp_path), **environment)
    assert (done.returncode, done.stderr) == (0, "")
    (path,) = tmp_path.glob("*.jsonl")
    result = read(path)
    case = next(case for case in result.cases if beside(case.shape))
    assert (case.status, case.n_wrong, result.run.cases[case.case].blocks) == ("ok", 0, 1)
    assert "on each GPU of 2" in " ".join(done.stdout.split())


def test_what_is_lost_is_told_from_what_is_gained(tmp_path):
    """A sign the wrong way round would sell the dearer one."""

    def change(block: Block) -> Block:
        if block.case % 2:  # the same case beside the matmul: three times as long, and that at half its rate
            block.time_us, block.total_us = 3 * block.time_us, 3 * (block.total_us or 0)
            block.matmul_gflop_s, block.matmul_alone_gflop_s = 30.0, 60.0
        return block

    result = write_run(tmp_path, sizes=[1 << 20], algorithms=["auto"], modes=["isolated"], in_place=(False, False),
                       n_blocks=12)
    first, second = result.cases
    second.shape = {"beside": "gemm"}
    costs = {block.round: block for block in result.blocks if block.case == first.case}
    for block in result.blocks:
        if block.case == second.case:
            block.time_us, block.total_us = costs[block.round].time_us, costs[block.round].total_us
        change(block)
    view = next(view for view in views(result) if beside(view[1]))
    cells = [next(iter(column.cells)) for column in footprint(result, view, find_states(result.blocks)).columns]
    assert cells[5:7] == ["200 % [200 200]", "50 % [50 50]"]
    assert "60.0 GFLOP/s a rank" in " ".join(render(result).split())


def test_a_free_core_is_one_of_which_no_rank_has_any_part(monkeypatch):
    """A matmul on the other thread of a rank's core is not beside it."""
    siblings = {0: "0,4", 4: "0,4", 1: "1,5", 5: "1,5", 2: "2", 3: "3"}
    monkeypatch.setattr(Path, "exists", lambda path: True)
    monkeypatch.setattr(Path, "read_text", lambda path: siblings[int(re.findall(r"cpu(\d+)/", str(path))[0])])
    assert placement.cores([0, 1, 2, 4, 5]) == [[0, 4], [1, 5], [2]]
    assert placement.one_a_core([0, 1, 2, 4, 5]) == [0, 1, 2, 4, 5]
