"""Tests `bench.footprint`: a matmul beside the collective, and the time that each loses to the
other."""

import os
import re
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from bench.features import background
from bench.features.background import COLUMNS, INNER, LANES, ROWS, STRUCTURES, launches_within
from bench.machine import placement
from kernels.devices.cpu import CpuDevice
from kernels.devices.device import Step
from reports.store.case import beside, find_states
from reports.tables.footprint import footprint
from reports.tables.rows import views
from reports.tables.table import render
from tests import fake_gpu
from tests.bench.launches import launch, run
from tests.bench.machines import write
from tests.launch import few
from tests.reports.synthetic_run import write_run

pytestmark = pytest.mark.alone

needs_a_spare_core = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core")


def test_the_matmul_is_right_on_a_cpu():
    """Half a matmul would take half the time and lose half as much."""
    device: Any = CpuDevice()
    memories, gemm = background._operands(
        cast(Any, SimpleNamespace(device=device)), background.CPU_WIDTH
    )
    items, gemm.items = gemm.items, 1
    call = device.caller(Step(device.compile("gemm", {}, STRUCTURES).kernel("gemm"), gemm))
    for item in range(items):
        gemm.first = item
        call()
    a, b, c = (memory.read().view(np.float32) for memory in memories)
    expected = a.reshape(-1, INNER).astype(np.float64) @ b.reshape(INNER, COLUMNS)
    assert np.abs(c.reshape(-1, COLUMNS) - expected).max() < 1e-2
    assert 2.0 * ROWS * LANES * INNER * items == 2.0 * expected.size * INNER


def test_progress_is_the_number_of_launches_within_a_span():
    """Progress is linear between the ends of launches, and nan for spans that the launches do not
    cover."""
    ends = np.array([1000, 2000, 4000])
    spans = np.array([[1000, 2000], [1500, 3000], [2000, 2200], [900, 1500], [3000, 4001]])
    progress = launches_within(spans, ends)
    assert progress[:3] == pytest.approx([1.0, 1.0, 0.1])
    assert np.isnan(progress[3:]).all()


def right(result):
    """The cases beside the matmul. Check all results."""
    assert {(case.status, case.n_wrong) for case in result.cases} == {("ok", 0)}
    return [case for case in result.cases if beside(case.shape)]


@needs_a_spare_core
def test_a_rank_with_a_spare_core_runs_the_matmul_there(tmp_path):
    options = "--sizes 16K,2M --algorithm auto,library -n 12 --lean"
    printed, result = run(tmp_path, options, command="footprint", ranks=1)
    forms = {(case.size_bytes, case.mode, case.bound_us) for case in right(result)}
    assert forms == {(16 << 10, "chained", None), (2 << 20, "isolated", None)}
    for case in result.cases:
        rates = [rate for rate in (case.matmul_gflop_s, case.matmul_alone_gflop_s) if rate]
        assert len(rates) == (2 if beside(case.shape) else 0)
        assert all(rate.median > 0 for rate in rates)
    assert re.search(r"beside a matmul, chained, us of a call: what each\s+loses", printed)
    assert max(map(len, printed.partition("note:")[2].partition("run:")[0].splitlines())) <= 80


@needs_a_spare_core
def test_another_collective_is_measured_beside_the_matmul(tmp_path):
    options = "--collective all_gather --algorithm direct_pull --sizes 2M -n 4 --lean"
    _, result = run(tmp_path, options, command="footprint", ranks=1)
    assert right(result)
    assert result.run.benchmark == "footprint"
    assert {case.collective for case in result.cases} == {"all_gather"}


def test_ranks_without_spare_cores_are_refused_once(tmp_path):
    """On a rank's own core, the matmul and the rank would take turns."""
    cpus = sorted(os.sched_getaffinity(0))
    try:
        os.sched_setaffinity(0, set(cpus[:2]))
        done = launch(tmp_path, command="footprint")
    finally:
        os.sched_setaffinity(0, set(cpus))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)
    sentence = "the matmul takes one core for each rank besides the ranks' own, and 2 ranks leave"
    assert sentence in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("vendor", few(["hip", "cuda"], 1))
def test_the_command_on_gpus_in_software(tmp_path, vendor):
    options = "--sizes 64K --mode isolated --algorithm two_shot+1b -n 4 -w 0 --lean"
    variables = fake_gpu.environment(vendor=vendor)
    printed, result = run(tmp_path, options, command="footprint", **variables)
    case, *_ = right(result)
    assert result.run.cases[case.case].blocks == 1
    assert "on each GPU" in " ".join(printed.split())


def test_losses_and_gains_have_opposite_signs(tmp_path):
    """A wrong sign would recommend the slower algorithm."""
    result = write_run(
        tmp_path,
        sizes=[1 << 20],
        algorithms=["auto"],
        modes=["isolated"],
        in_place=(False, False),
        n_blocks=12,
    )
    alone, besides = result.cases
    besides.shape = {"beside": "gemm"}
    times_us = {block.round: block.time_us for block in result.blocks if block.case == alone.case}
    for block in result.blocks:
        block.total_us = block.time_us
        if (
            block.case == besides.case
        ):  # the call takes three times as long, the matmul half its rate
            block.time_us = block.total_us = 3 * times_us[block.round]
            block.matmul_gflop_s, block.matmul_alone_gflop_s = 30.0, 60.0
    view = next(view for view in views(result) if beside(view[1]))
    columns = footprint(result, view, find_states(result.blocks)).columns
    cells = [next(iter(column.cells)) for column in columns]
    assert cells[4:6] == ["3.00 [3.00 3.00]", "0.50 [0.50 0.50]"]
    assert "on a core that no rank has" in " ".join(render(result).split())


def test_no_rank_uses_any_thread_of_a_free_core(tmp_path, machine):
    """A matmul on the second thread of a rank's core would slow the rank."""
    siblings = {0: "0,4", 4: "0,4", 1: "1,5", 5: "1,5", 2: "2"}
    machine(
        write(tmp_path, {placement.SIBLINGS.format(cpu): cores for cpu, cores in siblings.items()})
    )
    assert placement.cores([0, 1, 2, 4, 5]) == [[0, 4], [1, 5], [2]]
