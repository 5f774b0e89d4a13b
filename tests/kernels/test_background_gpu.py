"""Tests the matmul in the background of a timed loop on a software GPU, and its rate without a
collective."""

import json
import os
import subprocess
import sys
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from bench.features.footprint import Measured
from bench.harness.iteration import Iteration
from bench.harness.timing import perform
from collectives.operation import Operation
from kernels.devices.cpu import CpuDevice
from kernels.devices.device import Counts, Gate, Step, Watch
from tests import fake_gpu
from tests.launch import ROOT, few


def on_a_fake_gpu(name: str, vendor: str) -> Any:
    env = os.environ | fake_gpu.environment(vendor=vendor, sms=1)
    command = [sys.executable, "-m", "tests.ranks.gpu_background", name]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("vendor", few(["hip", "cuda"], 1))
def test_the_background_runs_a_whole_matmul_on_a_fake_gpu(vendor):
    """Half a matmul would take half the time and lose half as much."""
    report = on_a_fake_gpu("product", vendor)
    assert report["error"] < 1e-2
    assert report["flops"] == report["expected_flops"]


@pytest.mark.parametrize("vendor", few(["cuda", "hip"], 1))
def test_the_matmuls_progress_counts_in_each_timed_iteration_on_a_fake_gpu(vendor):
    """One stream waits 40 ms while the other works.

    The count is valid only if the matmul had begun and outlasted the iteration. Each iteration runs
    once; only some blocks run a check."""
    report = on_a_fake_gpu("progress", vendor)
    for form in ("long", "short"):
        assert report[form]["shapes"] == [[8, 4], [8]], form
        assert (report[form]["checks"], report[form]["iterations"]) == (2, 12), form
        assert 4 <= report[form]["filled"] <= report["most"], form
    assert report["long"]["span_ms"] > 39
    assert report["long"]["lasted"] > 0
    assert report["long"]["least"] > 0


class Matmul:
    """A matmul that reports one finished launch per iteration."""

    flops = 1e6

    def during(self, run: Any, counts: Counts) -> Any:
        stamps = run(counts)
        return stamps, np.ones(len(stamps))


def test_a_wait_that_times_out_during_the_matmul_ends_the_run():
    device, ends = CpuDevice(), list[str]()
    step = Step(device.compile("iteration", {}).kernel("nothing"), Gate())
    session: Any = SimpleNamespace(
        world=SimpleNamespace(device=device, peers=None, shared=None, graph=False),
        flight=SimpleNamespace(
            watch=Watch(timed_out=1), end_if_stuck=lambda: ends.append("timed out")
        ),
        meet=step,
    )
    iteration = Iteration(0, "", step, Operation(step, lambda: None), step, step)
    footprint = Measured(session.world, cast(Any, Matmul()), iteration)
    assert footprint.iteration.facts
    footprint.iteration.facts(np.array([[0, 10, 10, 20]]), partial(perform, session))
    assert ends == ["timed out"]
