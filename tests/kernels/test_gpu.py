"""The correctness suite on one GPU: all ranks in one launch, and two processes that share the GPU,
over GPU memory by IPC and over host memory. With two GPUs, it also runs one process per GPU.

`make test-gpu` runs the suite on this machine's GPU; `make test` runs it with fewer examples on the
software GPU."""

import json
import os

import pytest

from kernels.devices.gpu_driver import visible_gpus
from tests.bench.launches import run
from tests.fake_gpu import environment
from tests.kernels.broken_kernels import tree
from tests.launch import ROOT, assert_right, count, few, printed, python

VISIBLE = {"cuda": "CUDA_VISIBLE_DEVICES", "hip": "HIP_VISIBLE_DEVICES"}
REAL = pytest.mark.gpu


def gpu(vendor, gpus=1, **fake):
    """The device and the variables of ranks on these many software GPUs of a vendor; without one,
    on the real GPUs of this machine."""
    if vendor:
        return vendor, environment(vendor=vendor, count=gpus, **({"sms": 6} | fake))
    vendor, found, _ = visible_gpus()
    if len(found) < gpus:
        pytest.skip("there is one GPU here")
    first = os.environ.get(VISIBLE[vendor], "0").split(",")[0]
    return vendor, {VISIBLE[vendor]: first} if gpus == 1 else {}


@pytest.mark.parametrize(
    ("ranks", "vendor"),
    [
        *few([(3, "hip"), (8, "cuda"), (2, "cuda")], 2),
        *(pytest.param(ranks, None, marks=REAL) for ranks in (2, 3, 8)),
    ],
)
def test_all_ranks_in_one_launch_are_right(ranks, vendor):
    examples = count(24) if vendor else 150
    _, variables = gpu(vendor, sms=12)
    program = f"from tests.ranks import one_launch; one_launch.main({examples}, {ranks}, {ranks})"
    done = python(program, **variables)
    assert f"{examples} examples right on {ranks} ranks" in done.stdout, done.stderr[-3000:]


@pytest.mark.parametrize(
    ("program", "memory", "vendor", "gpus", "settings"),
    [
        *few(
            [
                ("collective", "same_device", "cuda", 1, {}),
                ("collective", "mapped", "hip", 2, {}),
                ("collective", "host_staged", "cuda", 2, {}),
                # Thread blocks smaller than a wave, and of two waves that each compute a sum.
                ("fused allreduce_rmsnorm", "auto", "hip", 2, {"sms": 4, "threads": 64}),
                ("fused gemv_allreduce", "auto", "hip", 2, {"sms": 4, "threads": 4}),
                ("collective", "host_staged", "hip", 1, {}),
            ],
            5,
        ),
        *(
            pytest.param(program, memory, None, gpus, {}, marks=REAL)
            for program, gpus in (("collective", 1), ("collective", 2), ("fused", 1))
            for memory in ("same_device" if gpus == 1 else "mapped", "host_staged")
        ),
    ],
    ids=str,
)
def test_two_processes_are_right(program, memory, vendor, gpus, settings):
    examples = count(45) if vendor else 150
    device, variables = gpu(vendor, gpus, **settings)
    name, *kernels = program.split()
    words = str(gpus), device, memory, *kernels
    try:
        assert_right(2, name, examples, *words, timeout_s=300, **variables)
    except AssertionError as error:
        if not vendor and memory == "mapped" and "peer access" in str(error):
            pytest.skip("the driver refuses peer access")
        raise


def stressed(vendor, launches, seed, *settings, tree=ROOT):
    """The report of back-to-back launches, over these kernels."""
    # -m puts the broken tree before PYTHONPATH, which a fake GPU sets to the project.
    device, variables = gpu(vendor, 2) if vendor else (visible_gpus()[0], {})
    words = "tests.ranks.stress_ranks", str(launches), str(seed), f"device={device}", *settings
    return json.loads(printed(2, "-m", *words, timeout_s=300, tree=tree, **variables))


@pytest.mark.parametrize(
    ("vendor", "launches", "settings"),
    [
        ("cuda", count(120), ()),
        ("hip", count(60), ("routed",)),
        pytest.param(None, 1000, ("memory=auto",), marks=REAL),
        pytest.param(None, 1000, ("memory=host_staged",), marks=REAL),
        pytest.param(None, 300, ("routed",), marks=REAL),
    ],
)
def test_back_to_back_launches_are_right(vendor, launches, settings):
    """Blocks of a launch do not wait for each other: a fast block must not overwrite data that
    others still read, such as tokens on their way to experts."""
    report = stressed(vendor, launches, 1, *settings)
    assert report == {"launches": launches, "wrong_elements": 0, "timed_out": False}


CHUNKED = "two_shot+4K", "two_shot_push+4K", "one_shot_push+4K", "one_shot_pull+4K"


@pytest.mark.parametrize("vendor", ["cuda", pytest.param(None, marks=REAL)])
def test_back_to_back_launches_of_many_chunks_are_right(vendor):
    """A slot is taken again while a slow peer may still read it. Between CPU cores a peer is hardly
    ever slow enough to show a flag that comes before the copies."""
    launches = count(120) if vendor else 1000
    report = stressed(vendor, launches, 1, *CHUNKED)
    assert report == {"launches": launches, "wrong_elements": 0, "timed_out": False}


@pytest.mark.parametrize("vendor", ["cuda", pytest.param(None, marks=REAL)])
def test_without_the_wait_results_are_wrong(vendor, tmp_path):
    """The negative control: how soon a wrong element is found is random."""
    broken = tree(tmp_path / "tree", "without the wait")
    names = "timeout_s=2", "one_shot_push", "two_shot"
    reports = (stressed(vendor, 300, seed, *names, tree=broken) for seed in range(1, 25))
    assert any(report["wrong_elements"] for report in reports)


@pytest.mark.parametrize("vendor", ["hip", pytest.param(None, marks=REAL)])
def test_a_run_file_is_written(vendor, tmp_path):
    """Ranks that share a GPU take turns of milliseconds."""
    device, variables = gpu(vendor)
    words = "--sizes 64K --algorithm two_shot -n 10 -w 2 --mode isolated --max-time 45"
    words += f" --ranks-share-gpus --device {device}"
    said, result = run(tmp_path, words, **variables)
    assert f"run: {result.path}" in said.splitlines()
    assert result.complete
    assert {(case.status, case.n_wrong) for case in result.cases} == {("ok", 0)}
    assert {rank["device"] for rank in result.run.world["ranks"]} == {device}
