"""`bench.bits --model` with real ranks: the same layer at several numbers of ranks."""

import sys
from functools import partial

import msgspec
import pytest

from bench.bits import main
from bench.stability.layer_measure import TPS
from tests.bench.launches import launch
from wiretax.record.bits_record import Bits

MODEL = "--model llama-3.2-1b --scale 1/64 --quiet"
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
    """The rows of eight ranks by layer and form."""
    folder = tmp_path_factory.mktemp("layers")
    words = f"{MODEL} -d half --algorithm then_library,fused,fused_stable"
    done = bits(folder, words, ranks=8)
    assert (done.returncode, done.stderr) == (0, "")
    return {(row.layer, row.algorithm): row for row in record_of(folder).layers}


def test_the_stable_form_alone_has_the_same_bits_at_any_number_of_ranks(layers):
    for (_, form), row in layers.items():
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
    for (_, form), row in layers.items():
        alone, *split = row.tps
        assert alone.orders.keys() == {"1", "8"}
        for tp in split:
            assert tp.rounds_parts == (form != "fused_stable")
            assert tp.causes == ([] if form == "fused_stable" else ["product", "rounding"])
            assert (tp.orders == alone.orders) == (form == "fused_stable")
    library = layers["mlp_down", "then_library"].tps[-1].orders["8"]
    assert library.endswith("; ranks ((0+1)+(2+3))+((4+5)+(6+7))")
    fused = layers["mlp_down", "fused"].tps[-1].orders["8"]
    assert fused.endswith("; ranks 0+1+2+3+4+5+6+7")


@pytest.mark.parametrize(
    ("words", "ranks", "sentence"),
    [
        ("--model qwen2.5-0.5b", 4, "4 ranks cannot share the 14 attention heads"),
        ("--model llama-2-7b", 8, "8 ranks cannot share the 11008 columns of mlp_down"),
        ("--model llama-3.2-1b -d double", 2, "a layer has no form for float64"),
        ("--model llama-3.2-1b -d int8", 2, "int8 adds exactly"),
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
