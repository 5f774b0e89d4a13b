"""Quantised all-reduces: their exact results, their loss, and that they run only if the user names
them."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from collectives.algorithms.allreduce_quantized import ALGORITHMS as QUANTIZED
from collectives.algorithms.allreduce_quantized import WIRES
from collectives.auto_table import check_algorithm, parsed
from collectives.collective import COLLECTIVES, DATATYPES
from collectives.operation import CollectiveCase, Unsupported
from collectives.registry import ALGORITHMS
from reports.tables.table import render
from tests.bench.launches import run
from tests.collectives.collective_examples import usual_names
from tests.fake_gpu import environment
from tests.kernels.broken_kernels import Patch, apply, tree
from tests.launch import assert_right, count, few, mpirun

NAMES = [algorithm.name for algorithm in QUANTIZED["all_reduce"]]
KNOWN = ALGORITHMS["all_reduce"]
LEAST_DB = {"int8": 35, "int6": 25, "int4": 15}  # on normally distributed data


@pytest.mark.parametrize("ranks", few([2, 3, 1], 2))  # three ranks with stores around the caches
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


QUANTIZE, KERNEL = "kernels/include/quantize.h", "kernels/allreduce_two_shot_quantized.cu"
SPREAD = "for_each_peer(a, put, 0, TRANSFER == PULLS ? 1 : WT_WORLD);"
WRONG = {
    "bits of the next word lost": Patch(QUANTIZE, "|= q.codes[word + 1]", "|= words{}"),
    "scale of another unit": Patch(QUANTIZE, "short>(scale(u, b))", "short>(scale(u ^ 1u, b))"),
    "sums for one reader": Patch(KERNEL, SPREAD, "for_each_peer(a, put, 0, 1);"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_codes_scales_and_places_are_noticed(name, tmp_path):
    apply(tree(tmp_path / "tree"), [WRONG[name]])
    program = "tests/ranks/collective_ranks.py", "12", "1", "cpu", "auto", "two_shot_push_int6"
    done = mpirun(2, *program, tree=tmp_path / "tree")
    assert ": element (" in done.stderr


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
    algorithm = parsed("two_shot_int8+64K", KNOWN)
    assert algorithm.name == "two_shot_int8+64K"
    world = SimpleNamespace(device=SimpleNamespace(is_cpu=True), ranks=2)
    assert algorithm.candidates(cast(Any, world), 1 << 20) == []
    with pytest.raises(ValueError, match="auto does not choose two_shot_int8"):
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
    assert not any(case.chosen in NAMES for case in result.cases), "auto must not choose one"
