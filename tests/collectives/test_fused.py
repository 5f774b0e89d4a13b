"""Tests the fused kernels: correct, equal on all ranks, and bit-identical to compute followed by a collective."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from collectives.build import Build
from collectives.collective import DATATYPES
from collectives.layers.fused import COLLECTIVE, EPSILON, FUSED, Gemv, GemvCase, Norm, NormCase
from collectives.operation import Unsupported
from collectives.peer_buffer import HALF_BYTES
from reports.store.result import read
from tests.launch import count, few, mpirun
from tests.ranks.fused_ranks import TYPES, drawn, wrong_of_gemv, wrong_of_norm


@pytest.mark.parametrize(("ranks", "examples"), few([(2, 60), (3, 30), (1, 20)], 2))
def test_every_element_is_correct_and_bit_identical_to_two_launches(ranks, examples):
    examples = count(examples)
    done = mpirun(ranks, "tests/ranks/fused_ranks.py", str(examples), str(ranks))
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"{examples} examples right on {ranks} ranks" in done.stdout


@pytest.mark.parametrize("name", TYPES)
def test_the_bounds_reject_a_wrong_norm(name):
    datatype, draw = DATATYPES[name], np.random.default_rng(1)
    values = datatype.decode(drawn(draw, datatype, (3, 4, 200), "plain"))
    weight = datatype.decode(datatype.encode(draw.normal(size=200)))

    def stored(x):
        return datatype.decode(datatype.encode(x))

    def error_of(result, sum_of_squares):
        return wrong_of_norm(
            datatype,
            values[:2],
            values[2],
            weight,
            result,
            stored(result / np.sqrt(sum_of_squares / 200 + EPSILON) * weight),
        )

    residual_out = stored(stored(values[0] + values[1]) + values[2])
    squares = residual_out**2
    right = squares.sum(-1, keepdims=True)
    assert error_of(residual_out, right) is None
    assert "residual_out" in (error_of(stored(values[0] + values[2]), right) or ""), (
        "a rank's part left out"
    )
    assert "normed" in (error_of(residual_out, squares[:, :-16].sum(-1, keepdims=True)) or ""), (
        "16 elements not added"
    )


def test_the_bounds_reject_a_wrong_product():
    datatype, draw = DATATYPES["bfloat16"], np.random.default_rng(1)
    weights = draw.integers(-127, 128, (2, 64, 64)).astype(float)
    activations = draw.integers(1, 4, (2, 3, 64)).astype(float)
    scales = np.full((2, 64), 0.5)
    exact = np.sum([x @ w.T * 0.5 for w, x in zip(weights, activations, strict=True)], axis=0)
    assert (
        wrong_of_gemv(
            datatype, weights, scales, activations, datatype.decode(datatype.encode(exact))
        )
        is None
    )
    assert wrong_of_gemv(
        datatype, weights, scales, activations, activations[0] @ weights[0].T * 0.5
    )
    assert wrong_of_gemv(datatype, weights, scales, activations, exact * 2)


def test_sizes_that_do_not_fit_give_one_sentence():
    peers = SimpleNamespace(half_bytes=HALF_BYTES)
    world = cast(
        Any,
        SimpleNamespace(
            communicator=SimpleNamespace(size=2),
            peers=peers,
            shared=peers,
            device=SimpleNamespace(most_chunk_bytes=1 << 30),
        ),
    )
    common: dict[str, Any] = {
        "datatype": DATATYPES["float32"],
        "redop": "sum",
        "send": 0,
        "receive": 0,
    }
    norm = NormCase(
        COLLECTIVE["allreduce_rmsnorm"],
        count=1 << 20,
        norm=Norm(hidden=1 << 20),
        summed=0,
        **common,
    )
    assert FUSED["allreduce_rmsnorm"]["fused"].bind(world, norm) == Unsupported(
        "a token's 4194304 B are more than a slot of 2097152 B", depends_on_size=True
    )
    small = replace(norm, count=64, norm=Norm(hidden=64), build=Build(chunk_bytes=128))
    assert FUSED["allreduce_rmsnorm"]["fused"].bind(world, small) == Unsupported(
        "a token's 256 B are more than a slot of 128 B", depends_on_size=True
    )
    gemv = GemvCase(
        COLLECTIVE["gemv_allreduce"],
        count=1 << 20,
        layer=Gemv(hidden=1 << 20),
        tokens=1,
        weight_type="int8",
        **common,
    )
    assert FUSED["gemv_allreduce"]["fused"].bind(world, gemv) == Unsupported(
        "2 ranks' parts of 4194304 B do not fit into a slab", depends_on_size=True
    )


@pytest.mark.parametrize("output", few(["fp8", "int8"], 1))
def test_every_form_is_measured_with_quantised_output(tmp_path, output):
    done = mpirun(
        2,
        "-m",
        "bench.allreduce_rmsnorm",
        "--hidden",
        "256",
        "--tokens",
        "4",
        "--output",
        output,
        "-n",
        "12",
        "--max-time",
        "100",
        "--lean",
        "--out",
        str(tmp_path),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert f"output {output}" in " ".join(done.stdout.split())
    (path,) = tmp_path.glob("*.jsonl")
    cases = read(path).cases
    assert {"compute", "fused", "then_one_shot_pull"} <= {case.algorithm for case in cases}
    for case in cases:
        assert case.shape == {"tokens": 4, "hidden": 256, "output": output}
        if case.algorithm != "then_library":
            assert case.status == "ok", case.reason


def test_quantised_output_requires_whole_packs():
    done = mpirun(2, "-m", "bench.allreduce_rmsnorm", "--hidden", "100", "--output", "int8")
    assert (done.returncode, done.stdout, done.stderr) == (
        2,
        "",
        "bench.allreduce_rmsnorm: --output quantises 64 elements at a time, which do not divide 100\n",
    )
