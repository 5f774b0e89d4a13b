"""The split of a model that `reports procure` judges: the fastest over all cards or fewer."""

import pytest
from msgspec.structs import astuple

from reports.advice.best_split import best_speed
from reports.advice.procurement import evaluate
from reports.advice.reduce_times import ReduceTimes
from reports.advice.serving import Deployment
from reports.advice.spans import Span
from reports.advice.specs import GPUS, LINKS
from reports.advice.specs import MODELS as KNOWN
from tests.reports.synthetic_candidates import (
    BOX,
    MODELS,
    ask,
    spec,
    unmeasured,
    verdict_of,
    write_launches,
)

pytestmark = pytest.mark.unit

MIXTURE = '[models]\nmoe = {model = "qwen3-30b-a3b", weights = "q4"}\n'


def speed(procurement, machine=0):
    """The speed of the only model."""
    [found] = [each for each in procurement.appraisals[machine].figures.values() if each.speed]
    return found


def test_two_cards_that_are_slow_together_meet_what_one_of_them_meets(tmp_path, capsys):
    """Two R9700s failed with "at most 171 tok/s" for a mixture of which one has 281."""
    write_launches(tmp_path / "box", 6, slower=20)  # an all-reduce of 16 KiB takes about 62 us
    one = unmeasured("one", gpus=1)
    path = spec(tmp_path, ["moe >= 200 tok/s"], MIXTURE + BOX.format(name="box") + one)
    procurement = evaluate(path)
    two, alone = (speed(procurement, machine) for machine in range(2))
    reached = f"at most {alone.value:.0f} tok/s"
    likely = alone.likely_text
    assert [verdict_of(procurement, machine) for machine in range(2)] == [
        ("UNVERIFIED", f"{reached}, one card of 2, by its data sheet; {likely}"),
        ("UNVERIFIED", f"{reached}, by its data sheet; {likely}"),
    ]
    assert (two.text, two.note) == (f"{reached}\n{likely}", "one card of 2, data sheet")
    assert (alone.text, alone.note) == (f"{reached}\n{likely}", "data sheet")
    assert "one card of 2, data sheet" in ask(capsys, path)[1]

    path = spec(tmp_path, ["moe >= 300 tok/s"], MIXTURE + BOX.format(name="box"))
    assert verdict_of(evaluate(path)) == (
        "FAIL",
        f"{reached}, one card of 2, over 6 launches; {likely}",
    )


def test_calls_of_all_cards_fail_no_split_over_fewer(tmp_path):
    """All-reduces of two cards may be faster than those of the four that were measured."""
    write_launches(tmp_path / "box", 6, slower=20, world_size=4)
    box = MIXTURE + BOX.format(name="box").replace("gpus = 2", "gpus = 4")
    verdict, reason = verdict_of(evaluate(spec(tmp_path, ["moe >= 400 tok/s"], box)))
    assert (verdict, reason.split("; ")[1]) == (
        "UNDECIDED",
        "nobody measured fewer of its cards",
    )
    # Three of them have 842 tok/s if communication takes no time, and all four 1,123.
    assert verdict_of(evaluate(spec(tmp_path, ["moe >= 1000 tok/s"], box)))[0] == "FAIL"


def test_the_cell_names_the_split_by_tensor_where_it_is_the_fastest(tmp_path):
    write_launches(tmp_path / "box", 6)
    found = speed(evaluate(spec(tmp_path, text=MIXTURE + BOX.format(name="box"))))
    assert found.note == "TP 2, by arithmetic, measured"
    assert found.low > found.speed.one_card


def test_few_launches_take_nothing_from_what_one_card_does_alone(tmp_path):
    """One launch of two cards made a speed undecided that one card has by its data sheet."""
    write_launches(tmp_path / "box", 1)
    path = spec(tmp_path, ["moe >= 200 tok/s"], MIXTURE + BOX.format(name="box"))
    assert verdict_of(evaluate(path))[0] == "UNVERIFIED"


def test_what_one_card_and_others_all_reduces_miss_is_said_so(tmp_path):
    """`one card of 2, of other machines` stood beside a figure of the candidate's data sheet."""
    box = MIXTURE + unmeasured("box", gpu='"rtx5090"')
    verdict, reason = verdict_of(evaluate(spec(tmp_path, ["moe >= 1400 tok/s"], box)))
    assert verdict == "UNDECIDED"
    assert " tok/s, one card of 2, by the all-reduces of other machines; likely " in reason


@pytest.mark.parametrize("runs", ["runs = ['box/*.jsonl']\n", ""])
def test_what_the_data_sheet_rules_out_fails_certainly(tmp_path, runs):
    """A published range that missed the limit was UNDECIDED, and stood before a larger card that
    FAILed with more tok/s."""
    write_launches(tmp_path / "box", 1)
    box = BOX.format(name="box").replace('runs = ["box/*.jsonl"]\n', runs)
    verdict, reason = verdict_of(evaluate(spec(tmp_path, ["70b-q4 >= 33 tok/s"], MODELS + box)))
    assert verdict == "FAIL"
    weights_gb = KNOWN["llama-3.1-70b"].parameters / 1e9 * 4.5 / 8
    most = f"at most {2 * 640 / weights_gb:.1f} tok/s"
    assert reason == f"{most} if communication took no time, by its data sheet"


@pytest.mark.parametrize(
    "model", ["llama-3.1-8b", "llama-3.1-70b", "qwen3.6-35b-a3b", "minimax-m2.5"]
)
@pytest.mark.parametrize("us", [0, 50, 5000])
def test_more_cards_are_never_slower_than_fewer(model, us):
    """A larger machine can leave cards idle: 3 cards serve as 2 do where heads do not go into 3."""
    times = ReduceTimes(2, "", {1: Span(us, low=us / 2, high=2 * us)})
    found = [
        best_speed(
            Deployment(KNOWN[model], GPUS["r9700"], "q4", times, tensor=n),
            LINKS["pcie5x16"],
            "graph",
            has_times=True,
        )
        for n in range(1, 9)
    ]
    spans = [each.span if each and each.span else Span(0, low=0, high=0) for each in found]
    ends = [astuple(span) for span in spans]
    assert ends == sorted(ends), [each and each.split for each in found]
    likely = [each.likely.value if each and each.likely else 0 for each in found]
    assert likely == sorted(likely), [each and each.likely_split for each in found]
    assert all(each.most >= span.high for each, span in zip(found, spans, strict=True) if each)


def test_a_requirement_says_what_is_likely_and_stays_unverified(tmp_path):
    """An upper limit of 44 tok/s was all that a buyer read, where engines reach 60 % of it."""
    path = spec(tmp_path, ["70b-q4 >= 5 tok/s"], MODELS + unmeasured("box", gpu='"rtxpro6000"'))
    found = speed(evaluate(path))
    assert 5 < found.likely.low < found.likely.high <= found.high
    verdict, reason = verdict_of(evaluate(path))
    assert verdict == "UNVERIFIED"
    assert reason.endswith(f"; {found.likely_text}")


def test_the_headline_prefers_what_likely_meets_the_requirement(tmp_path):
    """The cheapest of those whose upper limit meets it came first, though no engine would."""
    dear = '{amount = 9000, currency = "EUR", date = 2026-11-01}'
    large = unmeasured("large", gpu='"h200"', gpus=1, price=dear)
    boxes = MODELS + unmeasured("small", gpu='"rtxpro6000"', gpus=1) + large
    likely = speed(evaluate(spec(tmp_path, text=boxes))).likely
    limit = (likely.value + likely.high) / 2
    procurement = evaluate(spec(tmp_path, [f"70b-q4 >= {limit:.2f} tok/s"], boxes))
    assert procurement.headline.startswith("large for 9000 EUR")


def test_an_engine_that_nobody_knows_is_named_with_its_model(tmp_path, capsys):
    model = MODELS.replace('"q4"', '"q4", engine = "lama.cpp"')
    status, _, error = ask(capsys, spec(tmp_path, text=model + unmeasured("box")))
    assert status == 2
    assert "model 70b-q4: unknown engine 'lama.cpp': did you mean llama.cpp?" in error
