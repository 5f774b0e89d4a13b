"""The table of published pairs: what a row means, which rows are compared, and what is refused."""

import csv
import hashlib
import re

import pytest

from reports.references import pairs
from reports.references.comparisons import FACTORS, admitted, comparisons
from reports.references.pairs import (
    COLUMNS,
    PairRow,
    fabric_of,
    may_fit,
    owner_of,
    read_pairs,
    sound_rows,
    split_of,
)
from reports.references.published import FABRIC
from wiretax.record.result import ResultError

pytestmark = pytest.mark.unit

GOOD = {
    "pair_id": "H1a",
    "machine": "someone, two slots",
    "gpu": "R9700",
    "gpus": "2",
    "link": "pcie5 x8",
    "p2p": "off",
    "model": "Qwen3.8-27B",
    "weights": "FP8",
    "engine": "vLLM",
    "version": "1",
    "split": "tp2, RCCL",
    "concurrency": "1",
    "context_tokens": "1024",
    "draft": "off",
    "decode_tok_s": "40",
    "prefill_tok_s": "",
    "date": "2026-01",
    "source": "someone/box@abc README.md",
    "note": "[A] graphs; two runs",
}
ONE_CARD = {"gpus": "1", "split": "single"}


def written(tmp_path, *changes, columns=COLUMNS):
    """A table with GOOD, changed so, in each row."""
    path = tmp_path / "pairs.csv"
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, columns, extrasaction="ignore")
        table.writeheader()
        table.writerows(GOOD | change for change in changes)
    return path


def compared(tmp_path, one, other):
    (comparison,) = comparisons(read_pairs(written(tmp_path, one, other)))
    return comparison


def test_the_table_has_the_pairs_and_families_that_it_promises():
    rows = pairs.pairs()
    assert len(rows) == 253
    assert len({row.pair_id for row in rows}) == 98
    assert len({row.family for row in rows}) == 65
    for row in rows:
        assert re.fullmatch(FABRIC, row.fabric), row
        # Of one machine a source prints no number of cards.
        assert (row.split.kind == "unknown") == (row.gpus is None), row


def test_a_row_has_the_fields_that_a_prediction_needs(tmp_path):
    drafted = {"draft": "MTP n-max 2", "concurrency": "peak", "p2p": "on inside an island"}
    one, other = read_pairs(written(tmp_path, {}, drafted))
    assert (one.family, one.owner, one.grade, one.line) == ("H1", "someone", "A", 2)
    assert (one.gpus, one.streams, one.context_tokens, one.decode_tok_s) == (2, 1, 1024, 40)
    assert (one.fabric, one.peer_access, one.replay) == ("PCIe 5 x8", "off", "graph")
    assert (one.drafter, one.draft_tokens, one.prefill_tok_s) == ("none", 0, None)
    assert (one.split.tensor, one.split.kernel) == (2, "RCCL")
    assert (other.draft_tokens, other.streams, other.peer_access) == (2, "most", "on")


@pytest.mark.parametrize(
    ("text", "gpus", "kind", "factors"),
    [
        ("single", 1, "single", {}),
        ("layer", 3, "layer", {"stages": 3}),
        ("pp3", 3, "pipeline", {"stages": 3}),
        ("tensor + all-reduce PR", 4, "tensor", {"tensor": 4}),
        ("row-era tensor split", 8, "row", {"tensor": 8}),
        ("graph", 2, "graph", {"tensor": 2}),
        ("tp8 pp2, NCCL", 16, "tensor+pipeline", {"tensor": 8, "stages": 2}),
        ("tp2 attention, ep2 experts", 2, "tensor", {"tensor": 2, "experts": 2}),
        ("tp8 dcp8", 8, "tensor", {"tensor": 8, "contexts": 8}),
        ("dep2 pp2", 4, "data", {"data": 2, "experts": 2, "stages": 2}),
        ("TP 2", 2, "tensor", {"tensor": 2}),
        ("tp2-pp2", 4, "tensor+pipeline", {"tensor": 2, "stages": 2}),
        ("dp2 tp2", 4, "data", {"data": 2, "tensor": 2}),
        ("tensor-parallel", 2, "tensor", {"tensor": 2}),
        ("2 x tp2", 4, "tensor", {"replicas": 2, "tensor": 2}),
        ("replicas 2 x tp2", 4, "tensor", {"replicas": 2, "tensor": 2}),
        ("replicas 4 x single", 4, "single", {"replicas": 4}),
        ("replicas 2 x row2", 4, "row", {"replicas": 2, "tensor": 2}),
        ("2 replicas of tensor-2", 4, "tensor", {"replicas": 2, "tensor": 2}),
        # Nonsense, and what does not divide the cards: known to be unknown, not half understood.
        ("tp3", 2, "unknown", {}),
        ("tp0", 2, "unknown", {}),
        ("replicas 0 x tp2", 2, "unknown", {}),
        ("rows of cards", 2, "unknown", {}),
        ("<b>tp2</b>", 2, "unknown", {}),
        ("tp", None, "unknown", {"tensor": 1}),
    ],
)
def test_a_split_is_read_as_its_source_means_it(text, gpus, kind, factors):
    """A split taken for another would make a right prediction wrong, and the reverse."""
    split = split_of(text, gpus)
    ones = dict.fromkeys(FACTORS, 1)
    assert split.kind == kind
    assert {name: getattr(split, name) for name in ones} == ones | factors


@pytest.mark.parametrize(
    ("link", "gpu", "fabric"),
    [
        ("pcie3 x16 (PEX 8747)", "R9700", ("PCIe 3 x16", "pex 8747")),
        ("pcie5, no NVLink", "RTX 5090", ("PCIe 5", "")),
        ("pcie4 (width not stated)", "RTX 4090", ("PCIe 4", "")),
        ("pcie5 x16 + pcie4 x8", "Arc Pro B70", ("PCIe 4 x8", "")),
        ("pcie5 x4 + pcie4 x16", "R9700", ("PCIe 5 x4", "")),
        ("PCIe 4.0 x4", "R9700", ("PCIe 4 x4", "")),
        ("pcie PHB", "RTX 3090", ("PCIe", "phb")),
        ("pcie / SXM as rented", "A100", ("unknown", "")),
        ("200GbE RoCE", "GB10", ("network", "")),
        ("nvlink NV4", "RTX 3090", ("NVLink 3", "")),
        ("nvlink", "GB300", ("NVLink 5", "")),
        ("nvlink", "Voodoo", ("unknown", "")),
        ("pcie4 x16 (BAR1 P2P about 12 GB/s, no XGMI)", "Instinct MI50", ("PCIe 4 x16", "")),
        ("<script>", "R9700", ("unknown", "")),
    ],
)
def test_a_link_has_the_name_that_other_tables_give_it(link, gpu, fabric):
    """Of two slots the narrower counts: an all-reduce waits for it."""
    assert fabric_of(link, gpu) == fabric


def test_the_owner_is_who_measured_not_who_collects():
    """Otherwise one person's figures would set a constant under another's name."""
    assert owner_of("mattbucci", "mattbucci/box@abc README.md") == "mattbucci"
    assert owner_of("JohannesGaessler 2x4090", "ggml-org/llama.cpp#1") == "johannesgaessler"
    assert owner_of("4x GB300", "sgl-project/sglang#28946") == "sgl-project/sglang#28946"
    assert owner_of("2x DGX Spark", "forums.example.com t/3") == "forums.example.com"
    alesha = {row.owner for row in pairs.pairs() if row.machine.startswith("alesha-pro")}
    assert alesha == {"alesha-pro"}  # under two collections


def test_a_machine_of_two_sources_has_one_name():
    """Machines vote: under two names the same four cards would vote twice."""
    own = {row.machine for row in read_pairs() if row.owner == "alesha-pro"}
    assert len(own) == 1, own


def test_whose_figures_set_a_constant_is_nobodys_choice():
    """The owners that are kept out of all fits are half of them, by a hash."""
    owners = {row.owner for row in pairs.pairs()}
    for owner in owners:
        assert may_fit(owner) == (hashlib.sha256(owner.encode()).digest()[0] % 2 == 0)
        assert may_fit(owner.upper()) == may_fit(owner)
    assert len([owner for owner in owners if not may_fit(owner)]) >= len(owners) / 2


@pytest.mark.parametrize(
    ("one", "other", "axis"),
    [
        (ONE_CARD, {}, "cards"),
        (ONE_CARD, {"split": "pp2"}, "cards"),
        (ONE_CARD, {"gpus": "4", "split": "replicas 4 x single"}, "cards"),
        ({}, {"gpus": "4", "split": "tp4, RCCL"}, "cards"),
        ({"link": "pcie PIX"}, {"link": "pcie mixed", "gpus": "4", "split": "tp4, RCCL"}, "cards"),
        ({}, {"split": "layer"}, "split"),
        ({}, {"split": "tp2 attention, ep2 experts, RCCL"}, "split"),
        ({"gpus": "4", "split": "tp4"}, {"gpus": "4", "split": "replicas 2 x tp2"}, "split"),
        ({}, {"p2p": "on"}, "transport"),
        ({"split": "tp2, P2P off (SHM)"}, {"p2p": "on", "split": "tp2, P2P on"}, "transport"),
        ({}, {"link": "pcie4 x8"}, "transport"),
        ({}, {"link": "nvlink", "gpu": "R9700", "p2p": "on", "split": "tp2, custom"}, "transport"),
        ({}, {"split": "tp2, own kernel"}, "kernel"),
        ({}, {"concurrency": "8"}, "streams"),
    ],
)
def test_one_thing_that_moved_is_named(tmp_path, one, other, axis):
    comparison = compared(tmp_path, one, other)
    assert (comparison.axis, comparison.reason) == (axis, "")
    assert comparison.decode_ratio == 1
    assert comparison.prefill_ratio is None


@pytest.mark.parametrize(
    ("one", "other", "reason"),
    [
        ({}, {}, "nothing differs"),
        ({}, {"note": "[C] graphs", "split": "layer"}, "grade C"),
        ({}, {"note": "no grade", "split": "layer"}, "grade missing"),
        ({}, {"draft": "MTP-2", "split": "layer"}, "drafter differs"),
        ({}, {"note": "[A] eager", "split": "layer"}, "replay differs"),
        ({}, {"version": "2", "split": "layer"}, "version differs"),
        ({}, {"weights": "BF16", "split": "layer"}, "weights differs"),
        ({}, {"context_tokens": "", "split": "layer"}, "context_tokens differs"),
        ({"engine": ""}, {"engine": "", "split": "layer"}, "no engine"),
        ({}, {"split": "a dance"}, "no kind that is known"),
        ({"gpus": ""}, {"gpus": "", "p2p": "on"}, "no gpus that is known"),
        ({}, {"split": "layer", "decode_tok_s": "", "prefill_tok_s": "9"}, "neither decode nor"),
        ({"split": "layer"}, {"gpus": "4", "split": "tp4"}, "more than one thing moved"),
        ({}, {"split": "layer", "concurrency": "8"}, "more than one thing moved"),
        ({}, {"link": "pcie4 x8", "split": "tp2, own kernel"}, "more than one thing moved"),
        (
            {"gpus": "4", "split": "dep2 pp2"},
            {"gpus": "8", "split": "dep8"},
            "several factors of the split differ",
        ),
    ],
)
def test_what_is_not_compared_keeps_its_reason(tmp_path, one, other, reason):
    """A second thing that moved would be taken for the effect of the first."""
    comparison = compared(tmp_path, one, other)
    assert comparison.axis is None
    assert reason in comparison.reason


def test_only_rows_of_a_pair_are_compared():
    made = comparisons(pairs.pairs())
    assert all(each.one.pair_id == each.other.pair_id for each in made)
    assert len({each.family for each in admitted(pairs.pairs())}) >= 60
    assert all(bool(each.axis) != bool(each.reason) for each in made)
    assert all((each.one.gpus or 0) <= (each.other.gpus or 0) for each in made)
    # A longer clause may speak of another run, and a split by graph is no graph that is replayed.
    (mixed,) = {row.replay for row in pairs.pairs() if row.family == "H108"}
    assert mixed == "graph"
    assert {row.replay for row in pairs.pairs() if row.split.kind == "graph"} == {"unknown"}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"source": ""}, "line 3: it has no source"),
        ({"decode_tok_s": "-4"}, "line 3: decode_tok_s '-4' is no number above 0"),
        ({"decode_tok_s": "nan"}, "decode_tok_s 'nan' is no number above 0"),
        ({"prefill_tok_s": "1e999"}, "prefill_tok_s '1e999' is no number above 0"),
        ({"decode_tok_s": "0"}, "decode_tok_s '0' is no number above 0"),
        ({"gpus": "two"}, "gpus 'two' is no whole number from 1"),
        ({"gpus": "99999"}, "99999 gpus are more than 1024"),
        ({"concurrency": "-1"}, "concurrency '-1' is no whole number from 1"),
        ({"context_tokens": "9" * 200}, f"context_tokens '{'9' * 60}...' is no whole number"),
        ({"pair_id": "=1+1"}, "pair_id '=1+1' is no number with a letter"),
        ({"model": "\x1b[2J"}, None),
    ],
)
def test_a_damaged_row_is_named_by_its_line(tmp_path, change, complaint):
    """One row in a thousand must be found, and the others read."""
    path = written(tmp_path, {}, change)
    rows, damaged = sound_rows(path)
    if complaint is None:
        assert rows[1].model == "?[2J"
        return
    assert len(rows) == 1
    assert len(damaged) == 1
    with pytest.raises(ResultError) as refused:
        read_pairs(path)
    assert complaint in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_no_such_table_is_refused(tmp_path):
    path = written(tmp_path, {}, columns=[name for name in COLUMNS if name != "source"])
    with pytest.raises(ResultError, match="lacks the columns source"):
        read_pairs(path)
    path.write_text("")
    with pytest.raises(ResultError, match="lacks the columns pair_id"):
        read_pairs(path)
    path.write_bytes(written(tmp_path, {}).read_bytes() + b"\xff\xfe")
    with pytest.raises(ResultError, match="is not UTF-8"):
        read_pairs(path)
    with pytest.raises(ResultError, match="cannot be read: No such file"):
        read_pairs(tmp_path / "none.csv")
    path.write_text(",".join(COLUMNS) + "\nH1,too,few\n")
    with pytest.raises(ResultError, match="line 2: it has not the 19 cells"):
        read_pairs(path)
    path.write_text(",".join(COLUMNS) + "\n" + "x" * 200_000 + "\n")
    with pytest.raises(ResultError, match=r"is no table: field larger than field limit .*line 2"):
        read_pairs(path)


def test_the_rule_names_fields_that_rows_have():
    """A misspelt field would let everything through, or nothing."""
    fields = {*PairRow.__struct_fields__, "kind"}
    for rule in pairs.RULES["alike"] + pairs.RULES["printed"]:
        assert {*rule["fields"]} <= fields
    moved = {"gpus", "kind", "factors", "kernel", "peer_access", "fabric", "path", "streams"}
    for axis in pairs.RULES["axes"]:
        assert {*axis["moves"], *axis.get("takes_along", [])} <= moved
        assert axis["why"]
