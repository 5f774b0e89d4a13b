"""A matmul that overlaps with a collective: its results, and the commands."""

import re
from typing import Any

import pytest

from collectives.layers.models import MODELS
from reports.store.result import read
from reports.tables.show import text
from tests.fake_gpu import fake_nccl
from tests.launch import few, mpirun

COMMANDS = ("gemm_reduce_scatter", "allgather_gemm")


@pytest.mark.parametrize("ranks", few([2, 3, 1], 2))
def test_every_form_of_a_cpu_is_exact(ranks):
    done = mpirun(ranks, "-m", "tests.ranks.overlap_ranks", "cpu", "float32")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" right") == ranks * len(COMMANDS)


@pytest.mark.parametrize(("vendor", "datatype"), few([("cuda", "float16"), ("hip", "float32")], 1))
def test_two_streams_of_a_fake_gpu_give_the_same_results(vendor, datatype):
    environment = fake_nccl.environment(vendor=vendor, gpu={"closed": 1})
    done = mpirun(
        2, "-m", "tests.ranks.overlap_ranks", vendor, datatype, timeout_s=120, **environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" right") == 2 * len(COMMANDS)


def test_a_run_names_its_number_of_chunks_on_a_fake_gpu(tmp_path):
    options = "--model llama-3.1-8b --tokens 32 --scale 1/64 -n 2 --device cuda"
    options += f" --algorithm then_direct_pull,fused --max-time 100 --out {tmp_path}"
    environment: dict[str, Any] = fake_nccl.environment(vendor="cuda", gpu={"closed": 1})
    done = mpirun(1, "-m", "bench.allgather_gemm", *options.split(), **environment)
    assert done.returncode == 0, done.stderr
    assert "tokens 32, hidden 4096, columns 128, scale" in done.stdout
    [path] = tmp_path.glob("*.jsonl")
    assert re.search(r"fused llama-3.1-8b.* [1248] chunks? ", text(read(path), long=True))


def test_the_columns_of_a_models_layers():
    assert MODELS["llama-3.1-8b"].columns("qkv") == 6144
    assert MODELS["mixtral-8x7b"].columns("gate_up", ranks=2) == 2 * 14336
