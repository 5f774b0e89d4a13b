"""`expect --model`: the published rows of engines that serve a model."""

import re

import pytest

from reports.advice.expect_model import rows_of_model, split_text
from reports.references.pairs import PairRow, pairs, split_of
from reports.references.published import PublishedServing, serving

MODEL = "qwen3.8-27b"


def test_a_model_shows_its_serving_rows(reports):
    status, text, error = reports("expect", "--model", MODEL, "--gpu", "r9700", "--gpus", 2)
    assert (status, error) == (0, "")
    assert max(map(len, text.splitlines())) <= 80
    every: list[PublishedServing | PairRow] = [*serving(), *pairs()]
    rows = [
        row
        for row in every
        if row.gpu == "R9700" and row.gpus == 2 and "3.8" in row.model and "27B" in row.model
    ]
    assert {type(row) for row in rows} == {PublishedServing, PairRow}
    assert len(re.findall(r"^\[\d+\] 2x R9700 ", text, re.M)) == len(rows) > 20
    for row in rows:
        assert "".join(row.source.split()) in "".join(text.split())
    told = " ".join(text.split())
    decoded = [
        row for row in rows if row.streams == 1 and row.decode_tok_s and row.drafter == "none"
    ]
    machines = len({row.machine for row in decoded})
    assert re.search(rf"decode of one stream, no drafter, .*? \({machines} machines, ", told)


@pytest.mark.parametrize(
    ("printed", "gpus", "shown"),
    [
        ("tp8 pp2", 16, "tp8 pp2"),
        ("replicas 2 x tp2", 4, "2x tp2"),
        ("layer", 2, "layer"),
        ("single", 1, "single"),
    ],
)
def test_a_split_of_a_pair_is_spelled_as_in_the_other_table(printed, gpus, shown):
    assert split_text(split_of(printed, gpus)) == shown


def test_unlike_cards_are_not_counted_twice(reports):
    """`2x R9700 + RX 9070 XT` read as three cards: it is one of each."""
    _, text, _ = reports("expect", "--model", MODEL)
    assert "\nR9700 + RX 9070 XT: " in text
    assert "2x R9700 +" not in text


def test_what_few_sources_print_has_a_column_only_there(reports):
    eight, chat = (reports("expect", "--model", name)[1] for name in ("llama-3.1-8b", "gpt-oss"))
    assert "first token" in eight
    assert "in and out" in eight
    assert "first token" not in chat


@pytest.mark.parametrize(
    ("name", "models"),
    [
        ("Qwen3.8 27B", {"Qwen3.8-27B", "Qwen3.8-27B-Heretic", "27B (Qwen3.6 or 3.8)"}),
        ("gemma-4-31b", {"gemma-4-31B", "gemma4-31B"}),
        ("qwen3-8b", {"Qwen3-8B"}),  # and not Qwen3.8-27B
    ],
)
def test_a_model_is_known_by_its_words(name, models):
    assert {row.model for row in rows_of_model(name)} == models


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("qwen3.9-27b", "unknown model 'qwen3.9-27b': did you mean qwen3.8-27b?"),
        ("x\x1b[2J", "unknown model 'x?[2J': choose from "),
        ("", "missing model: choose from "),
        (f"{MODEL} --gpu radeon-9999", "unknown GPU 'radeon-9999': "),
        (f"{MODEL} --gpu w7900", "nobody has published Qwen3.8-27B"),
        (f"{MODEL} --gpus 64", "nobody has published Qwen3.8-27B"),
        (f"{MODEL} --size 16K", "--model goes with --gpu, --gpus and --html, not with --size"),
        (f"{MODEL} --plot a.svg", "not with --plot"),
    ],
)
def test_a_model_that_nobody_served_takes_one_sentence(reports, line, complaint):
    name, *words = line.split(" ")
    status, text, error = reports("expect", "--model", name, *words)
    assert (status, text) == (2, "")
    assert complaint in error
    assert error.count("\n") == 1


def test_the_page_of_a_model_has_its_rows_and_one_clause(reports, tmp_path):
    page = tmp_path / "model.html"
    assert reports("expect", "--model", MODEL, "--gpu", "r9700", "--html", page)[0] == 0
    html = page.read_text()
    assert "kurtronshausen/r9700-serving@1c86fae1" in html
    assert len(re.findall("<h1>(.*?)</h1>", html)[0]) < 120
