"""docs/experiments/estimator.py on the software GPU, whose ranks share the host's clock."""

import re
from typing import Any

import pytest

from tests import fake_gpu
from tests.fake_gpu import fake_nccl
from tests.launch import SLOW_TEST, mpirun

SCRIPT = "docs/experiments/estimator.py"
WORDS = "--ranks-share-gpus", "--device", "cuda", "-b", "16K", "-e", "16K", "--quiet"
ROW = r"^ +16384 (library plain|auto copied|auto registered)((?: +-?[0-9.]+){12})$"
SHORT = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("estimator", "docs/experiments/estimator.py")
estimator = importlib.util.module_from_spec(spec)
spec.loader.exec_module(estimator)
estimator.WARMUP, estimator.TIMED, estimator.SLOTS = 2, 40, 42
{}
estimator.main()
"""
SWAPPED = """
plain = estimator.framed
estimator.framed = lambda actions, first, last: plain(actions, last, first)
"""


def estimated(out, *words, change=""):
    """Runs the script with few iterations, after a change of it."""
    environment: dict[str, Any] = fake_nccl.environment("cuda", {"count": 1})
    environment["NCCL_MULTI_RANK_GPU_ENABLE"] = "1"
    return mpirun(2, "-c", SHORT.format(change), *words, *WORDS, "--out", str(out), **environment)


@SLOW_TEST
@pytest.mark.parametrize("graph", ["0", "1"])
def test_the_estimate_is_at_least_the_true_time_of_ours_and_the_librarys(tmp_path, graph):
    done = estimated(tmp_path, "-G", graph)
    assert (done.returncode, done.stderr) == (0, "")
    plain = "graph" if graph == "1" else "plain"
    rows = re.findall(ROW.replace("plain", plain), done.stdout, re.MULTILINE)
    assert len(rows) == 3
    for _, text in rows:
        true_us, skew_us, *differences = map(float, text.split())
        assert true_us > 0
        assert skew_us >= 0
        events, kernels = differences[:5], differences[5:]
        assert events == sorted(events)
        assert kernels == sorted(kernels)
        # Between a rank's own kernels lies the wait for the last rank as well.
        assert min(kernels) >= 0
        assert all(event > kernel for event, kernel in zip(events, kernels, strict=True))
    assert re.search(r"^the clock's least step: [1-9]\d* ns$", done.stdout, re.MULTILINE)


@SLOW_TEST
def test_stamps_in_the_wrong_order_fail_its_own_check(tmp_path):
    done = estimated(tmp_path, change=SWAPPED)
    assert done.returncode == 1
    assert "a rank leaves before it, or the last rank, has arrived" in done.stderr


def test_ranks_with_a_clock_each_are_refused(tmp_path):
    environment: dict[str, Any] = fake_gpu.environment()
    done = mpirun(2, SCRIPT, *WORDS, "--out", str(tmp_path), **environment)
    assert done.returncode == 3
    assert "all ranks must share one GPU" in done.stderr
