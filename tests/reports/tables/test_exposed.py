"""Synthetic runs of compute and communication with known figures: the exposed time, its table, and
the break-even time of a whole step."""

import re

import pytest

from reports.store.case import COMPUTE
from reports.tables.exposed import compare, groups
from reports.tables.show import text
from tests.reports.synthetic_together import FUSED, MPI, THEN, Made, always, layer, steps

pytestmark = pytest.mark.unit


def exposed(result, name=FUSED):
    """The exposed time of a form, or None."""
    return next(case for case in result.cases if case.algorithm == name).exposed_us


def words(result):
    """The printed text without line ends; every line fits a terminal of 80 columns."""
    printed = text(result)
    assert max(map(len, printed.splitlines())) <= 80
    assert "…" not in printed
    return " ".join(printed.split())


def test_exposed_time_is_the_difference_within_a_round(tmp_path):
    """The machine slows down from round to round. Medians over different rounds would differ by the
    slowdown."""
    result = Made(tmp_path).run(
        {
            COMPUTE: lambda turn: 10.0 + 3 * turn,
            FUSED: lambda turn: 9.0 + 3 * turn if turn > 5 else None,
            THEN: lambda turn: 14.0 + 3 * turn,
        }
    )
    fused, then = exposed(result), exposed(result, THEN)
    assert (fused.median, fused.n_blocks, exposed(result, COMPUTE)) == (-1.0, 6, None)
    assert (then.median, then.ci_low, then.ci_high, then.n_blocks) == (4.0, 4.0, 4.0, 12)


def test_the_best_is_chosen_on_odd_rounds_and_reported_on_even_ones(tmp_path):
    """In the rounds that choose it, the chosen form looks better than it is. A row names what was
    chosen for it."""
    result = Made(tmp_path, chosen={"fused copied": "two_shot"}).run(
        {
            COMPUTE: always(10.0),
            "then_one_shot_pull copied": always(13.0),
            "then_one_shot_push copied": lambda turn: 30.0 if turn % 2 else 5.0,
            "fused copied": lambda turn: 11.0 if turn % 2 else 40.0,
            "fused registered": always(12.0),
        }
    )
    forms = groups(result)[0][1]
    names = ["compute", "then_one_shot_pull", "fused copied, two_shot"]
    assert [form.name for form in forms.values()] == names
    assert list(forms[FUSED].report_us) == [0, 2, 4, 6, 8, 10]
    assert compare(forms, FUSED, COMPUTE) == (30.0, 30.0, 30.0)


def test_the_verdict_names_the_form_to_use(tmp_path):
    """A row has the share of the library's exposed 10 us that its form does not expose."""
    printed = words(layer(tmp_path / "a", **{FUSED: 11.0, MPI: 20.0}))
    assert "scale 1/64: fused exposes 4.00 [4.00 4.00] us less than unfused one-shot" in printed
    assert "fused 11.0 1.00 [1.00 1.00] 90% 0" in printed

    noisy = {COMPUTE: always(10.0), FUSED: lambda turn: 14.0 + turn % 4, THEN: always(15.5)}
    printed = words(Made(tmp_path / "c").run(noisy))
    assert re.search(r"do not clearly differ \(-?0\.00 \[-1\.\d\d 1\.\d\d\] us\)", printed)


def test_a_form_with_wrong_results_is_named_and_never_wins(tmp_path):
    made = Made(tmp_path, wrong={FUSED: 3})
    result = made.run({COMPUTE: always(10.0), FUSED: always(1.0), THEN: always(15.0)})
    printed = words(result)
    assert printed.startswith("WRONG RESULTS: fused")
    assert "not all forms were measured" in printed
    assert exposed(result) is None


def test_the_break_even_time_follows_from_three_times(tmp_path):
    """64 all-reduces: (12 - 10) ms are 31.2 us each, and (20 - 10) ms would be 156 us each."""
    printed = words(steps(tmp_path, 10.0, 12.0, 20.0))
    assert re.match(r"decode: \d+ slots \d+ us \(\d\.\d+x pipeline parallel", printed)
    assert "2 slots: TP is faster, PP/TP 1.67 [1.67 1.67]." in printed
    assert "flips where each of 64 all-reduces exposes 156 us; here it exposes 31.2 us." in printed

    assert printed.endswith(
        "This holds for these cores, which share one memory; cards have one each."
    )


@pytest.mark.parametrize(
    ("times", "sentence"),
    [
        ((10.0, 40.0, 16.0), "PP is faster, PP/TP 0.40 [0.40 0.40]"),
        (
            (10.0, 12.0, 9.0),
            "TP's compute alone is no faster than PP: no all-reduce is fast enough",
        ),
        ((10.0, 16.0, 16.1), "no clear difference, PP/TP 1.01 [1.01 1.01]"),
    ],
)
def test_other_sentences_about_a_step(tmp_path, times, sentence):
    gpus = [{"rank": 0, "device": "cuda", "gpu": "NVIDIA"}]
    printed = words(steps(tmp_path, *times, devices=gpus))
    assert sentence in printed
    assert "share one memory" not in printed
