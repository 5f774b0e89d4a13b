"""`bench.bits` with real ranks, and `reports bits` of its records."""

import json
import re
from functools import partial
from pathlib import Path

import pytest

from reports.__main__ import main
from reports.tables.bits_shares import changes
from reports.tables.bits_table import orders_text
from tests.bench.launches import launch
from tests.fake_gpu import fake_nccl
from wiretax.record.bits_record import INVARIANCES, read_bits

bits = partial(launch, command="bits")
FLIPPING = Path(__file__).with_name("flipping.py")


def record_of(folder):
    return read_bits(sorted(folder.glob("*.bits.json"))[-1])


@pytest.fixture(scope="module")
def launches(tmp_path_factory):
    """A folder with the records of two launches of four ranks."""
    folder = tmp_path_factory.mktemp("bits")
    words = "-b 4K -e 16K -f 4 --quiet --algorithm library,one_shot_pull,two_shot,ring"
    for _ in range(2):
        done = bits(folder, words, ranks=4)
        assert (done.returncode, done.stderr) == (0, "")
    return folder


def test_each_algorithm_shows_its_order_and_what_changes_its_bits(launches):
    record = record_of(launches)
    rows = {row.name: row for row in record.rows}
    for name in ("one_shot_pull", "two_shot registered"):
        assert (orders_text(rows[name]), changes(rows[name])) == ("0+1+2+3", ("order",))
    assert {"size", "place", "fewer"} < {*changes(rows["ring"])}
    assert {"0+1+2+3", "1+2+3+0", "2+3+0+1", "0+3+1+2"} == {*rows["ring"].orders}
    [mpich] = [row for row in record.rows if (row.library or "").startswith("MPICH")]
    assert orders_text(mpich) == "(0+1)+(2+3)"
    assert 0.3 < mpich.errors["positive"].mean_ulp < 0.45
    assert {*mpich.differences} == {*INVARIANCES} - {"graph", "tp", "batch"}
    assert len(mpich.differences["launch"]) == len(mpich.sizes) == 2


def flipping(folder, *names):
    """The option for contenders that go wrong as their names say."""
    for name in names:
        (folder / f"{name}.py").write_text(FLIPPING.read_text().replace("flipping", name))
    return "--contender", Path(",".join(str(folder / f"{name}.py") for name in names))


FLIPS = ["none", "run", "ranks", "size", "place", "align", "place_of_result", "chain", "history"]


def test_a_flip_of_one_ulp_is_found(tmp_path):
    words = "-b 1K -e 4K -f 4 --algorithm library --quiet"
    done = bits(tmp_path, words, *flipping(tmp_path, *FLIPS), ranks=3)
    assert (done.returncode, done.stderr) == (0, "")
    rows = {row.algorithm: row for row in record_of(tmp_path).rows}
    for name in FLIPS:
        found = {*changes(rows[name])} - {"order"}
        flip = name.replace("place_of_result", "in-place")
        assert (flip in found) if flip != "none" else not found
        assert flip == "none" or max(each.ulp for each in rows[name].differences[flip]) == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--algorithm two_shot_int8 -e 64", "no bits can be compared: two_shot_int8"),
        ("--collective gemv_allreduce -d double -e 4K", "computes in fp32, without float64"),
    ],
)
def test_what_cannot_be_compared_here_is_refused_in_one_line(tmp_path, words, sentence):
    done = bits(tmp_path / "results", words, "--quiet")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)
    assert sentence in done.stderr


def test_a_library_that_fails_or_does_not_sum_is_named_and_the_others_are_compared(
    tmp_path, capsys
):
    """What is no sum fails, although it keeps its bits."""
    contenders = flipping(tmp_path, "fail", "nothing", "zeros")
    done = bits(tmp_path, "-b 512 -e 1K --algorithm ring --quiet", *contenders, ranks=3)
    assert (done.returncode, done.stderr) == (1, "")
    said = " ".join(done.stdout.split())
    assert re.search(r"fail [0-9a-f]{7}: .*RuntimeError: the sum is lost", said)
    assert re.search(r"nothing [0-9a-f]{7}, zeros [0-9a-f]{7}: its results are no sums", said)
    sizes = {row.algorithm: len(row.sizes) for row in record_of(tmp_path).rows}
    assert (sizes["ring"], sizes["fail"]) == (2, 1)
    status, said = report(capsys, tmp_path, "--require", "run,ranks")
    assert (status, "failed: its results are no sums" in said) == (1, True)
    words = "--collective gemv_allreduce -e 4K --algorithm fused --quiet"
    done = bits(tmp_path, words, *flipping(tmp_path, "zeros"))
    assert (done.returncode, done.stdout.count("no sums")) == (1, 1)


IN_PLACE = """// wiretax: all_reduce entry=sums registered in_place
#include "include/exchange.h"

RANK_KERNEL(sums) { exchange_and_reduce<PULL, ALL>(a); }
RANK_KERNEL(sums_registered) { exchange_and_reduce<REGISTERED, ALL>(a); }
"""


def test_what_is_no_sum_in_one_way_or_from_a_size_on_is_wrong(tmp_path):
    """Signed data cannot tell a wrong result by its ULPs; a bound on all rounding can."""
    (tmp_path / "mine.cu").write_text(IN_PLACE)
    words = "-b 1K -e 16K -f 4 --algorithm ring --quiet", "--kernel", tmp_path / "mine.cu"
    done = bits(tmp_path, *words, *flipping(tmp_path, "none", "large"), ranks=3)
    assert (done.returncode, done.stderr) == (1, "")
    reasons = {(row.algorithm, row.variant): row.reason for row in record_of(tmp_path).rows}
    wrong = reasons.pop(("mine", "registered"))
    assert re.match(r"its results are no sums \(in-place: [\d,]+ of [\d,]+ elements\)$", wrong)
    assert {name: reason for (name, _), reason in reasons.items()} == {
        "ring": None,
        "mine": None,
        "none": None,
        "large": "its results are no sums",
    }


def test_two_ranks_have_one_order_and_halves_and_reduce_scatter_are_compared(tmp_path):
    words = "--collective reduce_scatter -d half,bfloat16 -e 4K --algorithm direct_pull --quiet"
    done = bits(tmp_path, words)
    assert (done.returncode, done.stderr) == (0, "")
    assert "With two ranks a sum has one order" in done.stdout
    rows = record_of(tmp_path).rows
    assert {row.datatype for row in rows} == {"float16", "bfloat16"}
    assert {changes(row) for row in rows} == {()}


@pytest.mark.parametrize(
    ("collective", "promised"),
    [
        ("allreduce_rmsnorm", {"run", "ranks", "size", "place", "fewer"}),
        ("gemv_allreduce", {"run", "ranks", "fewer"}),
    ],
)
def test_a_fused_form_keeps_the_bits_that_its_page_promises(tmp_path, collective, promised):
    """A model then answers alike whether it runs on two GPUs or on three."""
    words = f"--collective {collective} -b 16K -e 64K -f 4 --algorithm fused --quiet"
    done = bits(tmp_path, words, ranks=3)
    assert (done.returncode, done.stderr) == (0, "")
    for row in record_of(tmp_path).rows:
        assert len(row.sizes) == 2
        assert promised <= row.differences.keys()
        assert promised.isdisjoint(changes(row))


RING_IN_GRAPHS = """
from dataclasses import replace
from bench.bits import main
from bench.stability.subject import Subject
from collectives.registry import ALGORITHMS
bound, ring = Subject.bind_way, ALGORITHMS["all_reduce"]["ring"]
def with_ring(subject, case, way):
    if way.replayed and case.variant == "registered":
        subject, case = replace(subject, algorithm=ring), replace(case, variant="copied")
    return bound(subject, case, way)
Subject.bind_way = with_ring
main()
"""


def test_graphs_and_both_kinds_of_memory_are_compared_on_a_fake_gpu(tmp_path):
    """The registered form has another order in graphs alone. Of two rows with one name, a baseline
    was compared with one alone."""
    words = "-b 1K -e 1K --algorithm one_shot_pull --memory mapped,host_staged --quiet"
    variables = fake_nccl.environment(gpu={"count": 3})
    done = bits(tmp_path, words, ranks=3, program=RING_IN_GRAPHS, **variables)
    assert (done.returncode, done.stderr) == (0, "")
    found = {
        row.name: {*changes(row)} - {"order", "size", "place"}
        for row in record_of(tmp_path).measured
    }
    assert found == {
        "one_shot_pull": set(),
        "one_shot_pull registered": {"graph"},
        "one_shot_pull copied over host_staged": set(),
    }


# -- reports bits


def report(capsys, *words):
    status = main(["bits", *map(str, words)])
    return status, "".join(capsys.readouterr())


def test_the_same_bits_pass_and_changed_ones_are_named_with_their_orders(
    launches, tmp_path, capsys
):
    """In all outputs of a gate. The library has another version, and other bits at a size."""
    status, said = report(capsys, launches, "--baseline", launches)
    assert (status, said.count("SAME: ")) == (0, 1)
    record = json.loads(sorted(launches.glob("*.bits.json"))[-1].read_text())
    [row] = [row for row in record["rows"] if row["algorithm"] == "library"]
    row["library"] = "MPICH 9.0.0"
    row["sizes"][-1] |= {
        "digest": "0123456789abcdef",
        "parts": [{"first": 0, "order": "0+1+2+3"}],
    }
    changed = tmp_path / "changed.bits.json"
    changed.write_text(json.dumps(record))
    outputs = {f"--{kind}": tmp_path / kind for kind in ("junit", "markdown", "html")}
    words = (word for option in outputs.items() for word in option)
    status, said = report(capsys, changed, "--baseline", launches, *words)
    change = "1 of 2 sizes changed, first at 16 KiB, (0+1)+(2+3) -> 0+1+2+3"
    assert (status, change in said.replace("\n", " ")) == (1, True)
    assert all("1 of 2 sizes changed" in path.read_text() for path in outputs.values())
