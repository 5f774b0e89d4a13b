"""What `reports bits` says of layers at several numbers of ranks, and what it may not call the
same."""

import json
from copy import deepcopy

import msgspec
import pytest

from reports.tables.bits_table import MOST_LINES, text
from tests.reports.synthetic_bits import TOKENS, write_bits, write_layers
from wiretax.record.bits_record import CAUSES, compare_launch, read_bits

pytestmark = pytest.mark.unit
STABLE = "mlp_down fused_stable (float16)"


@pytest.fixture
def edited(tmp_path):
    """A function that writes a later record, at these numbers of ranks, of the stable form alone,
    after `edit` of its fields and of its mlp_down."""

    def write(
        edit=lambda record, layer: None,
        tps=(1, 2, 4),
        run_id="2026-11-28-b",
    ):
        record = json.loads(write_layers(tmp_path / "made", tps).read_text())
        record |= {"run_id": run_id, "layers": record["layers"][2:]}
        edit(record, record["layers"][1])
        path = tmp_path / "new" / f"{run_id}.bits.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(record))
        return path

    return write


def at(layer, ranks, tokens):
    """A batch of a layer."""
    (tp,) = [tp for tp in layer["tps"] if tp["ranks"] == ranks]
    return tp["batches"][TOKENS.index(tokens)]


def differs(name, tokens, ranks=4):
    def edit(record, layer):
        compared = at(layer, ranks, tokens)["compared"]
        compared.setdefault(name, {"elements": 9}).update(differ=3, ulp=1)

    return edit


def other_digest(record, layer):
    at(layer, 4, 5)["digest"] = "0123"


def other_order(record, layer):
    layer["tps"][2]["orders"]["8"] = "in sequence"


def no_order(record, layer):
    del layer["tps"][2]["orders"]["1"]


def without_tp(record, layer):
    del layer["tps"][2]


def cannot(record, layer):
    layer["tps"][2] |= {"batches": [], "reason": "4 ranks cannot share 6 columns"}


def without_batch(record, layer):
    del layer["tps"][2]["batches"][2]


def stopped(record, layer):
    layer["tps"][2]["reason"] = "RuntimeError: the sum is lost"


def without_any_tp(record, layer):
    record["notes"] = ["4 ranks cannot share 9 heads alike"]
    for each in record["layers"]:
        del each["tps"][2]


def not_compared(record, layer):
    at(layer, 4, 8)["compared"] = {}


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (differs("tp", 5), f"{STABLE} at TP 4 has other bits than at TP 1: <1 % 1 ULP, with 5"),
        (other_digest, f"{STABLE} at TP 4 has other bits than at TP 1: other digests, with 5"),
        (other_order, f"{STABLE} at TP 4 has the bits of TP 1 here, but another order: in sequ"),
        (no_order, f"{STABLE} at TP 4 has the bits of TP 1 here, but another order: one that"),
        (differs("ranks", 5), f"{STABLE} at TP 4 changes its bits on all ranks"),
        (differs("run", 5), f"{STABLE} at TP 4 changes its bits from call to call"),
        (differs("batch", 8, ranks=1), f"{STABLE} at TP 1 changes its bits in a batch of more"),
        (without_tp, f"{STABLE} at TP 4 was not compared with TP 1"),
        (
            without_any_tp,
            "attention_output, mlp_down of fused_stable (float16) at TP 4 each was not compared "
            "with TP 1",
        ),
        (cannot, f"{STABLE} at TP 4 was not compared with TP 1: 4 ranks cannot share 6 columns"),
        (without_batch, f"{STABLE} at TP 4 was not compared with TP 1, with 5 tokens"),
        (not_compared, f"{STABLE} at TP 4 was not compared with TP 1, with 8 tokens"),
        (stopped, f"{STABLE[:-10]} (float16) failed: TP 4: RuntimeError: the sum is lost"),
        (
            lambda record, layer: layer.update(reason="killed"),
            f"{STABLE[:-10]} (float16) failed: killed",
        ),
    ],
)
def test_a_layer_that_changes_or_was_not_compared_fails_the_gate(edited, report, edit, sentence):
    words = "--require", "tp,batch"
    assert report(edited(), *words) == (0, "SAME: 10 checks passed")
    status, said = report(edited(edit), *words)
    assert (status, said.startswith("CHANGED: "), sentence in said) == (1, True, True), said
    assert (edit is without_any_tp) == said.endswith("4 ranks cannot share 9 heads alike")


def test_layers_that_fail_alike_share_a_sentence(report, reports, tmp_path):
    """A model has many layers, forms and types: a reader wants each cause once."""
    path, junit = write_layers(tmp_path, (1, 2, 4, 8)), tmp_path / "bits.xml"
    status, said = report(path, "--require", "tp", "--junit", junit)
    assert (status, said) == (
        1,
        "CHANGED: 6 of 12 checks failed "
        "attention_output, mlp_down of fused (float16) at TP 2, 4, 8 each "
        f"has other bits than at TP 1: {CAUSES['product']}, and {CAUSES['rounding']}",
    )
    assert junit.read_text().count("<failure") == 6
    assert "mlp_down fused (float16) at TP 8 has other bits than at TP 1: 25 % 2 ULP: " in (
        junit.read_text()
    )
    checks = json.loads(reports("bits", path, "--require", "tp", "--json")[1])["checks"]
    assert {check["place"]["ranks"] for check in checks} == {"2", "4", "8"}


def test_a_record_of_one_rank_has_not_compared_ranks(edited, report):
    """A gate that passes it would pass any kernel."""
    status, said = report(edited(tps=(1,)), "--require", "tp")
    sentence = "of fused_stable (float16) at TP 1 each was not compared with TP 1"
    assert (status, sentence in said) == (1, True)
    assert report(edited(), "--require", "graph")[0] == 1
    assert report(edited(tps=(1,)), "--require", "batch,run")[0] == 0


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (
            other_digest,
            f"{STABLE} at TP 4 has changed since the baseline in 1 of 4 batches, with 5",
        ),
        (without_tp, f"{STABLE} at TP 4 was not measured, but in the baseline"),
        (cannot, "at TP 4 was not measured, but in the baseline: 4 ranks cannot share 6 columns"),
        (without_batch, f"{STABLE} at TP 4 lacks batches of the baseline, with 5 tokens"),
        (
            not_compared,
            f"{STABLE} at TP 4 was not compared, or with another outcome: batch, run, tp",
        ),
        (differs("run", 1), f"{STABLE} at TP 4 was not compared, or with another outcome: run"),
        (
            lambda record, layer: record["layers"].pop(),
            "mlp_down of fused_stable (float16) at TP 1, 2, 4 each was not measured, but in",
        ),
    ],
)
def test_what_the_baseline_has_and_the_record_has_not_is_not_the_same(
    edited, report, edit, sentence
):
    baseline = edited(run_id="2026-11-27-a")
    assert report(edited(), "--baseline", baseline) == (0, "SAME: 6 checks passed")
    status, said = report(edited(edit), "--baseline", baseline)
    assert (status, said.startswith("CHANGED: "), sentence in said) == (1, True, True), said


def test_a_record_of_one_rank_is_the_baseline_of_one_of_four(edited, report):
    """What it lacks is compared with its TP 1, which is said."""
    baseline = edited(tps=(1,), run_id="2026-11-27-a")
    note = "the baseline lacks TP 2, 4: compared with its TP 1"
    assert report(edited(), "--baseline", baseline) == (0, f"SAME: 6 checks passed {note}")

    def another_order(record, layer):
        other_digest(record, layer)
        layer["tps"][2]["orders"]["5"] = "in sequence"

    status, said = report(edited(another_order), "--baseline", baseline)
    assert status == 1
    assert f"{STABLE} at TP 4 has changed since the baseline's TP 1 in 1 of 4 batches" in said
    assert "-> in sequence" in said
    assert report(baseline, "--baseline", edited())[0] == 1, "it lacks what the baseline has"
    edited(tps=(1, 2, 4), run_id="2026-11-26-a")
    assert report(edited(), "--baseline", baseline.parent) == (0, "SAME: 6 checks passed")


def test_a_card_has_the_baseline_of_a_cpu(edited, report):
    """A change of cards keeps the baseline of a form that has the same bits on both."""

    def on_card(record, layer):
        record["device"] = "cuda"

    assert report(edited(on_card), "--baseline", edited(run_id="2026-11-27-a"))[0] == 0


def test_a_baseline_of_other_layers_is_refused_and_not_chosen(edited, report, reports, tmp_path):
    """Each keeps its own place in a folder of `accept`, and a newer one does not count."""

    def of_another_model(record, layer):
        for each in record["layers"]:
            each["model"] = "llama-3.1-70b"

    other, own = edited(of_another_model, run_id="2026-11-27-b"), edited(run_id="2026-11-27-a")
    status, said = report(own, "--baseline", other)
    assert (status, "not comparable: layers: llama-3.1-70b-attention_output" in said) == (4, True)

    store = tmp_path / "store"
    for path in (own, other):
        accepted = "--baseline", store, "--current", path, "--reason", "first"
        assert reports("accept", *accepted)[0] == 0
    assert len([*(store / "bits").iterdir()]) == 2
    status, said = report(edited(other_digest), "--baseline", store)
    assert (status, "CHANGED: 1 of 6 checks failed" in said) == (1, True)


def doubled(name):
    def twice(record, layer):
        own = {
            "layers": record,
            "tps": layer,
            "batches": layer["tps"][1],
        }[name]
        own[name].append(deepcopy(own[name][-1]))

    return twice


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (doubled("layers"), "a layer has a form twice"),
        (doubled("tps"), "a layer has a number of ranks twice"),
        (doubled("batches"), "a layer has a batch twice"),
        (lambda record, layer: record.update(layers=[]), "no row has a size, and no layer a batch"),
        (lambda record, layer: layer["tps"][0].update(ranks=0), "`int` >= 1"),
        (lambda record, layer: layer.update(model="../../x"), "at `$.layers[1].model`"),
        (
            lambda record, layer: at(layer, 2, 1)["compared"]["tp"].update(differ=10**9),
            "more elements differ than were compared",
        ),
    ],
)
def test_a_damaged_record_is_refused_in_one_sentence(edited, reports, edit, sentence):
    status, out, err = reports("bits", edited(edit))
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert sentence in err


def test_an_earlier_launch_at_other_ranks_is_compared(edited, tmp_path):
    """Each number of ranks with the same one of the newest launch that has it."""
    edited(other_digest, run_id="2026-11-27-a")
    edited(tps=(1, 2), run_id="2026-11-27-b")
    now = read_bits(edited(tps=(1, 2, 4, 8)))
    (tmp_path / "new" / "2026-11-28-b.bits.json").unlink()
    compare_launch(now, tmp_path / "new")
    layer = now.layers[1]
    compared = {
        place: batch.compared["launch"].differ
        for place, batch in layer.results.items()
        if "launch" in batch.compared
    }
    assert {place for place in compared if compared[place]} == {(4, 5)}
    assert {ranks for ranks, _ in compared} == {1, 2, 4}


def test_a_buyer_reads_which_form_keeps_its_bits_and_why_others_do_not(tmp_path):
    """Forms, layers and types of equal outcome share a row, and all of it fits a terminal."""
    record = read_bits(write_layers(tmp_path, (1, 2, 4, 8)))
    for datatype in ("float32", "bfloat16"):
        record.layers += [
            msgspec.structs.replace(layer, datatype=datatype) for layer in record.layers[:4]
        ]
    lines = text(record).splitlines()
    said = " ".join(text(record).split())
    assert len(lines) <= MOST_LINES
    assert (
        "TP 1 to 8: the bits of fused_stable stay the same; those of fused change "
        f"({CAUSES['product']}, and {CAUSES['rounding']})" in said
    )
    headings = next(at for at, line in enumerate(lines) if line.startswith("algorithm"))
    rows = [line.split() for line in lines[headings + 1 :][:2]]
    assert rows == [
        ["fused_stable", "all", "same", "same", "same"],
        ["fused", "all", *["25", "%", "2"] * 3],
    ]
    assert "! fused: the product adds its columns in another order (TP 2, 4, 8)" in said
    assert "; from TP 4 on each rank: 256 chains, then halves; ranks 0+1+2+3;" in said


def test_causes_of_many_forms_have_room(edited, report):
    """Forms and types multiply, and their rows must not hide why their bits change."""

    def many(record, layer):
        record["layers"] = [
            layer
            | {
                "algorithm": f"own_{number}",
                "datatype": datatype,
                "reason": "too large",
            }
            for number in range(9)
            for datatype in ("float32", "float16")
        ]
        for number, each in enumerate(record["layers"]):
            each["tps"] = [] if number == 17 else deepcopy(layer["tps"])
            for tp in each["tps"][1:]:
                tp |= {"causes": ["product"]}
                tp["batches"][0]["compared"]["tp"].update(differ=9, ulp=number + 1)
                tp["batches"][1]["compared"]["batch"].update(differ=1, ulp=1)
        for each in record["layers"][:17]:
            each["reason"] = None

    said = report(edited(many))[1]
    assert "5 more rows" in said
    assert CAUSES["product"] + " (TP 2, 4)" in said
    assert "other bits in a batch of more tokens" in said
    assert "own_8: too large" in said


def test_what_holds_of_some_layers_names_them(tmp_path):
    """Rounding may be of one type alone, and an order of one layer."""
    record = read_bits(write_layers(tmp_path))
    fused, *_ = record.layers
    record.layers.append(msgspec.structs.replace(fused, datatype="float32", algorithm="like_it"))
    fused.tps = [*fused.tps[:2], msgspec.structs.replace(fused.tps[2], causes=["ranks"])]
    said = " ".join(text(record).split())
    assert f"! attention_output fused: {CAUSES['ranks']} (TP 4)" in said
    assert f"! mlp_down fused, like_it: {CAUSES['rounding']} (TP 2, 4)" in said
    fused.datatype = "float32"
    said = " ".join(text(record).split())
    assert f"! fused (float32): {CAUSES['ranks']} (TP 4)" in said
    assert "like fused: like_it" in said


def test_a_form_that_was_not_compared_everywhere_is_not_called_the_same(edited, report):
    assert "fused_stable were not compared everywhere" in report(edited(cannot))[1]
    said = report(edited(differs("batch", 2)))[1]
    assert "fused_stable change in a batch" in said
    assert "! mlp_down fused_stable: other bits in a batch of more tokens" in said
    assert "only batches of 5 tokens change" in report(edited(differs("tp", 5)))[1]

    def other_sum(record, layer):
        layer["tps"][2]["causes"] = ["product"]

    said = report(edited(other_sum))[1]
    assert "fused_stable stay the same here, but may change" in said
    assert f"! mlp_down fused_stable: {CAUSES['product']} (TP 4)" in said


def test_layers_of_others_run_nothing_in_files(edited, report, tmp_path):
    """The names, causes and orders of a record from elsewhere are text."""
    evil = "<img src=x onerror=alert(1)>|\x1b[31m"

    def harmful(record, layer):
        layer |= {"algorithm": evil, "weights": evil}
        layer["tps"][2] |= {"causes": [evil], "orders": {"1": evil}}
        differs("tp", 5)(record, layer)

    files = [tmp_path / f"bits.{suffix}" for suffix in ("html", "md", "xml")]
    words = "--html", files[0], "--markdown", files[1], "--junit", files[2]
    status, said = report(edited(harmful), "--require", "tp", *words)
    assert (status, "\x1b" in said) == (1, False)
    for file in files:
        content = file.read_text()
        assert ("<img" in content, "\x1b" in content, "onerror" in content) == (False, False, True)
    assert "onerror=alert(1)&gt;\\|" in files[1].read_text()


def test_rows_and_layers_stand_in_one_text(edited, report, tmp_path):
    """Of records that were joined: the ranks of a collective must be equal then."""

    def like_rows(record, layer):
        record |= {"collective": "all_reduce", "ranks": 3}

    status, said = report(write_bits(tmp_path / "rows"), edited(like_rows), "--require", "tp,run")
    assert (status, said) == (0, "SAME: 12 checks passed")
    status, said = report(write_bits(tmp_path / "rows"), edited(like_rows))
    assert "ring change; llama-3.1-8b, " in said
    assert "2 orders: 0+1+2; 1+2+0" in said
    other = edited(lambda record, layer: record.update(collective="all_reduce", ranks=4))
    assert report(write_bits(tmp_path / "rows"), other)[0] == 4
