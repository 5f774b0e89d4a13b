"""The verdicts: wrong ones would report differences that do not exist, or miss real ones.
test_calibration.py tests the error rates."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from scipy.stats import t as student_t
from scipy.stats import wilcoxon

from reports.verdicts.judge import conclude, decide_together, with_ratios
from reports.verdicts.match import Match
from reports.verdicts.sides import Side
from reports.verdicts.states import JudgedPairs
from reports.verdicts.verdict import FAMILY_P, evidence, holm, once

pytestmark = pytest.mark.unit

# Critical values of Wilcoxon's T, two-sided 0.05, for the smaller sum of ranks, from textbooks.
CRITICAL = {6: 0, 9: 5, 15: 25, 25: 89}


def pairs(*, at, n=25, sd=0.01):
    """Log ratios of one cell, (n,), evenly spread around `at`, without ties in absolute value."""
    return at + sd * student_t.ppf((np.arange(n) + 0.5) / n, 30) + 1e-6 * np.arange(n) ** 1.5


@pytest.mark.parametrize("n", [6, 17, 40])
def test_p_equals_the_exact_signed_rank_test(n):
    values = np.random.default_rng(n).normal(0.005, 0.02, (40, n))
    figures = evidence(values)
    for row, p_slower, p_faster in zip(values, figures.p_slower, figures.p_faster, strict=True):
        assert p_slower == pytest.approx(
            wilcoxon(row, alternative="greater", method="exact").pvalue
        )
        assert p_faster == pytest.approx(wilcoxon(row, alternative="less", method="exact").pvalue)


@pytest.mark.parametrize(("n", "critical"), CRITICAL.items())
def test_the_interval_ends_at_the_tabulated_walsh_means(n, critical):
    values = np.random.default_rng(n).normal(0, 1, n)
    walsh = sorted((a + b) / 2 for i, a in enumerate(values) for b in values[i:])
    figures = evidence(values[None])
    assert (figures.log_low[0], figures.log_high[0]) == (walsh[critical], walsh[-critical - 1])
    assert figures.log_ratio[0] == pytest.approx(np.median(walsh))


def test_same_needs_the_ninety_percent_interval_within_the_margin():
    inside, tight, wide = (
        pairs(at=0.0, sd=0.01),
        pairs(at=0.008, sd=0.004),
        pairs(at=0.008, sd=0.02),
    )
    assert evidence(np.array([inside, tight, wide])).is_same.tolist() == [True, True, False]
    assert not evidence(tight[None], margin=0.005).is_same[0]


def test_a_cell_is_slower_beyond_the_margin_and_beyond_chance():
    """Among 24 cells: a clear slowdown, one within the margin, and one that a single cell of its
    kind would prove, but not one of 24."""
    clear, small = pairs(at=-0.05), pairs(at=0.008, sd=0.001)
    doubtful = pairs(at=0.014, sd=0.022)
    table = np.array([clear, small, doubtful, *[pairs(at=0.0, sd=0.002)] * 21])
    assert once(table).verdict.tolist() == ["FASTER", "SAME", "AMBIGUOUS", *["SAME"] * 21]
    assert once(doubtful[None]).verdict.tolist() == ["SLOWER"]


def side_by_side(*tables, quantile=None):
    """A comparison for each of these log ratios, all of one campaign that has ended."""
    campaign = cast(Any, SimpleNamespace(end=True, launches=[]))
    run = SimpleNamespace(node="a node", imported_from=None)
    launch = cast(
        Any,
        SimpleNamespace(
            path="",
            run=run,
            cases=[],
            blocks=[],
            complete=True,
        ),
    )
    found = Match(
        Side("base", [launch], campaign),
        Side("new", [launch]),
        is_interleaved=True,
        judged=JudgedPairs([]),
        unlike={},
        of_baseline={},
        of_variant={},
        quantile=quantile,
    )
    tested = [
        with_ratios(evidence(table)).assign(is_library=False, title="16 KiB") for table in tables
    ]
    decided = decide_together(tested, 0.01, FAMILY_P)
    return [conclude(found, cells, 0.01, {}) for cells in decided]


def test_equal_tails_of_few_pairs_are_not_called_however_much_they_scatter():
    """P99s that vary by 7 times: within a limit of twice as long one of 24 cells was SLOWER or
    FASTER in every tenth table of six pairs."""
    draw = np.random.default_rng(6)
    called = 0
    for _ in range(100):
        (compared,) = side_by_side(draw.normal(0, 2, (24, 6)), quantile=0.99)
        called += compared.cells.verdict.isin(["SLOWER", "FASTER"]).any()
    assert called <= 5


def test_more_variants_are_no_more_chances_of_a_false_verdict_and_a_lucky_figure_says_so():
    """The doubtful cell is found alone, where its estimate is above what is usually found."""
    doubtful, equal = pairs(at=0.014, sd=0.022)[None], pairs(at=0.0, sd=0.002)[None]
    (alone,) = side_by_side(doubtful)
    assert alone.cells.verdict.tolist() == ["SLOWER"]
    assert alone.caveats == [
        "the MDE exceeds the difference, which is then probably overestimated: 16 KiB"
    ]
    first, *others = side_by_side(doubtful, *[equal] * 5)
    assert first.cells.verdict.tolist() == ["AMBIGUOUS"]
    assert [each.cells.verdict.tolist() for each in others] == [["SAME"]] * 5
    assert side_by_side(pairs(at=0.05)[None])[0].caveats == []


def test_holm_steps_down_and_stops_at_the_first_hypothesis_that_it_keeps():
    # Worked example: 0.005 <= 0.05 / 4 and 0.01 <= 0.05 / 3, but 0.03 > 0.05 / 2, so Holm also
    # keeps 0.04.
    assert holm(np.array([0.01, 0.04, 0.03, 0.005]), 0.05).tolist() == [True, False, False, True]
    assert holm(np.array([0.012, 0.04, 0.024, 0.02]), 0.05).tolist() == [True, False, False, False]
    assert holm(np.zeros(0), 0.05).tolist() == []
