"""Verdicts from pairs of launches: `evidence` tests cells, `two_stages`, `growing`, `once` decide.

A pair is a launch of the variant and one of the baseline, next to each other in time and in random
order. Without a difference its log ratio is symmetric around 0. Wilcoxon's signed-rank test assumes
nothing else, and its distribution is exact. Shapes: `log_ratios` is (cells, pairs), log of variant
over baseline, NaN for a missing pair; all results are (cells,).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit  # scipy.stats takes four times as long to import

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Integers = NDArray[np.int64]
Words = NDArray[np.str_]

# The verdicts on a cell. SLOWER: the variant takes longer than the baseline.
VERDICTS = SLOWER, FASTER, SAME, AMBIGUOUS, UNREPLICATED = (
    "SLOWER", "FASTER", "SAME", "AMBIGUOUS", "unreplicated")
MARGIN = 0.01
SUSPECT_P = 0.05
FAMILY_P = 0.025
SAME_CONFIDENCE = 0.90
POWER = 0.80
BOTH_POWER = float(np.sqrt(POWER))  # the power of each of two stages that reach POWER together
MIN_PAIRS = 6
LOOKS = (0.25, 0.5, 1.0)  # shares of all pairs
NORMAL_EFFICIENCY = 3 / np.pi  # signed-rank test against Student's, for normal log ratios


@dataclass
class Evidence:
    """The tests of each cell; ratios as logarithms. Below six pairs the 95 % interval from `low` to
    `high` is infinite and the one-sided p-values of "slower" and "faster" are 1."""

    pairs: Integers
    estimate: Floats
    low: Floats
    high: Floats
    p_slower: Floats
    p_faster: Floats
    is_same: Bools

    @property
    def standard_error(self) -> Floats:
        """The estimate's, from the width of the interval: one outlying launch hardly moves it."""
        t = stdtrit(np.maximum(self.pairs - 1, 1), 0.975)
        return np.asarray((self.high - self.low) / 2 / t)

    def is_beyond(self, margin: float) -> Bools:
        """Which estimates differ from 0 by more than the margin, a share."""
        return np.asarray(np.abs(self.estimate) > np.log1p(margin))


def evidence(log_ratios: Floats, margin: float = MARGIN,
             same_confidence: float = SAME_CONFIDENCE) -> Evidence:
    """Tests every cell over its pairs, all from the Walsh means (i <= j) of its log ratios.

    The estimate is their median (Hodges and Lehmann, Annals of Mathematical Statistics 34, 1963).
    The exact interval goes from the k-th smallest to the k-th largest (Hollander, Wolfe and
    Chicken, "Nonparametric Statistical Methods", 3.3). Wilcoxon's statistic counts those above 0
    (Tukey 1949); those at 0 count for the null. SAME is two one-sided tests (Schuirmann,
    J. Pharmacokinetics and Biopharmaceutics 15, 1987): the interval of `same_confidence` lies
    within the margin.
    """
    pairs = np.sum(np.isfinite(log_ratios), axis=-1)
    estimate, low, high, p_slower, p_faster = np.tile(
        [[np.nan], [-np.inf], [np.inf], [1.0], [1.0]], len(pairs))
    result = Evidence(pairs, estimate, low, high, p_slower, p_faster, np.zeros(len(pairs), bool))
    for n in np.unique(pairs[pairs > 0]).tolist():
        rows = pairs == n
        values = log_ratios[rows][np.isfinite(log_ratios[rows])].reshape(-1, n)
        i, j = np.triu_indices(n)
        walsh = np.sort((values[:, i] + values[:, j]) / 2)
        middle = walsh.shape[1] // 2
        result.estimate[rows] = (walsh[:, middle] + walsh[:, ~middle]) / 2
        if n >= MIN_PAIRS:
            cdf = signed_rank_cdf(n)
            result.p_slower[rows] = cdf[np.sum(walsh <= 0, -1)]
            result.p_faster[rows] = cdf[np.sum(walsh >= 0, -1)]
            result.low[rows], result.high[rows] = _interval(walsh, cdf, 0.95)
            low, high = _interval(walsh, cdf, same_confidence)
            result.is_same[rows] = (low > -np.log1p(margin)) & (high < np.log1p(margin))
    return result


def _interval(walsh: Floats, cdf: Floats, confidence: float) -> tuple[Floats, Floats]:
    k = int(np.searchsorted(cdf, (1 - confidence) / 2, side="right"))
    if k == 0:
        return np.full(len(walsh), -np.inf), np.full(len(walsh), np.inf)
    return walsh[:, k - 1], walsh[:, -k]


@cache
def signed_rank_cdf(n: int) -> Floats:
    """P(T <= t) of Wilcoxon's T for t = 0 ... n (n + 1) / 2: T includes each rank with probability
    1/2. scipy has p-values only."""
    probabilities = np.ones(1)
    for rank in range(1, n + 1):
        probabilities = np.pad(probabilities, (0, rank)) / 2 + np.pad(probabilities, (rank, 0)) / 2
    return np.minimum(np.cumsum(probabilities), 1.0)


@dataclass
class Judgement(Evidence):
    """The verdict on each cell, and the evidence for it: over fresh pairs if `is_fresh`.

    `alpha` is the level of its one-sided test. `detectable` is its minimum detectable effect (0.03:
    3 %); in an AMBIGUOUS cell at least the far end of the interval, where an effect may hide."""

    verdict: Words
    alpha: Floats
    detectable: Floats
    is_suspect: Bools
    is_fresh: Bools


def two_stages(first_ratios: Floats, fresh_ratios: Floats, margin: float = MARGIN,
               is_finished: bool = True) -> Judgement:
    """Verdicts by two stages: only a suspect can be SLOWER or FASTER, and only by its fresh pairs.

    A suspect is beyond the margin with one-sided p < 0.05. Its fresh pairs are tested in the same
    direction; Holm's procedure keeps the chance of any false SLOWER or FASTER in the table below
    2.5 %. Before the campaign is finished suspects are AMBIGUOUS, since each look at incomplete
    pairs would be another chance of a false verdict.
    """
    first = evidence(first_ratios, margin)
    is_significant = np.minimum(first.p_slower, first.p_faster) < SUSPECT_P
    is_suspect = first.is_beyond(margin) & is_significant
    fresh = evidence(np.where(is_suspect[:, None], fresh_ratios, np.nan), margin)
    p = np.where(first.estimate > 0, fresh.p_slower, fresh.p_faster)
    is_rejected = np.zeros(len(p), bool)
    is_rejected[is_suspect] = holm(p[is_suspect], FAMILY_P)
    is_fresh = is_suspect & (fresh.pairs > 0)
    shown = Evidence(*(np.where(is_fresh, getattr(fresh, field.name), getattr(first, field.name))
                       for field in fields(Evidence)))
    verdict = _verdict(shown, is_rejected, margin)
    if not is_finished:
        verdict[is_suspect] = AMBIGUOUS
    alpha = np.where(is_fresh, FAMILY_P / max(1, int(np.sum(is_suspect))), SUSPECT_P)
    effects = left_open(shown, verdict, alpha, margin, np.where(is_fresh, POWER, BOTH_POWER))
    return Judgement(**vars(shown), verdict=verdict, alpha=alpha, detectable=effects,
                     is_suspect=is_suspect, is_fresh=is_fresh)


def growing(ratios: Floats, looks: Sequence[int], margin: float = MARGIN,
            shares: Sequence[float] = LOOKS) -> Judgement:
    """Verdicts after looks at growing numbers of pairs, such as [10, 20] out of 40.

    A look's level is its share of the new pairs, so that few cells are decided early (Kim and
    DeMets, Biometrika 74, 1987, with exponent 1). Holm's procedure holds it over all cells; levels
    add up over the looks (Lan and DeMets, Biometrika 70, 1983). A verdict is never revised.
    """
    verdict = np.full(len(ratios), AMBIGUOUS)
    for pairs, share in zip(looks, np.diff(shares, prepend=0.0), strict=False):
        look = evidence(ratios[:, :pairs], margin, 1 - share * (1 - SAME_CONFIDENCE))
        is_rejected = holm(2 * np.minimum(look.p_slower, look.p_faster), share * FAMILY_P)
        verdict = np.where(verdict == AMBIGUOUS, _verdict(look, is_rejected, margin), verdict)
    shown = evidence(ratios, margin)
    alpha, none = np.full(len(ratios), FAMILY_P / 2 / len(ratios)), np.zeros(len(ratios), bool)
    return Judgement(**vars(shown), verdict=verdict, alpha=alpha, is_suspect=none, is_fresh=none,
                     detectable=left_open(shown, verdict, alpha, margin))


def once(ratios: Floats, margin: float = MARGIN) -> Judgement:
    """Verdicts after a single look at all pairs: Holm's procedure over all cells, two-sided."""
    return growing(ratios, [ratios.shape[1]], margin, shares=[1.0])


def _verdict(result: Evidence, is_rejected: Bools, margin: float) -> Words:
    direction = np.where(result.estimate > 0, SLOWER, FASTER)
    rest = np.where(result.is_same, SAME, AMBIGUOUS)
    return np.where(is_rejected & result.is_beyond(margin), direction, rest)


def holm(p: Floats, alpha: float) -> Bools:
    """Which hypotheses are rejected, with a chance of at most `alpha` that any of them is true
    (Holm, Scandinavian Journal of Statistics 6, 1979)."""
    order = np.argsort(p)
    is_rejected = np.zeros(len(p), bool)
    is_below = p[order] <= alpha / (len(p) - np.arange(len(p)))
    is_rejected[order] = np.logical_and.accumulate(is_below)
    return is_rejected


def detectable(standard_error: Floats | float, pairs: Integers | int, alpha: Floats | float,
               margin: float = MARGIN, power: Floats | float = POWER) -> Floats:
    """The smallest effect (0.03: 3 %) with this power to be significant at one-sided `alpha` and
    estimated beyond the margin; `standard_error` is the log estimate's. Infinite if even pairs that
    all agree cannot reach `alpha`."""
    freedom = np.maximum(np.asarray(pairs) - 1, 1)
    by_test = (stdtrit(freedom, power) - stdtrit(freedom, alpha)) * standard_error
    by_margin = np.log1p(margin) + ndtri(power) * standard_error
    is_hopeless = 0.5 ** np.asarray(pairs) > alpha
    return np.asarray(np.where(is_hopeless, np.inf, np.expm1(np.maximum(by_test, by_margin))))


def left_open(result: Evidence, verdict: Words, alpha: Floats, margin: float = MARGIN,
              power: Floats | float = POWER) -> Floats:
    """The minimum detectable effect of each cell, as in `Judgement`."""
    effects = detectable(result.standard_error, result.pairs, alpha, margin, power)
    reaches = np.expm1(np.maximum(-result.low, result.high))
    return np.where(verdict == AMBIGUOUS, np.maximum(effects, reaches), effects)


def visible_effect(pair_sd: Floats | float, pairs: int, fresh: int, margin: float = MARGIN,
                   alpha: float = FAMILY_P) -> Floats:
    """The smallest effect that a plan detects with power 0.8, from the standard deviation of a
    pair's log ratio. With fresh pairs both stages must detect it; without, one test at
    `alpha`."""
    sd = np.asarray(pair_sd, dtype=float) / np.sqrt(NORMAL_EFFICIENCY)
    if not fresh:
        return detectable(sd / np.sqrt(pairs), pairs, alpha, margin)
    stages = (detectable(sd / np.sqrt(n), n, p, margin, BOTH_POWER)
              for n, p in ((pairs, SUSPECT_P), (fresh, FAMILY_P)))
    return np.asarray(np.maximum(*stages))


def pairs_needed(result: Evidence, alpha: Floats | float, margin: float = MARGIN) -> Floats:
    """The number of pairs that settle each cell with power 0.8 if its estimate is true: as SLOWER
    or FASTER beyond the margin, as SAME within. Infinite on the margin and without an interval."""
    size = np.abs(result.estimate)
    needed = np.full(len(size), np.inf)
    with np.errstate(divide="ignore", invalid="ignore"):  # infinite errors and no pairs
        pair_sd = result.standard_error * np.sqrt(result.pairs)
        sd_to_margin = pair_sd / np.abs(size - np.log1p(margin))
        for _ in range(3):  # Student's quantiles depend on the number of pairs
            freedom = np.maximum(needed, MIN_PAIRS) - 1
            levels = alpha, (1 - SAME_CONFIDENCE) / 2, 1 - POWER, (1 - POWER) / 2
            test, same, power, both_powers = (-stdtrit(freedom, level) for level in levels)
            to_differ = np.maximum((test + power) * pair_sd / size, power * sd_to_margin) ** 2
            to_differ = np.maximum(to_differ, np.log2(1 / alpha))  # n pairs reach p = 1 / 2^n
            to_equal = ((same + both_powers) * sd_to_margin) ** 2
            needed = np.ceil(np.where(result.is_beyond(margin), to_differ, to_equal))
    return np.asarray(np.where(np.isfinite(pair_sd), np.maximum(needed, MIN_PAIRS), np.inf))
