"""The statistics of a run, each a short function over numbers: intervals of medians and of ratios, the states of a
link, the length of a warm-up, and the rule that says when a case has been measured well enough.

Nothing here assumes a distribution. Times of a collective are skewed and have several modes, so medians stand in for
means and order statistics for standard errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

Interval = tuple[float, float | None, float | None]

MIN_PRECISE_BLOCKS = 10
MIN_INTERVAL_VALUES = 6
RHOS = np.array([0.0, 0.15, 0.3, 0.45, 0.6, 0.7, 0.8, 0.9, 0.95])
MOST_SIMULATED = 100  # values of a series; beyond, its mean hides next to nothing
STATE_RATIO = 1.5


def median_interval(values: ArrayLike, confidence: float = 0.95, rho: float = 0.0) -> Interval:
    """Median of `values` (shape (n,), above 0, any unit) and the bounds of its interval, (median, low, high).

    `rho` is the correlation of neighbouring values (`autocorrelation`). The bounds are the order statistics x_(j) and
    x_(n-j+1), for any distribution (Le Boudec, "Performance Evaluation of Computer and Communication Systems", theorem
    2.1; Hoefler and Belli, SC'15, rule 5), interpolated to meet `confidence` (Hettmansperger and Sheather, Statistics
    and Probability Letters 4, 1986). How many of n correlated values lie below their median is beta-binomial here,
    with the variance that the signs of an AR(1) have: their correlation at lag k is 2/pi arcsin(rho^k) (Van Vleck and
    Middleton, Proc. IEEE 54, 1966). Values that weigh no more than six independent ones have too few order statistics;
    then the bounds are Student's, in logarithms. None below six values. Raises ValueError without values.
    """
    ordered = np.sort(np.asarray(values, dtype=float))
    n = len(ordered)
    if n == 0:
        raise ValueError("the median of no values")
    median = float(ordered[(n - 1) // 2 : n // 2 + 1].mean())
    if n < MIN_INTERVAL_VALUES:
        return median, None, None
    rho = round(rho, 2)
    if n / sign_inflation(n, rho) < MIN_INTERVAL_VALUES:
        if ordered[0] <= 0:
            return median, None, None
        half = _student_half_width(np.log(ordered), confidence, rho)
        return median, median * float(np.exp(-half)), median * float(np.exp(half))
    j, weight = _order_statistics(n, confidence, rho)
    low = (1 - weight) * ordered[j - 1] + weight * ordered[j]
    high = (1 - weight) * ordered[n - j] + weight * ordered[n - j - 1]
    return median, float(low), float(high)


@cache
def sign_inflation(n: int, rho: float) -> float:
    """How many times the variance of a count of signs grows when n of them come from an AR(1) with `rho`."""
    lag = np.arange(1, n)
    return float(1 + 2 * np.sum((1 - lag / n) * 2 / np.pi * np.arcsin(rho**lag)))


@cache
def _order_statistics(n: int, confidence: float, rho: float) -> tuple[int, float]:
    """Which order statistic bounds the interval, and how far to move towards the next one inside."""
    within = (sign_inflation(n, rho) - 1) / (n - 1)
    below, drawn = np.arange(n // 2), np.arange(n)
    # A beta-binomial from its recurrence, as logarithms; scipy's functions take longer to import than a rank to start.
    if within <= 0:
        none, more = n * np.log(0.5), np.log((n - below) / (below + 1))
    else:
        shape = (1 / within - 1) / 2
        none = np.sum(np.log((shape + drawn) / (2 * shape + drawn)))
        more = np.log((n - below) / (below + 1) * (below + shape) / (n - below - 1 + shape))
    tails = np.cumsum(np.exp(none + np.concatenate([[0.0], np.cumsum(more)])))
    covered = np.maximum(1 - 2 * tails, 0.0)
    j = max(1, int(np.sum(covered >= confidence)))
    outer, inner = covered[j - 1], covered[j]
    part = np.clip((outer - confidence) / (outer - inner), 0.0, 1.0)
    return j, float((n - j) * part / (j + (n - 2 * j) * part))


def _student_half_width(logs: NDArray[np.float64], confidence: float, rho: float) -> float:
    """Half the interval of the median of an AR(1) with `rho`: a median's variance is pi/2 of a mean's; the sample's
    variance falls short of the process's, with fewer degrees of freedom (Satterthwaite, Biometrics 2, 1946)."""
    from scipy.special import stdtrit

    n = len(logs)
    centred = np.eye(n) - 1 / n
    covariance = centred @ (rho ** np.abs(np.subtract.outer(np.arange(n), np.arange(n)))) @ centred
    freedom = np.trace(covariance) ** 2 / np.sum(covariance**2)
    variance = np.sum(_clipped(logs) ** 2) / np.trace(covariance)
    quantile = stdtrit(freedom, (1 + confidence) / 2)
    return float(quantile * np.sqrt(np.pi / 2 * variance * sign_inflation(n, rho) / n))


def _clipped(logs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Deviations from the mean, along the last axis, after values further than three robust deviations from the median
    are drawn in: one outlier would otherwise be all of the variance."""
    deviations = logs - np.median(logs, axis=-1, keepdims=True)
    most = 3 * np.median(np.abs(deviations), axis=-1, keepdims=True) / 0.6745
    deviations = np.clip(deviations, -most, most)
    return np.asarray(deviations - deviations.mean(axis=-1, keepdims=True))


def autocorrelation(series: Sequence[ArrayLike]) -> float:
    """Correlation of neighbouring values, from 0 to 0.95, as of an AR(1), pooled over `series` (each of shape (n,),
    above 0, in order of time): a dozen values cannot tell theirs, the dozens of cases of a run together can.

    A short series hides its correlation behind its own mean (Kendall, Biometrika 41, 1954). So the mean of what is
    found in each is held against what is found in simulated ones of the same lengths.
    """
    by_length: dict[int, list[NDArray[np.float64]]] = {}
    for values in series:
        logs = np.log(np.asarray(values, dtype=float))
        if len(logs) >= MIN_INTERVAL_VALUES and np.ptp(logs) > 0:
            by_length.setdefault(len(logs), []).append(logs)
    found = [lag for logs in by_length.values() for lag in _lag_1(np.array(logs))]
    expected = [_expected_lag_1(min(n, MOST_SIMULATED)) for n, logs in by_length.items() for _ in logs]
    return float(np.interp(np.mean(found), np.mean(expected, axis=0), RHOS)) if found else 0.0


def _lag_1(logs: NDArray[np.float64]) -> NDArray[np.float64]:
    deviations = _clipped(logs)
    squares = np.sum(deviations**2, axis=-1)
    lagged = np.sum(deviations[..., 1:] * deviations[..., :-1], axis=-1)
    return np.asarray(np.divide(lagged, squares, out=np.zeros_like(lagged), where=squares > 0))


@cache
def _expected_lag_1(n: int) -> NDArray[np.float64]:
    """What is found on average in n values of an AR(1), for each of RHOS; from 2,000 of each, the same every time."""
    noise = np.random.default_rng(n).normal(size=(2000, n))
    means = []
    for rho in RHOS:
        series = noise.copy()
        for turn in range(1, n):
            series[:, turn] = rho * series[:, turn - 1] + np.sqrt(1 - rho**2) * noise[:, turn]
        means.append(_lag_1(series).mean())
    return np.array(means)


def ratio_interval(a: ArrayLike, b: ArrayLike, confidence: float = 0.95, rho: float = 0.0) -> Interval:
    """Median of the paired ratios a_i / b_i with its interval, (ratio, low, high).

    `a` and `b` have shape (n,), the same unit, and pair by position: blocks that stood next to each other in time, so
    that what moved both cancels.
    Raises ValueError when the lengths differ or there are no pairs.
    """
    numerator, denominator = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if numerator.shape != denominator.shape:
        raise ValueError(f"{len(numerator)} values cannot be paired with {len(denominator)}")
    return median_interval(numerator / denominator, confidence, rho)


def link_states(log_rtt: ArrayLike) -> NDArray[np.int64]:
    """The state of the link for each logarithm of a flag round trip, shape (n,); 0 is the fastest.

    A state is a hump of the values' density (a Gaussian kernel, Silverman 1986) that lies 1.5x from any higher one and
    stands out by more than half its height, so that there is a valley on the way to a higher one. One hump, however
    wide, is one state.
    """
    values = np.asarray(log_rtt, dtype=float)
    if not len(values):
        return np.zeros(0, dtype=np.int64)
    width = np.log(STATE_RATIO) / 3
    step = width / 8
    grid = np.arange(values.min() - 4 * width, values.max() + 4 * width, step)
    at, counts = np.unique(np.round((values - grid[0]) / step).astype(int), return_counts=True)
    density = np.exp(-0.5 * ((grid[:, None] - grid[at]) / width) ** 2) @ counts
    peaks = np.flatnonzero((density[1:-1] > density[:-2]) & (density[1:-1] >= density[2:])) + 1
    humps: list[int] = []
    for peak in sorted(peaks.tolist(), key=lambda peak: -density[peak]):
        ways = [slice(*sorted((peak, higher))) for higher in humps]
        if all((way.stop - way.start) * step >= np.log(STATE_RATIO) and density[way].min() < 0.5 * density[peak]
               for way in ways):
            humps.append(peak)
    valleys = [left + int(np.argmin(density[left:right])) for left, right in pairwise(sorted(humps))]
    return np.searchsorted(grid[valleys], values).astype(np.int64)


def warmup_length(times: ArrayLike) -> int:
    """How many leading iterations of `times` (shape (n,), any unit) belong to the warm-up.

    Pettitt's changepoint test (Applied Statistics 28, 1979): U_t compares the ranks before t with those after, its
    largest value K has p = 2 exp(-6 K^2 / (n^3 + n^2)). While p < 0.01 and the part before is the slower one, that
    part is dropped and the rest is tested again. Never more than half.
    """
    values = np.asarray(times, dtype=float)
    start = 0
    while len(rest := values[start:]) >= 2:
        n = len(rest)
        _, position, counts = np.unique(rest, return_inverse=True, return_counts=True)
        ranks = (np.cumsum(counts) - (counts - 1) / 2)[position]
        u = 2.0 * np.cumsum(ranks)[:-1] - np.arange(1, n) * (n + 1)
        change = int(np.argmax(np.abs(u)))
        p = 2.0 * np.exp(-6.0 * u[change] ** 2 / (float(n) ** 3 + float(n) ** 2))
        if p >= 0.01 or u[change] < 0:
            break
        start += change + 1
        if start >= len(values) // 2:
            return len(values) // 2
    return start


def is_precise(block_medians: ArrayLike, rho: float = 0.0, relative: float = 0.01) -> bool:
    """Whether at least 10 blocks stand behind the median and half its 95 % interval is within `relative` of it."""
    values = np.asarray(block_medians, dtype=float)
    if len(values) < MIN_PRECISE_BLOCKS:
        return False
    median, low, high = median_interval(values, rho=rho)
    return low is not None and high is not None and (high - low) / 2 <= relative * median
