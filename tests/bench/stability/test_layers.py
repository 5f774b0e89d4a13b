"""`bench.bits --model` with real ranks: the same layer at several numbers of ranks."""

import re
import sys
from functools import partial
from pathlib import Path

import msgspec
import pytest

from bench.bits import main
from collectives.models import LAYERS
from tests import fake_gpu
from tests.bench.launches import launch
from wiretax.record.bits_record import TPS, Bits

UNSTABLE = Path(__file__).with_name("unstable.py")
MODEL = "--model llama-3.2-1b --scale 1/64 --quiet"
ONE_LAYER = """
from bench import bits
from bench.stability import layer_data
layer_data.LAYERS = ("mlp_down",)
bits.main()
"""
bits = partial(launch, command="bits")


def record_of(folder):
    [path] = folder.glob("*.bits.json")
    return msgspec.json.decode(path.read_bytes(), type=Bits)


def changed(row, name):
    """At which numbers of ranks and tokens something changes the bits of a layer."""
    return [
        (tp.ranks, batch.tokens)
        for tp in row.tps
        for batch in tp.batches
        if name in batch.compared and batch.compared[name].differ
    ]


@pytest.fixture(scope="module")
def layers(tmp_path_factory):
    """The rows of eight ranks by form."""
    folder = tmp_path_factory.mktemp("layers")
    words = f"{MODEL} -d half --algorithm then_library,fused,fused_stable"
    done = bits(folder, words, ranks=8, program=ONE_LAYER)
    assert (done.returncode, done.stderr) == (0, "")
    return {row.algorithm: row for row in record_of(folder).layers}


def test_the_stable_form_alone_has_the_same_bits_at_any_number_of_ranks(layers):
    for form, row in layers.items():
        assert [tp.ranks for tp in row.tps] == [*TPS]
        assert all("tp" in batch.compared for tp in row.tps[1:] for batch in tp.batches)
        assert bool(changed(row, "tp")) == (form != "fused_stable")
        digests = {batch.digest for tp in row.tps for batch in tp.batches if batch.tokens == 8}
        assert (len(digests) == 1) == (form == "fused_stable")


def test_no_form_changes_its_bits_in_a_batch_or_from_call_to_call(layers):
    for row in layers.values():
        for name in ("batch", "run", "ranks", "place"):
            assert not changed(row, name)


def test_the_order_of_the_sum_says_what_changes_the_bits(layers):
    for form, row in layers.items():
        alone, *split = row.tps
        assert alone.orders.keys() == {"1", "8"}
        for tp in split:
            assert tp.rounds_parts == (form != "fused_stable")
            assert tp.causes == ([] if form == "fused_stable" else ["product", "rounding"])
            assert (tp.orders == alone.orders) == (form == "fused_stable")
    library = layers["then_library"].tps[-1].orders["8"]
    assert library.endswith("; ranks ((0+1)+(2+3))+((4+5)+(6+7))")
    fused = layers["fused"].tps[-1].orders["8"]
    assert fused.endswith("; ranks 0+1+2+3+4+5+6+7")


@pytest.mark.parametrize(
    ("words", "ranks", "sentence"),
    [
        ("--model qwen2.5-0.5b", 4, "4 ranks cannot share the 14 attention heads"),
        ("--model llama-2-7b", 8, "8 ranks cannot share the 11008 columns of mlp_down"),
        ("--model llama-3.2-1b -d double", 2, "a layer has no form for float64"),
        ("--model llama-3.2-1b -d int8", 2, "int8 adds exactly"),
        ("--model llama-3.2-1b --memory mapped,host_staged", 2, "one kind of --memory"),
        ("--model llama-3.2-1b -e 4K", 2, "a layer has batches of 1 to 8 tokens"),
        ("--model llama-3.2-1b --collective reduce_scatter", 2, "not reduce_scatter"),
        ("--scale 1/64", 2, "add --model NAME"),
        ("", 1, "one rank adds nothing"),
    ],
)
def test_what_ranks_cannot_share_is_refused_in_one_line(
    refused, monkeypatch, words, ranks, sentence
):
    monkeypatch.setenv("PMI_RANK", "0")
    monkeypatch.setenv("PMI_SIZE", str(ranks))
    monkeypatch.setattr(sys, "argv", ["bits", *words.split()])
    status, said = refused(lambda _: main())
    assert (status, sentence in said) == (2, True)


def unstable(folder, *names):
    """The option for contenders that go wrong as their names say."""
    for name in names:
        (folder / f"{name}.py").write_text(UNSTABLE.read_text().replace('"unstable"', f'"{name}"'))
    return "--contender", Path(",".join(str(folder / f"{name}.py") for name in names))


def test_a_collective_that_goes_wrong_at_some_ranks_or_tokens_is_named(tmp_path):
    names = "chosen", "lacking", "failing", "late", "last", "between"
    words = f"{MODEL} -d float --algorithm fused_stable"
    done = bits(tmp_path, words, *unstable(tmp_path, *names), ranks=4, program=ONE_LAYER)
    assert (done.returncode, done.stderr) == (1, "")
    rows = {row.algorithm.removeprefix("then_"): row for row in record_of(tmp_path).layers}
    assert [tp.causes for tp in rows["chosen"].tps] == [[], ["product"], ["product", "choice"]]
    assert rows["chosen"].tps[-1].orders.keys() == {"1", "4", "8"}
    reasons = {name: [tp.reason for tp in row.tps] for name, row in rows.items()}
    assert re.match(r"its results are no sums \([\d,]+ of 4,096 elements", reasons["lacking"][1])
    assert "RuntimeError: the sum is lost" in reasons["failing"][1]
    assert {each for of_row in reasons.values() for each in of_row[::2]} == {None}
    assert changed(rows["late"], "ranks") == [(2, 1), (2, 2), (2, 5), (2, 8)]
    for name in ("batch", "place"):
        assert changed(rows["last"], name) == [(1, 5), (2, 5), (4, 5)]
        assert not changed(rows["fused_stable"], name)
    assert changed(rows["between"], "batch") == [(1, 8), (2, 8), (4, 8)]


def test_a_rank_that_hangs_while_others_sleep_is_named(tmp_path):
    words = f"{MODEL} -d float -T 1 --algorithm fused_stable"
    done = bits(tmp_path, words, *unstable(tmp_path, "hanging"), ranks=3, program=ONE_LAYER)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.search(r"rank 1 .*did not go on", done.stderr)


TINY = """
from collectives.models import MODELS, Model
MODELS["tiny"] = Model(hidden=64, layers=1, heads=8, head=64, dense=1024)
from bench import bits
from bench.stability import layer_measure
layer_measure.TOKENS = 1, 2
layer_measure.add_orders = lambda *_: None
bits.main()
"""


OTHER_ORDER = TINY.replace(
    "layer_measure.add_orders = lambda *_: None",
    """
from bench.stability.layer_orders import Orders
Orders.trees = lambda self, subjects, batch: [
    [((0, 1), 2) if self.ranks == 1 else (0, (1, 2))] * self.ranks for _ in subjects
]
""",
)


def test_another_order_is_named_if_by_chance_no_bit_differs(tmp_path):
    words = "--model tiny -d half --algorithm fused_stable --quiet"
    done = bits(tmp_path, words, program=OTHER_ORDER)
    assert (done.returncode, done.stderr) == (0, "")
    for row in record_of(tmp_path).layers:
        assert not changed(row, "tp")
        assert [tp.causes for tp in row.tps] == [[], ["product"]]


def test_one_rank_several_and_a_gpu_have_the_same_bits(tmp_path):
    """In the stable form: a machine with one rank and no card can have the baseline of others."""
    words, found = "--model tiny -d half --algorithm fused_stable --quiet", []
    gpu = fake_gpu.environment(count=2, threads=64)
    for name, ranks, variables in (("one", 1, {}), ("gpu", 2, gpu), ("three", 3, {})):
        done = bits(tmp_path / name, words, program=TINY, ranks=ranks, **variables)
        assert (done.returncode, done.stderr) == (0, "")
        record = record_of(tmp_path / name)
        assert {row.layer for row in record.layers} == {*LAYERS}
        for row in record.layers:
            assert [tp.ranks for tp in row.tps] == [1, 2][:ranks]
            found += [[batch.digest for batch in tp.batches] for tp in row.tps]
    assert len({*map(tuple, found)}) == len(LAYERS)
    assert "of 3 ranks the first 1, 2 are measured" in record.notes
