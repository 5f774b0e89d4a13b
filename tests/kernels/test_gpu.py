"""The correctness suite on one GPU: all ranks in one launch, and two processes that share the GPU,
over GPU memory by IPC and over host memory. With two GPUs, it also runs one process per GPU.

`make test-gpu` runs the suite on this machine's GPU; `make test` runs it with fewer examples on the
software GPU."""

import json
import os
import re
import subprocess
import sys

import pytest

from kernels.devices.gpu_driver import visible_gpus
from tests.fake_gpu import environment
from tests.kernels.broken_kernels import tree
from tests.launch import ROOT, count, few, mpirun


def in_one_launch(ranks, examples, seed, **variables):
    command = [sys.executable, "-m", "tests.ranks.one_launch", str(examples), str(seed), str(ranks)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)


def by_processes(device, memory, examples, seed, *words, program="collective", **variables):
    command = (
        "-m",
        f"tests.ranks.{program}_ranks",
        str(examples),
        str(seed),
        device,
        memory,
        *words,
    )
    return mpirun(2, *command, timeout_s=300, **variables)


def assert_right(done, examples, ranks):
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"{examples} examples right on {ranks} ranks" in done.stdout


def stress(device, launches, seed, *settings, tree=ROOT, **variables):
    # -m puts the broken tree before PYTHONPATH, which a fake GPU sets to the project.
    command = (
        "-m",
        "tests.ranks.stress_ranks",
        str(launches),
        str(seed),
        f"device={device}",
        *settings,
    )
    done = mpirun(2, *command, timeout_s=300, tree=tree, **variables)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def vendor_here():
    return visible_gpus()[0]


@pytest.mark.parametrize(("ranks", "vendor"), few([(3, "hip"), (8, "cuda"), (2, "cuda")], 2))
def test_all_ranks_in_one_launch_are_right_on_a_fake_gpu(ranks, vendor):
    examples = count(24)
    assert_right(
        in_one_launch(ranks, examples, ranks, **environment(vendor=vendor, sms=12)), examples, ranks
    )


@pytest.mark.gpu
@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_all_ranks_in_one_launch_are_right(ranks):
    assert_right(in_one_launch(ranks, 150, ranks), 150, ranks)


@pytest.mark.parametrize(
    ("memory", "vendor", "gpus"),
    few(
        [
            ("same_device", "cuda", 1),
            ("mapped", "hip", 2),
            ("host_staged", "cuda", 2),
            ("host_staged", "hip", 1),
        ],
        3,
    ),
)
def test_two_processes_are_right_on_a_fake_gpu(memory, vendor, gpus):
    examples = count(45)
    assert_right(
        by_processes(
            vendor, memory, examples, gpus, **environment(vendor=vendor, count=gpus, sms=6)
        ),
        examples,
        2,
    )


@pytest.mark.parametrize("vendor", few(["hip", "cuda"], 1))
def test_tokens_reach_their_experts_and_come_back_on_a_fake_gpu(vendor):
    """Blocks of a launch do not wait for each other: a fast block must not overwrite data that
    others still read."""
    launches = count(60)
    done = stress(vendor, launches, 1, "routed", **environment(vendor=vendor, sms=6))
    assert done == {"launches": launches, "wrong_elements": 0, "timed_out": False}


@pytest.mark.gpu
def test_tokens_reach_their_experts_and_come_back():
    done = stress(vendor_here(), 300, 1, "routed")
    assert done == {"launches": 300, "wrong_elements": 0, "timed_out": False}


@pytest.mark.parametrize(
    ("vendor", "threads", "kernel"),
    [("hip", 64, "allreduce_rmsnorm"), ("hip", 4, "gemv_allreduce")],
)
def test_fused_kernels_are_right_on_a_fake_gpu(vendor, threads, kernel):
    """Thread blocks smaller than a wave, and of two waves that each compute a sum."""
    gpu, examples = environment(vendor=vendor, sms=4, threads=threads), count(36)
    done = by_processes(vendor, "auto", examples, threads, kernel, program="fused", **gpu)
    assert_right(done, examples, 2)


@pytest.mark.gpu
@pytest.mark.parametrize(("memory", "seed"), [("same_device", 1), ("host_staged", 2)])
def test_fused_kernels_are_right(memory, seed):
    assert_right(by_processes(vendor_here(), memory, 60, seed, program="fused"), 60, 2)


@pytest.mark.gpu
@pytest.mark.parametrize(("memory", "seed"), [("same_device", 1), ("host_staged", 2)])
def test_two_processes_that_share_a_gpu_are_right(memory, seed):
    variable = {"cuda": "CUDA_VISIBLE_DEVICES", "hip": "HIP_VISIBLE_DEVICES"}[vendor_here()]
    first = os.environ.get(variable, "0").split(",")[0]
    assert_right(by_processes(vendor_here(), memory, 150, seed, **{variable: first}), 150, 2)


@pytest.mark.gpu
@pytest.mark.parametrize("memory", ["mapped", "host_staged"])
def test_two_gpus_are_right(memory):
    if len(visible_gpus()[1]) < 2:
        pytest.skip("there is one GPU here")
    done = by_processes(vendor_here(), memory, 150, 3)
    if memory == "mapped" and "peer access" in done.stderr:
        pytest.skip(f"the driver: {done.stderr.strip().splitlines()[-1]}")
    assert_right(done, 150, 2)


def test_back_to_back_launches_are_right_on_a_fake_gpu():
    launches = count(240)
    report = stress("cuda", launches, 1, **environment(vendor="cuda", sms=6))
    assert report == {"launches": launches, "wrong_elements": 0, "timed_out": False}


@pytest.mark.gpu
@pytest.mark.parametrize("memory", ["auto", "host_staged"])
def test_back_to_back_launches_are_right(memory):
    report = stress(vendor_here(), 1000, 1, f"memory={memory}")
    assert report == {"launches": 1000, "wrong_elements": 0, "timed_out": False}


CONTROLS = pytest.mark.parametrize("patch", ["without the wait"])


def finds_wrong_elements(device, broken, **variables):
    """Whether stress runs with these kernels find wrong elements; how soon they do is random."""
    settings = "timeout_s=2", "one_shot_push", "two_shot"
    return any(
        stress(device, 1000, seed, *settings, tree=broken, **variables)["wrong_elements"]
        for seed in range(1, 9)
    )


@CONTROLS
def test_without_a_part_of_the_protocol_results_are_wrong_on_a_fake_gpu(patch, tmp_path):
    assert finds_wrong_elements(
        "cuda", tree(tmp_path / "tree", patch), **environment(vendor="cuda", sms=6)
    )


@pytest.mark.gpu
@CONTROLS
def test_without_a_part_of_the_protocol_results_are_wrong(patch, tmp_path):
    assert finds_wrong_elements(vendor_here(), tree(tmp_path / "tree", patch))


@pytest.mark.gpu
def test_a_run_file_is_written():
    # Ranks that share a GPU take turns of milliseconds, so that a chain of 160 calls takes a
    # second.
    arguments = [
        "--mode",
        "isolated",
        "-b",
        "64K",
        "-e",
        "64K",
        "--max-time",
        "45",
        "--ranks-share-gpus",
    ]
    done = mpirun(2, "-m", "bench.allreduce", "--device", vendor_here(), *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    run = re.search(r"^run: (\S+)$", done.stdout, re.MULTILINE)
    assert run, done.stdout
    assert (ROOT / run[1]).exists()
