"""All-reduces by copy engines, on the software GPU. Its copies are late, so that a missing order
gives wrong sums."""

import re
from typing import Any

import pytest

from bench.harness.iteration import CHAIN_CALLS
from tests import fake_gpu
from tests.bench.launches import launch, run, stored
from tests.launch import few, mpirun

FORM, MEMOPS, ONE_SHOT = (
    "two_shot_copy_engine",
    "two_shot_copy_engine_memops",
    "one_shot_copy_engine",
)


def wrong_results(ranks, graph, fault, form, memory="auto", **faults):
    """The number of wrong elements on all ranks."""
    environment: dict[str, Any] = fake_gpu.environment(**faults)
    program = "-m", "tests.ranks.copy_engine_ranks", form, graph, fault, memory
    done = mpirun(ranks, *program, timeout_s=200, **environment)
    if "StreamCapture" in done.stderr:
        return done.stderr.strip().splitlines()[-1]
    assert done.returncode == 0, done.stderr[-2000:]
    wrong = re.findall(r"wrong: (\d+), timed out: 0", done.stdout)  # the ranks' lines mix
    assert len(wrong) == ranks, done.stdout
    return sum(map(int, wrong))


@pytest.mark.parametrize(
    ("form", "ranks", "graph", "memory", "faults"),
    few(
        [
            (FORM, 2, "1", "auto", {"vendor": "hip"}),
            (FORM, 3, "0", "auto", {}),
            (ONE_SHOT, 2, "1", "auto", {"flushes": 1}),
            (MEMOPS, 3, "1", "auto", {}),
            (ONE_SHOT, 2, "1", "host_staged", {}),
            (ONE_SHOT, 2, "0", "auto", {}),
            (ONE_SHOT, 2, "0", "host_staged", {}),
            (MEMOPS, 2, "0", "auto", {"flushes": 1}),
        ],
        4,
    ),
)
def test_sums_are_right_in_streams_and_in_graphs_on_a_fake_gpu(form, ranks, graph, memory, faults):
    assert wrong_results(ranks, graph, "none", form, memory, **faults) == 0


@pytest.mark.parametrize(
    ("form", "fault", "memory"),
    few(
        [
            (FORM, "flag", "auto"),
            (ONE_SHOT, "early", "auto"),
            (ONE_SHOT, "reset", "host_staged"),
            (MEMOPS, "reset", "auto"),
            (ONE_SHOT, "early", "host_staged"),
            (ONE_SHOT, "reset", "auto"),
            (MEMOPS, "early", "auto"),
        ],
        4,
    ),
)
def test_a_flag_that_is_left_out_early_or_old_gives_wrong_sums_on_a_fake_gpu(form, fault, memory):
    """A copy may still end before its reader begins, so that a run of it is right by chance."""
    assert any(wrong_results(2, "1", fault, form, memory) for _ in range(5))


def test_copies_that_a_graph_does_not_join_are_found_on_a_fake_gpu():
    assert "StreamCaptureUnjoined" in wrong_results(2, "1", "join", FORM)


RUN = "-b 1M -e 1M -w 0"


def test_a_cpu_refuses_with_the_reason_a_form_that_is_requested(tmp_path):
    """test_cli.py has a run that does not request it, and has no case of it."""
    refusal = "the cpu device has no copy engines; GPUs have them"
    words = f"{RUN} --mode isolated -n 2 --max-time 20 --algorithm one_shot_pull,{FORM}"
    done = launch(tmp_path, words)
    assert done.returncode == 0, done.stderr
    cases = stored(tmp_path).cases
    assert {case.reason for case in cases if case.algorithm == FORM} == {refusal}


@pytest.mark.parametrize(
    ("form", "device", "memory", "reason"),
    [
        (FORM, "cuda", "host_staged", "between host memories the driver copies with the CPU"),
        (ONE_SHOT, "hip", "mapped", "HIP's streams await values in signal memory alone"),
    ],
)
def test_memory_or_a_driver_that_no_engine_serves_is_named_on_a_fake_gpu(
    tmp_path, form, device, memory, reason
):
    words = f"{RUN} --max-time 20 --device {device} --memory {memory} --algorithm {form}"
    done = launch(tmp_path, words, **fake_gpu.environment(vendor=device))
    assert done.returncode == 3
    assert reason in done.stderr


def test_a_run_times_and_checks_it_with_a_bound_and_in_shorter_chains_on_a_fake_gpu(tmp_path):
    options = f"{RUN} -n 1 --max-time 90 --device cuda --algorithm {FORM} -G 0 --mode both"
    cases = run(tmp_path, options, **fake_gpu.environment())[1].cases
    timed = [case for case in cases if case.status == "ok"]
    assert {(case.algorithm, case.variant) for case in timed} == {(FORM, "registered")}
    assert all(case.n_wrong == 0 and case.bound_us for case in timed)
    calls = {case.calls for case in timed if case.mode == "chained"}
    assert calls
    assert max(calls) < CHAIN_CALLS


SHORTER = """
import runpy, sys
from bench.harness import suite
suite.MOST_GRAPH_ENTRIES = 40
sys.argv[0] = "bench.allreduce"
runpy.run_module("bench.allreduce", run_name="__main__")
"""


def test_a_graph_that_no_gpu_takes_behind_a_gate_has_a_shorter_chain_on_a_fake_gpu(tmp_path):
    """An H200 waited for ever at one of 160 calls of 2 MiB."""
    words = f"{RUN} -n 1 --max-time 60 --device cuda --memory host_staged -G 1 --mode chained"
    options = f"{words} --algorithm {ONE_SHOT},one_shot_push"
    cases = run(tmp_path, options, program=SHORTER, **fake_gpu.environment())[1].cases
    assert {case.algorithm: (case.status, case.calls) for case in cases if case.time_us} == {
        ONE_SHOT: ("ok", 2),  # 18 entries a call
        "one_shot_push": ("ok", 40),
    }
