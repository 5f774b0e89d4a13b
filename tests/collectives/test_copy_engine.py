"""All-reduces by copy engines, on the software GPU. Its copies are late, so that a missing order
gives wrong sums."""

import re
from typing import Any

import pytest

from kernels.devices.cpu import CpuDevice
from kernels.devices.device import DeviceError
from tests import fake_gpu
from tests.bench.launches import launch, run, stored
from tests.launch import mpirun, python

FORM = "two_shot_copy_engine"


def wrong_results(ranks, graph, fault, **faults):
    """The number of wrong elements on all ranks."""
    environment: dict[str, Any] = fake_gpu.environment(**faults)
    program = "-m", "tests.ranks.copy_engine_ranks", graph, fault
    done = mpirun(ranks, *program, timeout_s=200, **environment)
    if "StreamCapture" in done.stderr:
        return done.stderr.strip().splitlines()[-1]
    assert done.returncode == 0, done.stderr[-2000:]
    wrong = re.findall(r"wrong: (\d+), timed out: 0", done.stdout)  # the ranks' lines mix
    assert len(wrong) == ranks, done.stdout
    return sum(map(int, wrong))


@pytest.mark.parametrize(("ranks", "graph", "vendor"), [(2, "1", "hip"), (3, "0", "cuda")])
def test_sums_are_right_in_streams_and_in_graphs_on_a_fake_gpu(ranks, graph, vendor):
    assert wrong_results(ranks, graph, "none", vendor=vendor) == 0


def test_a_flag_that_is_left_out_gives_wrong_sums_on_a_fake_gpu():
    assert wrong_results(2, "0", "flag") > 0


def test_copies_that_a_graph_does_not_join_are_found_on_a_fake_gpu():
    assert "StreamCaptureUnjoined" in wrong_results(2, "1", "join")


@pytest.mark.parametrize(
    ("faults", "variables", "sentence"),
    [
        (
            {},
            {"SHARING": "host_staged"},
            "between host memories the driver copies with the CPU, not an engine",
        ),
        (
            {"vendor": "hip"},
            {"HSA_ENABLE_SDMA": "0"},
            "HSA_ENABLE_SDMA=0 makes AMD's driver copy with kernels",
        ),
        ({"vendor": "hip"}, {}, ""),
    ],
)
def test_a_gpu_without_engines_is_refused_on_a_fake_gpu(faults, variables, sentence):
    program = """
import os
from kernels.devices.gpu import DeviceError, GpuDevice
from kernels.devices.gpu_driver import visible_gpus
try:
    GpuDevice(visible_gpus()[1][0]).copy_engine(os.environ.get("SHARING", "mapped"))
except DeviceError as error:
    print(error)
"""
    done = python(program, **fake_gpu.environment(**faults), **variables)
    assert (done.returncode, done.stdout.strip()) == (0, sentence), done.stderr


RUN = "-b 1M -e 1M -w 0"


def test_a_cpu_refuses_with_the_reason_and_lists_the_form_only_if_requested(tmp_path):
    refusal = "the cpu device has no copy engines; GPUs have them"
    with pytest.raises(DeviceError, match=refusal):
        CpuDevice().copy_engine("memfd")
    for name, words in (("named", f"--algorithm one_shot_pull,{FORM}"), ("all", "")):
        done = launch(tmp_path / name, f"{RUN} --mode isolated -n 2 --max-time 20 {words}")
        assert done.returncode == 0, done.stderr
        cases = stored(tmp_path / name).cases
        reasons = {case.reason for case in cases if "copy_engine" in case.algorithm}
        assert reasons == ({refusal} if words else set())


def test_a_run_times_and_checks_it_with_a_bound_and_refuses_long_chains_on_a_fake_gpu(tmp_path):
    options = f"{RUN} -n 1 --max-time 90 --device cuda --algorithm {FORM} -G 0 --mode both"
    cases = run(tmp_path, options, **fake_gpu.environment())[1].cases
    timed = [case for case in cases if case.status == "ok"]
    assert {(case.algorithm, case.variant) for case in timed} == {(FORM, "registered")}
    assert all(case.n_wrong == 0 and case.bound_us for case in timed)
    chained = [case.reason for case in cases if case.mode == "chained"]
    assert chained
    assert all("too long for a stream" in str(reason) for reason in chained)
