"""Verdicts from pairs of launches: `evidence` tests each cell, `decide` looks at all of a table.
A pair is a launch of the variant and one of the baseline, next to each other in time and in random
order. Without a difference its log ratio, log of variant over baseline, is symmetric around 0;
Wilcoxon's signed-rank test assumes nothing else. `log_ratios` are (cells, pairs), NaN for a missing
pair."""

from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import bdtr, ndtri, stdtrit  # scipy.stats takes four times as long to import

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Integers = NDArray[np.int64]

# The verdicts on a cell. SLOWER: the variant takes longer than the baseline.
SLOWER = "SLOWER"
FASTER = "FASTER"
SAME = "SAME"
AMBIGUOUS = "AMBIGUOUS"
UNREPLICATED = "unreplicated"

DEFAULT_MARGIN = 0.01  # a difference up to this share is none
FAMILY_P = 0.025
INTERVAL_P = 0.025  # one-sided, of the 95 % interval
SAME_P = 0.05  # one-sided, of the 90 % interval that SAME takes
POWER = 0.80
MIN_PAIRS = 6
MOST_PLANNED = 200  # pairs that a sentence before the launches may ask for
MOST_PAIRS = 1000  # of a campaign: hours of launches


def evidence(log_ratios: Floats, margin: float = DEFAULT_MARGIN) -> pd.DataFrame:
    """Tests every cell over its pairs, all from the Walsh means (i <= j) of its log ratios.

    `log_ratio` is their median (Hodges and Lehmann, Annals of Mathematical Statistics 34, 1963).
    The exact 95 % interval from `log_low` to `log_high` goes from the k-th smallest to the k-th
    largest (Hollander, Wolfe and Chicken, "Nonparametric Statistical Methods", 3.3). Its width
    gives `standard_error`, which one outlying launch hardly moves. Wilcoxon's statistic counts
    those above 0 (Tukey 1949); those at 0 count for the null: one-sided `p_slower` and `p_faster`.
    `is_same` is two one-sided tests (Schuirmann, J. Pharmacokinetics and Biopharmaceutics 15,
    1987): the 90 % interval, which reaches from 0 as far as `log_reach_90`, lies within the margin.
    Below six pairs the interval is infinite and p is 1."""
    pairs = np.sum(np.isfinite(log_ratios), axis=-1)
    blank = {
        "log_ratio": np.nan,
        "log_low": -np.inf,
        "log_high": np.inf,
        "standard_error": np.inf,
        "p_slower": 1.0,
        "p_faster": 1.0,
        "log_reach_90": np.inf,
        "is_same": False,
    }
    columns = {name: np.full(len(pairs), value) for name, value in blank.items()}

    for n in np.unique(pairs[pairs > 0]).tolist():
        rows = pairs == n
        values = log_ratios[rows][np.isfinite(log_ratios[rows])].reshape(-1, n)
        i, j = np.triu_indices(n)
        walsh = np.sort((values[:, i] + values[:, j]) / 2)
        middle = walsh.shape[1] // 2
        columns["log_ratio"][rows] = (walsh[:, middle] + walsh[:, ~middle]) / 2
        if n >= MIN_PAIRS:
            cdf = signed_rank_cdf(n)
            columns["p_slower"][rows] = cdf[np.sum(walsh <= 0, -1)]
            columns["p_faster"][rows] = cdf[np.sum(walsh >= 0, -1)]
            # The interval is infinite if all means are too few for its confidence.
            ends = np.pad(walsh, ((0, 0), (1, 1)), constant_values=(-np.inf, np.inf))
            k, k_same = np.searchsorted(cdf, [INTERVAL_P, SAME_P], side="right")
            columns["log_low"][rows], columns["log_high"][rows] = ends[:, k], ends[:, ~k]
            columns["standard_error"][rows] = (  # few pairs have a higher confidence than 95 %
                (ends[:, ~k] - ends[:, k]) / 2 / stdtrit(n - 1, 1 - cdf[max(k - 1, 0)])
            )
            reach = np.maximum(-ends[:, k_same], ends[:, ~k_same])
            columns["log_reach_90"][rows] = reach
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


def once(log_ratios: Floats, margin: float = DEFAULT_MARGIN) -> pd.DataFrame:
    """Verdicts after one look at all pairs."""
    return decide(evidence(log_ratios, margin), margin)


def decide(cells: pd.DataFrame, margin: float, family_p: float = FAMILY_P) -> pd.DataFrame:
    """The tested cells of a table with their verdicts: Holm's procedure, two-sided, over all cells
    keeps the chance of any false SLOWER or FASTER below `family_p`. Adds `verdict` and
    `detectable`, the minimum detectable effect (0.03: 3 %), if AMBIGUOUS at least the interval's
    far end."""
    is_rejected = holm(2 * np.minimum(cells.p_slower, cells.p_faster), family_p)
    is_beyond = np.abs(cells.log_ratio) > np.log1p(margin)
    direction = np.where(cells.log_ratio > 0, SLOWER, FASTER)
    same = np.where(cells.is_same, SAME, AMBIGUOUS)
    cells = cells.assign(verdict=np.where(is_rejected & is_beyond, direction, same))
    alpha = family_p / 2 / len(cells)  # of the first one-sided test
    effects = detectable(cells, alpha, margin)
    reaches = np.expm1(np.maximum(-cells.log_low, cells.log_high))
    is_open = cells.verdict == AMBIGUOUS
    return cells.assign(detectable=np.where(is_open, np.maximum(effects, reaches), effects))


def holm(p: Any, alpha: float) -> Bools:
    """Which hypotheses are rejected, with a chance of at most `alpha` that any of them is true
    (Holm, Scandinavian Journal of Statistics 6, 1979)."""
    order = np.argsort(p)
    is_below = np.asarray(p)[order] <= alpha / (len(p) - np.arange(len(p)))
    return np.asarray(np.logical_and.accumulate(is_below)[np.argsort(order)])


def pairs_needed(cells: int) -> int:
    """The pairs with which `decide` can tell a difference in one of so many cells: if all pairs
    agree, p is 2^(1 - pairs)."""
    return max(MIN_PAIRS, int(np.ceil(1 - np.log2(FAMILY_P / cells))))


def tolerated_events(pairs: int) -> int:
    """How many pairs may lie far out on one side and leave that end of the 95 % interval where it
    is: m of n pairs are in m n - m (m - 1) / 2 of the Walsh means, of which the end leaves out as
    many as `evidence` says. None of 6 to 11 pairs, 1 of 12, 2 of 17, 4 of 27."""
    left_out = np.searchsorted(signed_rank_cdf(pairs), INTERVAL_P, side="right") - 1
    return sum(bool(m * pairs - m * (m - 1) // 2 <= left_out) for m in range(1, pairs))


def pairs_despite_events(share: float, cells: int) -> int | None:
    """The least pairs with which this share of launches far out leaves an end in none of so many
    equal cells, four times in five; None if not even MOST_PLANNED would."""

    def stand(pairs: int) -> bool:
        return bool(bdtr(tolerated_events(pairs), pairs, share) ** cells >= POWER)

    if not stand(MOST_PLANNED):
        return None
    return next(pairs for pairs in range(MIN_PAIRS, MOST_PLANNED + 1) if stand(pairs))


def detectable(cells: pd.DataFrame, alpha: float, margin: float, power: float = POWER) -> Floats:
    """The smallest effect (0.03: 3 %) in each cell with this power to be significant at one-sided
    `alpha` and estimated beyond the margin; `standard_error` is the log estimate's. Infinite if
    even pairs that all agree cannot reach `alpha`, unless Student's test with a `freedom`
    decides."""
    freedom: Any = cells.get("freedom")
    is_hopeless = (0.5**cells.pairs > alpha) & (freedom is None)
    freedom = np.maximum(cells.pairs - 1, 1) if freedom is None else freedom
    by_test = (stdtrit(freedom, power) - stdtrit(freedom, alpha)) * cells.standard_error
    by_margin = np.log1p(margin) + ndtri(power) * cells.standard_error
    return np.asarray(np.where(is_hopeless, np.inf, np.expm1(np.maximum(by_test, by_margin))))


def resolvable_effects(log_costs: pd.DataFrame, pairs: int, margin: float, cells: int) -> Floats:
    """The slowdowns, as shares, one for each size, that a campaign with a pilot of these
    `log_costs` finds in one cell, and excludes from all cells of equal variants, each with power
    0.8; empty if unknown."""
    is_found = detectable(_pilot_errors(log_costs, pairs), FAMILY_P / 2 / cells, margin)
    return np.asarray(np.maximum(is_found, excludable_effects(log_costs, pairs, margin, cells)))


def excludable_effects(log_costs: pd.DataFrame, pairs: int, margin: float, cells: int) -> Floats:
    """Those that it excludes from all cells of equal variants."""
    return detectable(_pilot_errors(log_costs, pairs), INTERVAL_P, margin, POWER ** (1 / cells))


def _pilot_errors(log_costs: pd.DataFrame, pairs: int) -> pd.DataFrame:
    """The standard error of each size's log ratios over so many pairs. The variance between
    launches is pooled over the cases of a size."""
    logs = log_costs.groupby(["size_bytes", "key"]).log_cost
    variances = logs.var().dropna().groupby("size_bytes").mean()
    # For normal log ratios the signed-rank test has 3 / pi of the efficiency of Student's.
    error = np.sqrt(2 * variances / pairs / (3 / np.pi))
    return pd.DataFrame({"standard_error": error, "pairs": pairs})
