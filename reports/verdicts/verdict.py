"""Verdicts from pairs of launches: `evidence` tests each cell, `once` decides over all of a table.
A pair is a launch of the variant and one of the baseline, next to each other in time and in random
order. Without a difference its log ratio is symmetric around 0; Wilcoxon's signed-rank test assumes
nothing else. Ratios are (cells, pairs), log of variant over baseline, NaN for a missing pair."""

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit  # scipy.stats takes four times as long to import

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Integers = NDArray[np.int64]
# `evidence`, or a test that gives its columns.
Test = Callable[[Floats, float], "pd.DataFrame"]

# The verdicts on a cell. SLOWER: the variant takes longer than the baseline.
VERDICTS = SLOWER, FASTER, SAME, AMBIGUOUS, UNREPLICATED = (
    "SLOWER",
    "FASTER",
    "SAME",
    "AMBIGUOUS",
    "unreplicated",
)
MARGIN = 0.01
FAMILY_P = 0.025
INTERVAL_P = 0.025  # one-sided, of the 95 % interval
SAME_P = 0.05  # one-sided, of the 90 % interval that SAME takes
POWER = 0.80
MIN_PAIRS = 6


def evidence(log_ratios: Floats, margin: float = MARGIN) -> "pd.DataFrame":
    """Tests every cell over its pairs, all from the Walsh means (i <= j) of its log ratios.

    `estimate` is their median (Hodges and Lehmann, Annals of Mathematical Statistics 34, 1963). The
    exact 95 % interval from `low` to `high` goes from the k-th smallest to the k-th largest
    (Hollander, Wolfe and Chicken, "Nonparametric Statistical Methods", 3.3). Its width gives
    `standard_error`, which one outlying launch hardly moves. Wilcoxon's statistic counts those
    above 0 (Tukey 1949); those at 0 count for the null: one-sided `p_slower` and `p_faster`.
    `is_same` is two one-sided tests (Schuirmann, J. Pharmacokinetics and Biopharmaceutics 15,
    1987): the 90 % interval lies within the margin. Below six pairs the interval is infinite and p
    is 1."""
    import pandas as pd  # takes 0.3 s, which a history does not need

    pairs = np.sum(np.isfinite(log_ratios), axis=-1)
    blank = {
        "estimate": np.nan,
        "low": -np.inf,
        "high": np.inf,
        "standard_error": np.inf,
        "p_slower": 1.0,
        "p_faster": 1.0,
        "is_same": False,
    }
    columns = {name: np.full(len(pairs), value) for name, value in blank.items()}
    for n in np.unique(pairs[pairs > 0]).tolist():
        rows = pairs == n
        values = log_ratios[rows][np.isfinite(log_ratios[rows])].reshape(-1, n)
        i, j = np.triu_indices(n)
        walsh = np.sort((values[:, i] + values[:, j]) / 2)
        middle = walsh.shape[1] // 2
        columns["estimate"][rows] = (walsh[:, middle] + walsh[:, ~middle]) / 2
        if n >= MIN_PAIRS:
            cdf = signed_rank_cdf(n)
            columns["p_slower"][rows] = cdf[np.sum(walsh <= 0, -1)]
            columns["p_faster"][rows] = cdf[np.sum(walsh >= 0, -1)]
            # The interval is infinite if all means are too few for its confidence.
            ends = np.pad(walsh, ((0, 0), (1, 1)), constant_values=(-np.inf, np.inf))
            k, k_same = np.searchsorted(cdf, [INTERVAL_P, SAME_P], side="right")
            columns["low"][rows], columns["high"][rows] = ends[:, k], ends[:, ~k]
            columns["standard_error"][rows] = (  # few pairs have a higher confidence than 95 %
                (ends[:, ~k] - ends[:, k]) / 2 / stdtrit(n - 1, 1 - cdf[max(k - 1, 0)])
            )
            reach = np.maximum(-ends[:, k_same], ends[:, ~k_same])
            columns["is_same"][rows] = reach < np.log1p(margin)
    return pd.DataFrame({"pairs": pairs, **columns})


@cache
def signed_rank_cdf(n: int) -> Floats:
    """P(T <= t) of Wilcoxon's T for t = 0 ... n (n + 1) / 2: T includes each rank with probability
    1/2. scipy has p-values only."""
    probabilities = np.ones(1)
    for rank in range(1, n + 1):
        probabilities = np.pad(probabilities, (0, rank)) / 2 + np.pad(probabilities, (rank, 0)) / 2
    return np.minimum(np.cumsum(probabilities), 1.0)


def once(
    ratios: Floats, margin: float = MARGIN, test: Test = evidence, family_p: float = FAMILY_P
) -> "pd.DataFrame":
    """Verdicts after one look at all pairs: Holm's procedure, two-sided, over all cells keeps the
    chance of any false SLOWER or FASTER in the table below `family_p`. Returns the columns of
    `test`; `verdict`; `alpha`, the level of the first one-sided test; `detectable`, the minimum
    detectable effect (0.03: 3 %), if AMBIGUOUS at least the interval's far end."""
    cells = test(ratios, margin)
    is_rejected = holm(2 * np.minimum(cells.p_slower, cells.p_faster), family_p)
    cells = cells.assign(
        alpha=family_p / 2 / len(cells), verdict=_verdict(cells, is_rejected, margin)
    )
    effects = detectable(
        cells.standard_error, cells.pairs, cells.alpha, margin, freedom=cells.get("freedom")
    )
    reaches = np.expm1(np.maximum(-cells.low, cells.high))
    is_open = cells.verdict == AMBIGUOUS
    return cells.assign(detectable=np.where(is_open, np.maximum(effects, reaches), effects))


def _verdict(cells: "pd.DataFrame", is_rejected: Bools, margin: float) -> NDArray[np.str_]:
    is_beyond = np.abs(cells.estimate) > np.log1p(margin)
    direction = np.where(cells.estimate > 0, SLOWER, FASTER)
    return np.where(is_rejected & is_beyond, direction, np.where(cells.is_same, SAME, AMBIGUOUS))


def holm(p: Any, alpha: float) -> Bools:
    """Which hypotheses are rejected, with a chance of at most `alpha` that any of them is true
    (Holm, Scandinavian Journal of Statistics 6, 1979)."""
    order = np.argsort(p)
    is_below = np.asarray(p)[order] <= alpha / (len(p) - np.arange(len(p)))
    return np.asarray(np.logical_and.accumulate(is_below)[np.argsort(order)])


def detectable(
    standard_error: Any,
    pairs: Any,
    alpha: Any,
    margin: float = MARGIN,
    power: float = POWER,
    freedom: Any = None,
) -> Floats:
    """The smallest effect (0.03: 3 %) with this power to be significant at one-sided `alpha` and
    estimated beyond the margin; `standard_error` is the log estimate's. Infinite if even pairs that
    all agree cannot reach `alpha`, unless Student's test with this `freedom` decides."""
    is_hopeless = (0.5**pairs > alpha) & (freedom is None)
    freedom = np.maximum(pairs - 1, 1) if freedom is None else freedom
    by_test = (stdtrit(freedom, power) - stdtrit(freedom, alpha)) * standard_error
    by_margin = np.log1p(margin) + ndtri(power) * standard_error
    return np.asarray(np.where(is_hopeless, np.inf, np.expm1(np.maximum(by_test, by_margin))))


def pairs_needed(cells: "pd.DataFrame", alpha: Any, margin: float = MARGIN) -> Floats:
    """The number of pairs that settle each cell with power 0.8 if its estimate is true: as SLOWER
    or FASTER beyond the margin, as SAME within. Infinite on the margin and without an interval."""
    size, needed = np.abs(cells.estimate), np.full(len(cells), np.inf)
    with np.errstate(divide="ignore", invalid="ignore"):  # infinite errors and no pairs
        pair_sd = cells.standard_error * np.sqrt(cells.pairs)
        sd_to_margin = pair_sd / np.abs(size - np.log1p(margin))
        for _ in range(3):  # Student's quantiles depend on the number of pairs
            freedom = np.maximum(needed, MIN_PAIRS) - 1
            levels = alpha, SAME_P, 1 - POWER, (1 - POWER) / 2
            test, same, power, both_powers = (-stdtrit(freedom, level) for level in levels)
            to_differ = np.maximum((test + power) * pair_sd / size, power * sd_to_margin) ** 2
            to_differ = np.maximum(to_differ, np.log2(1 / alpha))  # n pairs reach p = 1 / 2^n
            to_equal = ((same + both_powers) * sd_to_margin) ** 2
            needed = np.ceil(np.where(size > np.log1p(margin), to_differ, to_equal))
    return np.where(np.isfinite(pair_sd), np.maximum(needed, MIN_PAIRS), np.inf)
