"""`reports.advice.likely`: its formula, its parameters as of today's rows, and its score."""

from dataclasses import replace
from importlib import import_module
from math import exp, log
from pathlib import Path

import numpy as np
import pytest

from reports.__main__ import main
from reports.advice import likely
from reports.advice.likely import Conditions, Pass, decode_pass, prompt_pass
from reports.advice.reduce_times import ReduceTimes
from reports.advice.serving import Deployment
from reports.advice.spans import Span
from reports.advice.specs import GPUS, MODELS
from reports.references.comparisons import comparisons
from reports.references.pairs import COLUMNS, pairs
from reports.references.published import FOLDER as REFERENCES

pytestmark = [pytest.mark.unit, pytest.mark.usefixtures("on_the_path")]

PAGES = Path(__file__).parents[3] / "docs" / "experiments"
GRAPH = Conditions("graph", "host", 31.5)


@pytest.fixture(scope="module")
def estimate(on_the_path):
    return import_module("advise_estimate")


@pytest.fixture(scope="module")
def scored(on_the_path):
    return import_module("advise_scored")


@pytest.fixture(scope="module")
def known(on_the_path):
    """The examples that set the parameters, and the ways between cards."""
    return import_module("advise_rows").fitting_examples(), import_module("advise_ways").ways()


def deployment(model="qwen3-8b", gpu="rtx3090", weights="bf16", **fields):
    times = ReduceTimes(fields.get("tensor", 1), "none")
    return Deployment(MODELS[model], GPUS[gpu], weights, times, **fields)


def decode(streams=1, conditions=GRAPH, **fields) -> Pass:
    return decode_pass(deployment(**fields), streams, conditions)


def test_the_parameters_are_those_of_todays_rows(on_the_path):
    """A row that is added or mended must move the figures that users see."""
    assert likely.FILE.read_text() == import_module("advise_fit").text(), (
        "run PYTHONPATH=. python docs/experiments/advise_fit.py"
    )


def test_the_page_has_todays_score(scored):
    page = scored.PAGE.read_text()
    assert scored.with_section(page) == page, (
        "run PYTHONPATH=. python docs/experiments/advise_scored.py --page"
    )


def test_the_users_page_says_that_score_and_what_its_command_prints(scored, capsys):
    page = (PAGES.parent / "advise.md").read_text()
    words = " ".join(page.split())
    halves = scored.halves_of(scored.predict(comparisons(pairs()))[0])
    score = scored.score_of(halves[scored.HELD_OUT])
    assert (
        f"was right in {100 * score.right:.0f} % of the votes, the ranges held "
        f"{100 * score.held:.0f} %, the median error of a ratio was {100 * score.error:.0f} %, and "
        f"a winner was named in {100 * score.named:.0f} %"
    ) in words
    section = page.partition("## Likely")[2]
    command, example = section.partition("```sh\n")[2].split("```\n", 1)
    assert main(command.split()[3:]) == 0
    assert example.partition("```\n")[2].partition("\n```")[0] in capsys.readouterr().out


def test_the_owners_held_out_set_nothing(known):
    """A score on rows that had set the parameters would praise itself."""
    may_fit = import_module("reports.references.pairs").may_fit
    examples, _ = known
    owners = {each.owner for each in examples}
    assert all(map(may_fit, owners))
    assert {row.owner for row in pairs() if not may_fit(row.owner)} - owners


def test_no_card_is_faster_than_its_data_sheet():
    """The likely time is above what reading the weights takes, whatever was fitted."""
    model = likely.published()
    for one in (
        decode(),
        decode(tensor=2),
        decode(conditions=replace(GRAPH, engine="llama.cpp")),
    ):
        at_most = 1e6 / (one.read_bytes / one.gpu.bandwidth_gb_s / 1e3)
        assert model.rate(one).value < at_most


def test_a_mixture_gains_less_from_a_second_card():
    """Small active weights leave the costs that no split shortens: so mixtures lose by tensor on
    two 4090s."""
    model = likely.published()

    def gain(name):
        alone, two = (
            decode(
                model=name,
                gpu="rtx4090",
                weights="q4_k_m",
                tensor=n,
            )
            for n in (1, 2)
        )
        return model.ratio(alone, two).value

    assert gain("qwen3-30b-a3b") < 1 < gain("qwen3-32b")


def test_a_host_that_launches_each_kernel_hides_what_cards_gain():
    model = likely.published()
    eager = replace(GRAPH, engine="eager")
    graph_gain = model.ratio(decode(), decode(tensor=2)).value
    eager_gain = model.ratio(decode(conditions=eager), decode(tensor=2, conditions=eager)).value
    assert eager_gain < graph_gain
    # The host and the card work at the same time: the step is shorter than their sum.
    of = likely.design([decode(conditions=eager)], model.names, model.fitted.ways)
    sum_us = np.exp(of.logs + of.powers @ model.point).sum()
    assert np.exp(likely.log_us(of, model.point)[0])[0] < 0.9 * sum_us
    assert model.rate(decode(conditions=eager)).value < model.rate(decode()).value


def test_a_measured_call_replaces_the_published_one():
    """A user who measured must not be told the range of others' wires."""
    model, alone = likely.published(), decode()
    fast, slow = (decode(tensor=2, conditions=replace(GRAPH, call_us=us)) for us in (5.0, 500.0))
    assert model.ratio(alone, fast).value > 1.5 * model.ratio(alone, slow).value
    ranges = [
        ratio.high / ratio.low
        for ratio in (model.ratio(alone, fast), model.ratio(alone, decode(tensor=2)))
    ]
    assert ranges[0] < ranges[1]


def test_at_the_break_even_call_both_are_equally_fast():
    model, alone = likely.published(), decode()
    even_us = model.break_even_us(decode(tensor=2), alone)
    even = decode(tensor=2, conditions=replace(GRAPH, call_us=even_us))
    assert model.ratio(alone, even).value == pytest.approx(1)
    for one, other in ((deployment(stages=2, prompt=8192), deployment(tensor=2, prompt=8192)),):
        layer, tensor = prompt_pass(one, GRAPH), prompt_pass(other, GRAPH)
        even_us = model.break_even_us(tensor, layer)
        even = prompt_pass(other, replace(GRAPH, call_us=even_us))
        assert model.ratio(layer, even).value == pytest.approx(1)


def test_a_ratio_and_its_inverse_agree():
    model, one, other = likely.published(), decode(), decode(tensor=2)
    there, back = model.ratio(one, other), model.ratio(other, one)
    assert there.value * back.value == pytest.approx(1)
    assert there.low * back.high == pytest.approx(1)


def test_one_owner_has_no_class_of_its_own(estimate, known):
    """A class that one owner filled would print this owner's machine as everybody's."""
    examples, ways = known
    classes = estimate.classes_of(examples, ways)
    alone = [each for each in examples if each.owner == "cadamcat"]
    assert classes
    assert not estimate.classes_of(alone, ways)


def test_an_owner_whose_rows_are_wrong_by_3_moves_the_others_little(estimate, known):
    """One owner's slip of units must stay within its vote: the ranges of a class that this owner
    has no row of hold what they held."""
    examples, ways = known
    owner = "fantasyz"  # rows of llama.cpp only
    wrong = [
        replace(each, log_other=each.log_other + log(3)) if each.owner == owner else each
        for each in examples
    ]
    one, other = decode(), decode(tensor=2)
    right_model, wrong_model = (
        likely.Formula(estimate.fit(rows, ways)) for rows in (examples, wrong)
    )
    moved = wrong_model.log_ratio(one, other)[0] - right_model.log_ratio(one, other)[0]
    assert abs(moved) < 0.05
    assert wrong != examples


def test_without_rows_the_starts_remain(estimate, known):
    _, ways = known
    fitted = estimate.fit([], ways)
    assert not fitted.classes
    for name, parameter in fitted.parameters.items():
        assert parameter.value == pytest.approx(estimate.START[name].value)


def test_the_gradient_is_that_of_the_formula():
    """A wrong one would end the fit anywhere."""
    model = likely.published()
    passes = [decode(tensor=4, streams=8), decode(conditions=replace(GRAPH, engine="eager"))]
    passes.append(prompt_pass(deployment(stages=2), GRAPH))
    of = likely.design(passes, model.names, model.fitted.ways)
    _, gradients = likely.log_us(of, model.point)
    for index in range(len(model.names)):
        step = np.zeros(len(model.names))
        step[index] = 1e-6
        ahead, behind = (likely.log_us(of, model.point + way * step)[0] for way in (1, -1))
        assert (ahead - behind) / 2e-6 == pytest.approx(gradients[:, index], abs=1e-6)


def test_a_shuffled_table_scores_badly(scored):
    """A score that random ratios pass would say nothing."""
    real, _ = scored.predict(comparisons(pairs()))
    score = scored.score_of(real)
    published = [each.published for each in real]
    shuffled = [
        replace(each, published=other)
        for each, other in zip(real, np.random.default_rng(1).permutation(published), strict=True)
    ]
    worse = scored.score_of(shuffled)
    assert worse.right < 0.85 < score.right
    assert worse.held < 0.75 < score.held
    assert worse.error > 1.5 * score.error


def test_a_winner_needs_a_range_without_1(scored):
    """Each family has one vote, whatever its rows."""
    named, wrong, unsure = (
        scored.Outcome("a", 1.5, Span(1.4, 1.1, 1.8)),
        scored.Outcome("b", 0.5, Span(1.4, 1.1, 1.8)),
        scored.Outcome("c", 1.0, Span(1.4, 0.9, 1.8)),
    )
    score = scored.score_of([named, wrong, unsure, unsure, unsure])
    assert (score.right, score.named, score.held) == pytest.approx((1 / 2, 2 / 3, 2 / 3))
    assert score.families == 3


def run_scored(scored, capsys, path):
    status = scored.main([str(path)])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_any_table_of_the_form_is_scored(scored, capsys, tmp_path):
    """Others keep pairs aside, and must get the same figures for the same rows."""
    status, text, complaint = run_scored(scored, capsys, REFERENCES / "pairs.csv")
    assert (status, complaint) == (0, "")
    assert "owners held out" in text
    empty = tmp_path / "empty.csv"
    empty.write_text(",".join(COLUMNS) + "\n")
    status, text, complaint = run_scored(scored, capsys, empty)
    assert (status, complaint) == (0, "")
    assert "0 times two rows of a pair; 0 ratios predicted." in text


@pytest.mark.parametrize(
    ("content", "refused"),
    [
        (b"", "lacks the columns"),
        (b"\xff\xfe\x00", "is not UTF-8"),
        ((",".join(COLUMNS) + "\n" + "x," * 3 + "\n").encode(), "line 2"),
    ],
)
def test_a_damaged_table_is_refused_in_a_sentence(scored, capsys, tmp_path, content, refused):
    path = tmp_path / "pairs.csv"
    path.write_bytes(content)
    status, text, complaint = run_scored(scored, capsys, path)
    assert (status, text, complaint.count("\n")) == (2, "", 1)
    assert refused in complaint
    assert run_scored(scored, capsys, tmp_path / "none.csv")[0] == 2


def test_hostile_cells_end_in_a_reason(scored, capsys, tmp_path):
    """Cards, models and splits that nobody knows, and figures that no machine has."""
    head = ",".join(COLUMNS)
    row = (
        "X{n},m,{gpu},{gpus},pcie9 x99,on,{model},{w},\x1b[31mvLLM,,{split},1,99999999,off,"
        "{x},{x},,s/s@0,[A] pp999999"
    )
    rows = [
        row.format(
            n=1,
            gpu="RTX 3090",
            gpus=2,
            model="qwen3-8b",
            w="fp8",
            split=split,
            x=x,
        )
        for split, x in (("tp2", 999999999), ("layer", "0.000000001"))
    ]
    rows += [
        row.format(
            n=2,
            gpu="NOPE",
            gpus=2,
            model="../../x",
            w="-1GB",
            split=split,
            x=1,
        )
        for split in ("tp2", "pp2")
    ]
    path = tmp_path / "pairs.csv"
    path.write_text("\n".join([head, *rows]) + "\n")
    status, text, complaint = run_scored(scored, capsys, path)
    assert (status, complaint) == (0, "")
    assert "an unknown card: NOPE" in text
    assert "2 ratios predicted" in text
    assert "\x1b" not in text


def test_the_range_of_a_rate_reaches_to_both_sides():
    model, one = likely.published(), decode()
    rate = model.rate(one)
    logarithm, spread = model.log_rate(one)
    assert rate.value == pytest.approx(exp(logarithm))
    assert log(rate.high / rate.value) == pytest.approx(log(rate.value / rate.low))
    assert spread > model.fitted.split_spread
