"""A matmul that overlaps with a collective: its results, the stream on another core, and the
commands."""

import os
import re
from functools import partial

import pytest

from collectives.layers.models import MODELS
from collectives.layers.overlap import CoreStream
from reports.store.result import read
from reports.tables.show import text
from tests.fake_gpu import fake_nccl
from tests.launch import few, mpirun

COMMANDS = ("gemm_reduce_scatter", "allgather_gemm")
CORES = sorted(os.sched_getaffinity(0))


@pytest.mark.parametrize("ranks", few([2, 3, 1], 2))
def test_every_form_and_number_of_chunks_is_exact(ranks):
    done = mpirun(ranks, "-m", "tests.ranks.overlap_ranks", "cpu", "float32")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" right, core ") == ranks * len(COMMANDS) * 2


@pytest.mark.parametrize(("vendor", "datatype"), few([("cuda", "float16"), ("hip", "float32")], 1))
def test_two_streams_of_a_fake_gpu_give_the_same_results(vendor, datatype):
    environment = fake_nccl.environment(vendor=vendor, gpu={"closed": 1})
    done = mpirun(
        2, "-m", "tests.ranks.overlap_ranks", vendor, datatype, timeout_s=120, **environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" right, core ") == 2 * len(COMMANDS)


def test_a_stream_performs_calls_in_order_on_its_core_and_passes_errors_on():
    done = list[tuple[int, set[int]]]()
    stream = CoreStream(CORES[-1])
    for number in range(3):
        stream.submit(
            partial(lambda number: done.append((number, os.sched_getaffinity(0))), number)
        )
    for _ in range(3):
        stream.wait()
    assert done == [(number, {CORES[-1]}) for number in range(3)]
    assert os.sched_getaffinity(0) == set(CORES)
    stream.submit(lambda: 1 // 0)
    stream.submit(lambda: None)
    with pytest.raises(ZeroDivisionError):
        stream.wait()
    stream.wait()
    with pytest.raises(OSError, match="Invalid argument"):
        CoreStream(100_000)


def measured(tmp_path, command):
    forms = "--algorithm then_library,then_direct_pull,fused --lean"
    options = f"--model llama-3.1-8b --tokens 48 -n 12 --max-time 100 {forms} --out {tmp_path}"
    return mpirun(1, "-m", f"bench.{command}", *options.split())


@pytest.mark.skipif(len(CORES) < 2, reason="one core")
def test_a_run_names_its_matmul_and_its_number_of_chunks(tmp_path):
    done = measured(tmp_path, "allgather_gemm")
    assert done.returncode == 0, done.stderr
    assert "tokens 48, hidden 4096, columns 128, scale" in done.stdout
    assert "No core is free" not in done.stdout
    [path] = tmp_path.glob("*.jsonl")
    assert re.search(r"fused: [1248] chunks? llama-3.1-8b", text(read(path), long=True))


def test_a_run_says_if_no_core_is_free(tmp_path):
    os.sched_setaffinity(0, CORES[:1])
    try:
        done = measured(tmp_path, "gemm_reduce_scatter")
    finally:
        os.sched_setaffinity(0, CORES)
    assert done.returncode == 0, done.stderr
    assert "No core is free for each rank's communication" in done.stdout


def test_the_columns_of_a_models_layers():
    assert MODELS["llama-3.1-8b"].columns("qkv") == 6144
    assert MODELS["mixtral-8x7b"].columns("gate_up", ranks=2) == 2 * 14336
