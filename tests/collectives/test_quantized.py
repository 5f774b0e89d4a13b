"""Quantised all-reduces: their exact results, their loss, and that they run only if the user names
them."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from collectives.algorithms.allreduce_quantized import (
    BLOCK,
    QUANTIZED,
    WIRES,
    QuantizedSum,
    WireFormat,
)
from collectives.auto_table import check_algorithm, parsed
from collectives.collective import COLLECTIVES, DATATYPES, Array, combined
from collectives.operation import CollectiveCase, Unsupported
from collectives.registry import ALGORITHMS
from reports.tables.table import render
from tests.bench.launches import run
from tests.collectives.collective_examples import usual_names
from tests.fake_gpu import environment
from tests.kernels.broken_kernels import Patch, apply, tree
from tests.launch import assert_right, count, few, mpirun

NAMES = list(QUANTIZED)
KNOWN = ALGORITHMS["all_reduce"]
LEAST_DB = {"int8": 35, "int6": 25, "int4": 15}  # on normally distributed data


@pytest.mark.parametrize("ranks", few([2, 3, 1], 2))  # three ranks with non-temporal stores
def test_every_element_equals_numpys(ranks):
    assert_right(ranks, "collective", count(60), str(ranks), "cpu", "auto", *NAMES)


# A GPU has its codes of 6 bits in one pack and a half, a CPU in whole packs.
@pytest.mark.parametrize(("vendor", "ranks"), few([("hip", 2), ("cuda", 3)], 1))
def test_every_element_equals_numpys_on_the_software_gpu(vendor, ranks):
    """In every second example the buffers begin at whole packs; others are refused."""
    fake = environment(vendor=vendor, count=ranks, sms=6)
    names = [name for name in NAMES if "push" in name or "int6" in name]
    performed = assert_right(ranks, "collective", 40, "3", vendor, "mapped", *names, **fake)
    assert performed >= 8


QUANTIZE = "kernels/include/quantize.h"
ONE_SHOT, TWO_SHOT = (f"kernels/allreduce_{each}_shot_quantized.cu" for each in ("one", "two"))
ENCODED = "put(u, q); }, 0);"
SPREAD = "for_each_peer(a, put, 0, TRANSFER == PULLS ? 1 : WT_WORLD);"
RESULT = "put_unit(to, u, n, total);"
ROUNDED_UP = "low_halves(nearest) < exact ? nearest + 0x10001u : nearest;"
# What is wrong, the algorithm that runs, and the patch.
WRONG = {
    "bits of the next word lost": (
        "two_shot_push_int6",
        Patch(QUANTIZE, "|= q.codes[word + 1]", "|= words{}"),
    ),
    "scale of another unit": (
        "one_shot_push_int6",
        Patch(QUANTIZE, "short>(scale(u, b))", "short>(scale(u ^ 1u, b))"),
    ),
    "scales rounded to the nearest": (
        "one_shot_push_int8",
        Patch(QUANTIZE, ROUNDED_UP, "nearest;"),
    ),
    "codes a thousandth too small": (
        "one_shot_push_int8",
        Patch(QUANTIZE, "x.f[k] * inverse", "x.f[k] * inverse * 0.999f"),
    ),
    "sums rounded to codes too": (
        "one_shot_push_int8",
        Patch(ONE_SHOT, RESULT, RESULT.replace("total", "dequantized(quantized(total))")),
    ),
    "codes for the own rank alone": (
        "one_shot_push_int8",
        Patch(ONE_SHOT, ENCODED, ENCODED.replace("0", "0, 1")),
    ),
    "sums for one reader": (
        "two_shot_push_int6",
        Patch(TWO_SHOT, SPREAD, "for_each_peer(a, put, 0, 1);"),
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_codes_scales_roundings_and_places_are_noticed(name, tmp_path):
    algorithm, patch = WRONG[name]
    apply(tree(tmp_path / "tree"), [patch])
    program = "tests/ranks/collective_ranks.py", "12", "1", "cpu", "auto", algorithm
    done = mpirun(2, *program, tree=tmp_path / "tree")
    assert ": element (" in done.stderr


def error_bound(quantized: QuantizedSum, redop: str, inputs: Array) -> Array:
    """The largest error of a sum or mean of blocks, (ranks, ..., BLOCK), that docs/measure.md
    promises: half a step of each code, and the roundings to fp32."""

    def half_step(largest: Array) -> Array:
        # A scale is rounded up to fp16: by less than a part in 1000, or by the smallest fp16.
        return (largest / quantized.wire.largest * 1.001 + 2.0**-24) / 2

    share = 1 / len(inputs) if redop == "avg" else 1
    largest = np.abs(inputs).max(-1, keepdims=True)
    most: Array = (largest + half_step(largest)).sum(0) * share
    error: Array = half_step(largest).sum(0) * share + most * (len(inputs) + 4) * 2.0**-24
    return error if quantized.is_one_shot else error + half_step(most)


def blocks(ranks: int) -> Array:
    """Blocks of all ranks: of all magnitudes, some with one large element."""
    draw = np.random.default_rng(ranks)
    values: Array = draw.normal(size=(ranks, 3000, BLOCK)) * 10 ** draw.uniform(-7, 2, (3000, 1))
    values[:, ::5, 3] *= 40
    return values.astype(np.float32)


@pytest.mark.parametrize("redop", ["sum", "avg"])
@pytest.mark.parametrize("name", NAMES)
def test_an_error_is_within_the_bound_and_comes_near_it(name, redop):
    for ranks in (1, 2, 8):
        inputs, quantized = blocks(ranks), QUANTIZED[name]
        exact = combined(list(inputs.astype(np.float64)), redop)
        share = np.abs(quantized.expected_sum(redop, inputs) - exact) / error_bound(
            quantized, redop, inputs
        )
        assert 0.5 < share.max() <= 1


class Truncating(WireFormat):
    """Codes are rounded towards zero, in place of to the nearest."""

    def rounded(self, blocks: Array) -> Array:
        largest = np.abs(blocks).max(-1, keepdims=True) / self.largest
        return np.asarray(np.trunc(blocks / largest) * largest)


def test_codes_that_are_rounded_towards_zero_exceed_the_bound():
    inputs = blocks(2)
    quantized = QuantizedSum("one_shot_push", Truncating(8))
    errors = np.abs(quantized.expected_sum("sum", inputs) - inputs.astype(np.float64).sum(0))
    assert (errors > error_bound(quantized, "sum", inputs)).mean() > 0.1


@pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.name)
def test_a_block_out_of_range_becomes_nan_and_zeros_stay_zeros(wire):
    for value in (np.nan, np.inf, -np.inf, 1e30):
        block = np.ones((1, 32), np.float32)
        block[0, 7] = value
        assert np.isnan(wire.rounded(block)).all()
    assert not wire.rounded(np.zeros((1, 32), np.float32)).any()


@pytest.mark.parametrize(("datatype", "redop"), [("int32", "sum"), ("float32", "max")])
def test_types_and_operations_that_cannot_be_quantised_are_refused(datatype, redop):
    case = CollectiveCase(COLLECTIVES["all_reduce"], 64, DATATYPES[datatype], redop, 0, 0)
    world: Any = SimpleNamespace(ranks=2, peers=None)
    refusal = KNOWN[NAMES[0]].bind(world, case)
    sentence = "only sum and avg of float32, float16, bfloat16 can be quantised"
    assert isinstance(refusal, Unsupported)
    assert refusal.reason.startswith(sentence)


def test_quantised_algorithms_run_only_by_name():
    """Neither a run without --algorithm nor bench.tune uses them."""
    assert not set(usual_names("all_reduce")) & set(NAMES)
    for name in NAMES:
        algorithm = parsed(f"{name}+64K", KNOWN)
        assert algorithm.name == f"{name}+64K"
        world = SimpleNamespace(device=SimpleNamespace(is_cpu=True), ranks=2)
        assert algorithm.candidates(cast(Any, world), 1 << 20) == []
        with pytest.raises(ValueError, match=f"auto does not choose {name}"):
            check_algorithm(algorithm)


def test_long_has_the_signal_to_noise_ratio_beside_the_time(tmp_path):
    algorithms = ",".join(["library", "two_shot", "auto", *NAMES])
    _, result = run(tmp_path, f"--mode isolated -n 2 --sizes 16K,16388 --algorithm {algorithms}")
    cases = [case for case in result.cases if case.algorithm in NAMES and case.status == "ok"]
    assert {case.algorithm for case in cases} == set(NAMES)
    odd = {case.reason for case in result.cases if case.size_bytes == 16388} - {None}
    assert odd == {"it takes whole blocks of 32 elements"}
    table = render(result, long=True)
    for case in cases:
        assert case.n_wrong == 0
        assert list(case.snr_db) == ["normal", "outlier channels"]
        assert case.snr_db["normal"] > LEAST_DB[case.algorithm.rpartition("_")[2]]
        assert f"{case.snr_db['normal']:.1f}" in table
    one_shot, two_shot = (
        next(case.snr_db["normal"] for case in cases if case.algorithm == name)
        for name in ("one_shot_push_int8", "two_shot_int8")
    )
    assert one_shot > two_shot + 1, "two shots also round the sum"
    assert not any(case.chosen in NAMES for case in result.cases), "auto must not choose one"
