"""Verdicts over launches: what pairs of launches say of a ratio, and whether that is enough to call it.

Two launches of the same thing differ by more than one launch can know, so the unit is the pair: a launch of the
variant and one of the baseline that stood next to each other in time. Which of the two ran first was drawn, so without
a difference a pair's log ratio is as likely to lie above 0 as below, whatever its distribution: that is all that
Wilcoxon's signed-rank test needs, and its distribution is exact. Shapes: `log_ratios` is (cells, pairs), log of variant
over baseline; all results are (cells,).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import Enum
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit  # not scipy.stats, which takes four times as long to import

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

MARGIN = 0.01
SUSPECT_P = 0.05
FAMILY_P = 0.025
SAME_CONFIDENCE = 0.90
POWER = 0.80
BOTH_POWER = float(np.sqrt(POWER))  # of each of two stages that both have to
MIN_PAIRS = 6
LOOKS = (0.25, 0.5, 1.0)  # shares of all pairs
NORMAL_EFFICIENCY = 3 / np.pi  # of the signed-rank test against Student's, where pairs are normal


class Verdict(str, Enum):
    """What a table says of a cell. SLOWER: the variant takes longer than the baseline."""

    SLOWER = "SLOWER"
    FASTER = "FASTER"
    SAME = "SAME"
    AMBIGUOUS = "AMBIGUOUS"
    UNREPLICATED = "unreplicated"


@dataclass
class Evidence:
    """What the pairs say of each cell; ratios as logarithms, all of shape (cells,). `low` and `high` bound the 95 %
    interval, infinite below six pairs; `p_slower` and `p_faster` are one-sided, against "not slower" and "not faster",
    1 below six pairs; `is_same` is two one-sided tests' word."""

    pairs: NDArray[np.int64]
    estimate: Floats
    low: Floats
    high: Floats
    p_slower: Floats
    p_faster: Floats
    is_same: Bools

    @property
    def standard_error(self) -> Floats:
        """Of the estimate, from the width of its 95 % interval: a launch that went astray hardly moves it."""
        return np.asarray((self.high - self.low) / 2 / stdtrit(np.maximum(self.pairs - 1, 1), 0.975))


def evidence(log_ratios: Floats, margin: float = MARGIN, same_confidence: float = SAME_CONFIDENCE) -> Evidence:
    """What is found over these pairs; NaN stands for a pair that a cell does not have.

    All of it comes from the Walsh means, those of any two pairs, a pair with itself included. The estimate is their
    median (Hodges and Lehmann, Annals of Mathematical Statistics 34, 1963); its exact interval goes from the k-th to
    the k-th last (Hollander, Wolfe and Chicken, "Nonparametric Statistical Methods", 3.3); and Wilcoxon's statistic is
    the number of those above 0 (Tukey 1949), where those at 0 count for the null. SAME is two one-sided tests
    (Schuirmann, J. Pharmacokinetics and Biopharmaceutics 15, 1987): an interval of `same_confidence` within the margin.
    """
    cells = len(log_ratios)
    pairs = np.sum(np.isfinite(log_ratios), axis=-1)
    found = Evidence(pairs, np.full(cells, np.nan), np.full(cells, -np.inf), np.full(cells, np.inf), np.ones(cells),
                     np.ones(cells), np.zeros(cells, bool))
    for n in np.unique(pairs[pairs > 0]).tolist():
        rows = pairs == n
        values = log_ratios[rows][np.isfinite(log_ratios[rows])].reshape(-1, n)
        i, j = np.triu_indices(n)
        walsh = np.sort((np.take(values, i, axis=-1) + np.take(values, j, axis=-1)) / 2, axis=-1)
        middle = walsh.shape[1] // 2
        found.estimate[rows] = (walsh[:, middle] + walsh[:, ~middle]) / 2
        if n >= MIN_PAIRS:
            cdf = signed_rank_cdf(n)
            found.p_slower[rows], found.p_faster[rows] = cdf[np.sum(walsh <= 0, -1)], cdf[np.sum(walsh >= 0, -1)]
            found.low[rows], found.high[rows] = _between_walsh(walsh, cdf, 0.95)
            low, high = _between_walsh(walsh, cdf, same_confidence)
            found.is_same[rows] = (low > -np.log1p(margin)) & (high < np.log1p(margin))
    return found


def _between_walsh(walsh: Floats, cdf: Floats, confidence: float) -> tuple[Floats, Floats]:
    k = int(np.searchsorted(cdf, (1 - confidence) / 2, side="right"))
    return (walsh[:, k - 1], walsh[:, -k]) if k else (walsh[:, 0] - np.inf, walsh[:, 0] + np.inf)


@cache
def signed_rank_cdf(n: int) -> Floats:
    """P(T <= t) of Wilcoxon's T for t = 0 ... n (n + 1) / 2: each rank is in the sum or not, half the time each."""
    counts = np.ones(1)
    for rank in range(1, n + 1):
        counts = np.pad(counts, (0, rank)) / 2 + np.pad(counts, (rank, 0)) / 2
    return np.minimum(np.cumsum(counts), 1.0)


@dataclass
class Judgement:
    """What becomes of each cell, (cells,): `shown` is the evidence that decided it, over fresh pairs where `is_fresh`;
    `alpha` the level of its one-sided test, `detectable` its minimum detectable effect (0.03: 3 %)."""

    shown: Evidence
    verdicts: NDArray[np.str_]
    alpha: Floats
    detectable: Floats
    is_suspect: Bools
    is_fresh: Bools


def two_stages(first_ratios: Floats, fresh_ratios: Floats, margin: float = MARGIN,
               is_finished: bool = True) -> Judgement:
    """A suspect's verdict is over its fresh pairs alone; who is none is never called. Suspects of a campaign that goes
    on stay AMBIGUOUS: each look at pairs that are still coming would be one more chance to err.

    A suspect is beyond the margin and differs from 0 at one-sided p < 0.05. Its fresh pairs are tested in the direction
    suspected; Holm's procedure keeps the chance of any false FASTER or SLOWER in the table below 2.5 %.
    """
    first = evidence(first_ratios, margin)
    suspected = _beyond(first, margin) & (np.minimum(first.p_slower, first.p_faster) < SUSPECT_P)
    fresh = evidence(np.where(suspected[:, None], fresh_ratios, np.nan), margin)
    p = np.where(first.estimate > 0, fresh.p_slower, fresh.p_faster)
    called = np.zeros(len(p), bool)
    called[suspected] = holm(p[suspected], FAMILY_P)
    verdicts = np.where(suspected, _verdicts(fresh, called, margin), _verdicts(first, called, margin))
    if not is_finished:
        verdicts[suspected] = Verdict.AMBIGUOUS.value
    is_fresh = suspected & (fresh.pairs > 0)
    shown = Evidence(*(np.where(is_fresh, getattr(fresh, field.name), getattr(first, field.name))
                       for field in fields(Evidence)))
    alpha = np.where(is_fresh, FAMILY_P / max(1, int(np.sum(suspected))), SUSPECT_P)
    power = np.where(is_fresh, POWER, BOTH_POWER)
    return Judgement(shown, verdicts, alpha, left_open(shown, verdicts, alpha, margin, power), suspected, is_fresh)


def growing(ratios: Floats, looks: Sequence[int], margin: float = MARGIN) -> Judgement:
    """The verdicts after looks at a quarter, a half and all of the pairs there will be, or those of them that have been
    made: each at so many of the columns. What an earlier look decided stays.

    Holm's procedure within a look, over all cells, at what `spent` allots to it; the looks' parts add up, so that no
    joint distribution is needed (Lan and DeMets, Biometrika 70, 1983).
    """
    verdicts = np.full(len(ratios), Verdict.AMBIGUOUS.value)
    for number, pairs in enumerate(looks):
        same_confidence = 1 - 2 * spent(number, (1 - SAME_CONFIDENCE) / 2)
        found = evidence(ratios[:, :pairs], margin, same_confidence)
        called = holm(2 * np.minimum(found.p_slower, found.p_faster), spent(number, FAMILY_P))
        verdicts = np.where(verdicts == Verdict.AMBIGUOUS.value, _verdicts(found, called, margin), verdicts)
    if looks[-1:] != [ratios.shape[1]]:  # more pairs have been made since
        found = evidence(ratios, margin)
    return _of_one_stage(found, verdicts, margin)


def once(ratios: Floats, margin: float = MARGIN) -> Judgement:
    """The verdicts where all pairs there will be are seen at once: Holm's procedure over all cells, two-sided."""
    found = evidence(ratios, margin)
    called = holm(2 * np.minimum(found.p_slower, found.p_faster), FAMILY_P)
    return _of_one_stage(found, _verdicts(found, called, margin), margin)


def _of_one_stage(found: Evidence, verdicts: NDArray[np.str_], margin: float) -> Judgement:
    alpha, none = np.full(len(verdicts), FAMILY_P / 2 / len(verdicts)), np.zeros(len(verdicts), bool)
    return Judgement(found, verdicts, alpha, left_open(found, verdicts, alpha, margin), none, none)


def _verdicts(found: Evidence, called: Bools, margin: float) -> NDArray[np.str_]:
    name = np.where(found.estimate > 0, Verdict.SLOWER.value, Verdict.FASTER.value)
    rest = np.where(found.is_same, Verdict.SAME.value, Verdict.AMBIGUOUS.value)
    return np.where(called & _beyond(found, margin), name, rest)


def _beyond(found: Evidence, margin: float) -> Bools:
    return np.asarray(np.abs(found.estimate) > np.log1p(margin))


@cache
def spent(number: int, alpha: float) -> float:
    """What a look may spend of `alpha`: what the share of the pairs has grown by since the look before (Kim and DeMets,
    Biometrika 74, 1987, with exponent 1), so that few cells may be decided early."""
    return alpha * (LOOKS[number] - (LOOKS[number - 1] if number else 0.0))


def holm(p: Floats, alpha: float) -> Bools:
    """Which of these hypotheses fall, with a chance of at most `alpha` that any true one does (Holm, Scandinavian
    Journal of Statistics 6, 1979)."""
    order = np.argsort(p)
    falls = np.zeros(len(p), bool)
    falls[order] = np.logical_and.accumulate(p[order] <= alpha / (len(p) - np.arange(len(p))))
    return falls


def detectable(standard_error: Floats | float, pairs: NDArray[np.int64] | int, alpha: Floats | float,
               margin: float = MARGIN, power: Floats | float = POWER) -> Floats:
    """The least effect (0.03: 3 %) that so many pairs call with this power, by a one-sided test at `alpha` and an
    estimate beyond the margin; infinite where even pairs that all agree cannot reach `alpha`. `standard_error` is of
    the estimate's logarithm."""
    errors = np.asarray(standard_error, dtype=float)
    freedom = np.maximum(np.asarray(pairs) - 1, 1)
    by_test = (stdtrit(freedom, power) - stdtrit(freedom, alpha)) * errors
    by_margin = np.log1p(margin) + ndtri(power) * errors
    return np.asarray(np.where(0.5 ** np.asarray(pairs) > alpha, np.inf, np.expm1(np.maximum(by_test, by_margin))))


def left_open(found: Evidence, verdicts: NDArray[np.str_], alpha: Floats, margin: float = MARGIN,
              power: Floats | float = POWER) -> Floats:
    """The minimum detectable effect of each cell (0.03: 3 %): what is called with this power; and of an AMBIGUOUS
    cell no less than its interval reaches, since as much may be there, whatever the test could have seen."""
    effects = detectable(found.standard_error, found.pairs, alpha, margin, power)
    reaches = np.expm1(np.maximum(-found.low, found.high))
    return np.where(verdicts == Verdict.AMBIGUOUS.value, np.maximum(effects, reaches), effects)


def visible_effect(pair_sd: Floats | float, pairs: int, fresh: int, margin: float = MARGIN,
                   alpha: float = FAMILY_P) -> Floats:
    """The least effect that so many pairs will find four times in five, from the standard deviation of a pair's log
    ratio: two stages if there are fresh pairs, each nine times in ten, else one, one-sided at `alpha`."""
    sd = np.asarray(pair_sd, dtype=float) / np.sqrt(NORMAL_EFFICIENCY)
    if not fresh:
        return detectable(sd / np.sqrt(pairs), pairs, alpha, margin)
    power = BOTH_POWER
    first = detectable(sd / np.sqrt(pairs), pairs, SUSPECT_P, margin, power)
    return np.asarray(np.maximum(first, detectable(sd / np.sqrt(fresh), fresh, FAMILY_P, margin, power)))


def pairs_needed(found: Evidence, alpha: Floats | float, margin: float = MARGIN) -> Floats:
    """So many pairs would settle a cell, four times in five, if it is as it looks: SLOWER or FASTER beyond the margin,
    SAME within. Infinite on the margin itself, and where there is no interval."""
    size = np.abs(found.estimate)
    needed = np.full(len(size), np.inf)
    with np.errstate(divide="ignore", invalid="ignore"):  # infinite errors and no pairs
        one_pair = found.standard_error * np.sqrt(found.pairs)
        to_margin = one_pair / np.abs(size - np.log1p(margin))
        for _ in range(3):  # the fewer, the heavier are Student's tails
            freedom = np.maximum(needed, MIN_PAIRS) - 1
            test, equal, power, both = (-stdtrit(freedom, p) for p in
                                        (alpha, (1 - SAME_CONFIDENCE) / 2, 1 - POWER, (1 - POWER) / 2))
            to_call = np.maximum((test + power) * one_pair / size, power * to_margin) ** 2
            to_call = np.maximum(to_call, np.log2(1 / alpha))  # pairs that all agree have p = 1 / 2^pairs
            to_equal = ((equal + both) * to_margin) ** 2
            needed = np.ceil(np.where(_beyond(found, margin), to_call, to_equal))
    return np.asarray(np.where(np.isfinite(one_pair), np.maximum(needed, MIN_PAIRS), np.inf))
