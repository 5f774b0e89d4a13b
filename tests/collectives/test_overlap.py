"""A matmul that overlaps with a collective: its results, the lane on another core, and the commands."""

import os
import re
from functools import partial

import pytest

from collectives.layers.models import MODELS
from collectives.layers.overlap import OtherCore
from reports.store.result import read
from reports.tables.show import text
from tests.fake_gpu import fake_nccl
from tests.launch import mpirun

COMMANDS = ("gemm_reduce_scatter", "allgather_gemm")
CORES = sorted(os.sched_getaffinity(0))


@pytest.mark.parametrize("core", ["none", str(CORES[-1])])
@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("command", COMMANDS)
def test_every_form_and_number_of_chunks_is_exact(command, ranks, core):
    done = mpirun(ranks, "-m", "tests.ranks.overlap_ranks", command, "cpu", "float32", core)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" right") == ranks


@pytest.mark.parametrize(("vendor", "datatype"), [("cuda", "float16"), ("hip", "float32")])
@pytest.mark.parametrize("command", COMMANDS)
def test_two_streams_of_a_fake_gpu_give_the_same_results(command, vendor, datatype):
    ranks = ["tests.ranks.overlap_ranks", command, vendor, datatype, "none"]
    done = mpirun(2, "-m", *ranks, timeout_s=120, **fake_nccl.environment(vendor=vendor))
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_lane_runs_jobs_in_order_on_its_core_and_passes_errors_on():
    done = list[tuple[int, set[int]]]()
    lane = OtherCore(CORES[-1])
    for number in range(3):
        lane.submit(partial(lambda number: done.append((number, os.sched_getaffinity(0))), number))
    for _ in range(3):
        lane.wait()
    assert done == [(number, {CORES[-1]}) for number in range(3)]
    assert os.sched_getaffinity(0) == set(CORES)
    lane.submit(lambda: 1 // 0)
    lane.submit(lambda: None)
    with pytest.raises(ZeroDivisionError):
        lane.wait()
    lane.wait()
    with pytest.raises(OSError, match="Invalid argument"):
        OtherCore(100_000)


@pytest.fixture
def one_core():
    os.sched_setaffinity(0, CORES[:1])
    yield
    os.sched_setaffinity(0, CORES)


def measured(tmp_path, command, ranks=1):
    return mpirun(ranks, "-m", f"bench.{command}", "--model", "llama-3.1-8b", "--tokens", "48", "-n", "12",
                  "--max-time", "100", "--algorithm", "then_library,then_direct_pull,fused", "--lean", "--out",
                  str(tmp_path))


@pytest.mark.skipif(len(CORES) < 2, reason="one core")
@pytest.mark.parametrize(("command", "words"), [("gemm_reduce_scatter", "tokens 48, hidden 4096, inner 64"),
                                                ("allgather_gemm", "tokens 48, hidden 4096, columns 128, scale")])
def test_a_run_names_its_matmul_and_its_number_of_chunks(tmp_path, command, words):
    done = measured(tmp_path, command)
    assert done.returncode == 0, done.stderr
    assert words in done.stdout
    assert "\ncompute " in done.stdout
    assert any(line.startswith("fused") and " chunk" in line for line in done.stdout.splitlines())
    assert "No core is free" not in done.stdout
    [path] = tmp_path.glob("*.jsonl")
    assert re.search(r"fused: [1248] chunks? llama-3.1-8b", text(read(path), "table", True))


@pytest.mark.usefixtures("one_core")
def test_a_run_says_if_no_core_is_free(tmp_path):
    done = measured(tmp_path, "gemm_reduce_scatter")
    assert done.returncode == 0, done.stderr
    assert "No core is free for each rank's communication" in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("options", "status", "words"), [
    (["--tokens", "256,100"], 2, "100 is not a multiple of 16: of 8 chunks times the ranks"),
    (["--model", "llama-3.1-8"], 2, "did you mean llama-3.1-8b?"),
    (["-d", "int32"], 2, "unknown datatype 'int32'"),
    (["--algorithm", "then_two_shot"], 2, "unknown algorithm"),
    (["-d", "half"], 3, "a CPU multiplies float32 only, not float16"),
])
def test_impossible_options_are_refused_with_one_sentence(tmp_path, command, options, status, words):
    done = mpirun(2, "-m", f"bench.{command}", *options, "--device", "cpu", "--out", str(tmp_path))
    assert (done.returncode, len(done.stderr.splitlines())) == (status, 1), done.stderr
    assert words in done.stderr


def test_the_columns_of_a_models_layers():
    assert MODELS["llama-3.1-8b"].columns("qkv") == 6144
    assert MODELS["mixtral-8x7b"].columns("gate_up", ranks=2) == 2 * 14336
