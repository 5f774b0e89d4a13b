"""Tests every algorithm against numpy in float64: any count, type, operation and alignment, in
place or not, one to eight ranks."""

import re

import numpy as np
import pytest

from bench.harness import verify
from collectives.choice import STABLE
from collectives.collective import COLLECTIVES, DATATYPES, REDOPS, combined
from collectives.operation import Algorithm
from collectives.registry import ALGORITHMS, exact
from tests.kernels.broken_kernels import PACK, PATCHES, SENTINEL, Patch, apply, tree
from tests.launch import ROOT, assert_right, count, few, mpirun
from tests.ranks.world import ROUNDING

ALL_REDUCE = COLLECTIVES["all_reduce"]
STREAMS = {"slabs": 1, "buffers": 2, "both": 3}  # as seeds of collective_ranks.py


@pytest.mark.parametrize(
    ("ranks", "collectives"), few([(2, ()), (3, ("all_reduce", "reduce_scatter")), (3, ())], 2)
)
def test_every_algorithm_is_right_for_fixed_messages(ranks, collectives):
    """Drawn examples try more, but may leave an algorithm out. Three ranks show the order of a sum
    that rounds, which two ranks would not: all ranks get the bits that docs/methods.md promises.
    Two ranks stream into buffers."""
    seed = STREAMS["buffers"] if ranks == 2 else 0
    assert_right(ranks, "collective", "fixed", str(seed), "cpu", "auto", *collectives)


def test_a_name_that_no_fixed_example_has_ends_the_run_with_a_sentence():
    program = "tests/ranks/collective_ranks.py", "fixed", "0", "cpu", "auto", "one_shto"
    done = mpirun(2, *program)
    assert done.returncode != 0
    assert "no fixed example has one_shto: there are all_gather, all_reduce, " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("collective", COLLECTIVES)
def test_what_auto_takes_without_a_table_says_what_it_moves(collective):
    """The model of `auto` takes an unknown traffic for none, and would prefer it to all others."""
    silent = [
        each.name
        for each in ALGORITHMS[collective].values()
        if each.needs_peers and each.is_modelled and each.moves is Algorithm.moves
    ]
    assert not silent, f"{silent}: give `moves`, or set is_modelled=False"


FIRST, NEXT = "Element::widen(load(0))", "Element::widen(load(s))"
LAST_FIRST = [
    Patch(PACK, FIRST, FIRST.replace("0", "SOURCES - 1")),
    Patch(PACK, NEXT, NEXT.replace("s", "s - 1")),
]
IN_RANK_ORDER = [
    algorithm.name
    for algorithm in reversed(exact("all_reduce", hosts=1))
    if algorithm.sums_in_rank_order and algorithm.name != STABLE  # which is one of the others
]


@pytest.mark.parametrize("algorithm", few(IN_RANK_ORDER, 3))
def test_sums_in_another_order_are_noticed(algorithm, tmp_path):
    """The same other order on all ranks. An algorithm whose kernel sums without pack.h passes here
    in spite of the patch, and needs a patch of its own."""
    done = of_fixed_messages(algorithm, LAST_FIRST, tmp_path)
    if "on 3 ranks, 0 performed" in done.stdout:
        pytest.skip("it runs on GPUs alone")
    assert done.returncode != 0
    assert re.search(r"element \(.* is ", done.stderr)


EACH_RANK_SUMS = "one_shot_push", "one_shot_ll", "one_shot_pull", "one_shot_sentinel"


@pytest.mark.parametrize("algorithm", few(EACH_RANK_SUMS, 2))
def test_sums_in_an_order_of_each_rank_are_noticed(algorithm, tmp_path):
    done = of_fixed_messages(algorithm, PATCHES["from its own input on"], tmp_path)
    assert done.returncode != 0
    assert "ranks got different bits" in done.stderr


def of_fixed_messages(algorithm, patches, tmp_path):
    """The end of a run of an algorithm on three ranks, by patched kernels."""
    apply(tree(tmp_path / "tree"), patches)
    program = "tests/ranks/collective_ranks.py", "fixed", "0", "cpu", "auto", algorithm
    return mpirun(3, *program, tree=tmp_path / "tree")


def delayed(tmp_path, streams, names, *missing):
    """The end of a run of fixed messages on two ranks. On a real CPU a missing fence shows only in
    rare launches; here each streaming store waits for the next fence."""
    program = "tests/ranks/collective_ranks.py", "fixed", str(STREAMS[streams]), "cpu", "auto"
    kernels = tree(tmp_path / "tree", "delayed streaming stores", *missing)
    return mpirun(2, *program, *names, tree=kernels)


@pytest.mark.parametrize("streams", few(STREAMS, 2))
def test_streaming_stores_are_fenced_before_a_flag_and_at_the_end_of_a_launch(streams, tmp_path):
    """A rank that sees a flag must see the data. With both kinds of streams at once, a fence whose
    condition forgets one of them would pass."""
    done = delayed(tmp_path, streams, ("all_reduce", "sendrecv"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "fixed examples right on 2 ranks" in done.stdout


FLAG, LAUNCH = "without the fence before the flag", "without the fence after the launch"
# Stores into slabs alone need no fence after the launch.
UNFENCED = ("slabs", FLAG), ("buffers", FLAG), ("buffers", LAUNCH), ("both", FLAG), ("both", LAUNCH)


@pytest.mark.parametrize(("streams", "missing"), few(UNFENCED, 3))
def test_results_are_wrong_without_a_fence_after_streaming_stores(streams, missing, tmp_path):
    """Streams into receive buffers reach a peer's memory only in sendrecv, where the sender stores
    half of a long message between registered buffers."""
    done = delayed(tmp_path, streams, ("one_shot_push", "sendrecv"), missing)
    assert done.returncode != 0
    assert all(words in done.stderr for words in ("AssertionError", ": element ("))  # lines mix


@pytest.mark.parametrize(
    ("ranks", "examples"), few([(2, 150), (8, 20), (3, 200), (1, 60), (4, 80), (5, 80)], 2)
)
def test_every_collective_is_correct_and_equal_results_have_equal_bits(ranks, examples):
    assert_right(ranks, "collective", count(examples), str(ranks))


SENT = "word = ~word ? word : word >> 1;"


@pytest.mark.parametrize("replaces", few([True, False], 1))
def test_data_equal_to_the_sentinel_arrive_as_nan(replaces, tmp_path):
    """Half of the examples have words of ones on rank 0: a rank would wait for them forever."""
    where = ROOT if replaces else tree(tmp_path / "tree")
    if not replaces:
        apply(where, [Patch(SENTINEL, SENT, "word = word;")])
    program = "tests/ranks/collective_ranks.py", "12", "1", "cpu", "auto", "one_shot_sentinel"
    done = mpirun(2, *program, tree=where)
    assert (done.returncode == 0) == replaces, done.stderr[-3000:]


@pytest.mark.parametrize("redop", REDOPS)
@pytest.mark.parametrize("datatype", DATATYPES.values(), ids=DATATYPES)
@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_the_expected_result_is_exact_and_no_error_matches_it(datatype, redop, ranks):
    data = verify.Data(ALL_REDUCE, datatype, redop, ranks, seed=5)
    tables = [data.table(rank, 0) for rank in range(ranks)]

    def result(inputs):
        values = combined(inputs, redop, datatype)
        return values if datatype.is_float else datatype.decode(datatype.encode(values))

    exact, expected = result(tables), datatype.decode(data.received({})[0, 0])
    tolerance = 2 * np.abs(exact) * (ROUNDING[datatype.name] + 2.0**-24) if redop == "avg" else 0
    assert np.all(np.abs(expected - exact) <= tolerance)
    if redop == "avg" and not datatype.is_float and not datatype.is_unsigned:
        total = datatype.decode(datatype.encode(combined(tables, "sum")))
        assert np.mean(total // ranks != exact) > 0.3  # a quotient that is rounded down
    adds = redop in ("sum", "avg")
    if not adds and redop != "prod":  # a comparison of sizes, or of the other sign
        by_size = combined([np.abs(table) for table in tables], redop)
        assert datatype.is_unsigned or np.any(by_size != np.abs(exact))
        return
    # Sums of fp8 have two to sixteen exact values, and a quotient of a sum that wraps may lose the
    # difference.
    least = 0.9 if redop == "avg" and datatype.size_bytes == 1 else 1.0
    stale, missing = np.roll(tables[0], -1), tables[0] * 0 + (not adds)
    doubled = tables[0] * (2 if adds else tables[0])
    assert np.mean(result([stale, *tables[1:]]) != exact) >= (
        0.3 if datatype.float8 and adds else least
    )
    assert np.mean(result([*tables[1:], missing]) != exact) >= least
    assert np.mean(result([*tables[1:], doubled]) != exact) >= least


@pytest.mark.parametrize("name", ["float8_e4m3", "float8_e5m2"])
def test_fp8_has_the_values_of_ocp_and_rounds_to_nearest_even_and_saturates(name):
    """OCP 8-bit Floating Point Specification, tables 1 and 2. Rounding is monotonic, so it is right
    everywhere if it is right around the middle of each two neighbours."""
    fp8 = DATATYPES[name]
    values = fp8.decode(np.arange(256, dtype=np.uint8))
    positive = values[:128][np.isfinite(values[:128])]
    ends = {"float8_e4m3": (2.0**-9, 448.0, 2), "float8_e5m2": (2.0**-16, 57344.0, 6)}
    assert (positive[1], positive[-1], np.isnan(values).sum()) == ends[name]
    assert np.all(np.diff(positive) > 0)
    codes, middles = np.arange(len(positive)), (positive[1:] + positive[:-1]) / 2
    for tried, expected in (
        (middles, codes[:-1] + codes[:-1] % 2),
        (np.nextafter(middles, 0), codes[:-1]),
        (np.nextafter(middles, 1e9), codes[1:]),
        (np.array([1e9, np.inf]), codes[[-1, -1]]),
    ):
        assert np.array_equal(fp8.encode(tried), expected)
        assert np.array_equal(fp8.encode(-tried), expected | 128)
    assert np.array_equal(values[128:][codes], -positive)
    assert np.isnan(fp8.decode(fp8.encode(np.array([np.nan])))).all()
