"""Gates and comparisons of medians tell of a worse tail, which fails nothing."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from reports.verdicts.tail_warning import has_worse_tail
from tests.reports.synthetic_campaign import no_effect, slower, write_campaign
from tests.reports.verdicts.test_quantile import (
    ALIKE,
    ONE_SIZE,
    SLOW,
    TWO_SHOT_16K,
    campaign,
    tailed,
    with_steps,
)
from tests.reports.verdicts.test_regress import forms, judge, text_of

__all__ = ["campaign"]
pytestmark = pytest.mark.unit

WARNING = (
    rf"tails: more slow steps, over 2(?: x|×) the P50: {SLOW} (\d\.\d+)% \(main (\d\.\d+)%\); "
    "not judged: --quantile 99 judges the P99"
)


def test_a_gate_of_medians_passes_and_tells_of_the_tail(campaign, tmp_path, capsys):
    options, files = forms(tmp_path)
    status, said = judge(capsys, campaign, *options)
    assert status == 0
    told = re.search(WARNING, said)
    assert told
    assert float(told[1]) == pytest.approx(1.0, rel=0.3)
    assert float(told[2]) == 0.0
    for file in files:
        assert re.search(WARNING, text_of(file))
    suite = ElementTree.parse(files[0]).getroot()
    assert not [case for case in suite.iter("testcase") if len(case)]


def test_compare_tells_of_the_tail(campaign, reports):
    assert re.search(WARNING, " ".join(reports("compare", campaign)[1].split()))


def warned(folder, reports):
    status, out, err = reports("compare", folder)
    assert (status, err) == (0, "")
    return "tails:" in out


def test_a_few_hundred_steps_of_a_launch_suffice(tmp_path, reports):
    """Launches of 60 steps of a case have no P99."""
    options = {"pairs": 27, "n": 10, "case": TWO_SHOT_16K}
    assert warned(tailed(tmp_path / "worse", **options), reports)
    assert not warned(tailed(tmp_path / "alike", **options | {"share": 0.0}), reports)


@pytest.mark.parametrize("share", [0.0, 0.002, 0.01])
def test_equal_tails_are_not_told(tmp_path, reports, share):
    folder = tailed(tmp_path / "same", share=share, base=with_steps(share=share, case=TWO_SHOT_16K))
    assert not warned(folder, reports)


def test_a_better_tail_is_no_warning(tmp_path, reports):
    base = with_steps(share=0.02, case=TWO_SHOT_16K)
    assert not warned(tailed(tmp_path / "better", share=0.0, base=base), reports)


def test_a_faster_median_does_not_silence_it(tmp_path, reports):
    folder = tailed(tmp_path / "faster", {"main": no_effect, "new": slower(-10)})
    assert warned(folder, reports)


def test_what_the_median_shows_is_told_once(tmp_path, reports):
    """A case that takes three times as long has all its steps above the limit."""
    options = {"main": with_steps(), "new": with_steps(seed=1)}
    variants = {"main": no_effect, "new": slower(200)}
    folder = write_campaign(tmp_path / "slower", variants, options=options, sizes=ONE_SIZE)
    assert not warned(folder, reports)


def test_runs_without_steps_are_compared_as_ever(tmp_path, reports):
    for name, options in (("old", {}), ("half", {"new": with_steps(share=0.01)})):
        folder = write_campaign(tmp_path / name, ALIKE, options=options, sizes=ONE_SIZE)
        assert not warned(folder, reports)


def test_many_cases_with_equal_tails_have_no_more_warnings():
    """Each case for itself has one in 20 tables, and 24 cases have one in most tables."""
    shares = np.random.default_rng(2).binomial(600, 0.01, (60, 24, 12, 2)) / 600
    assert sum(has_worse_tail(table).any() for table in shares) <= 3


def test_library_tails_are_not_the_codes(tmp_path, reports):
    """Number 0 is the library's, which the compared code cannot change."""
    assert not warned(tailed(tmp_path / "library", case=0), reports)
