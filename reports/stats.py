"""The statistics of a run, each a short function over numbers: intervals of medians and of ratios, the states of a
link, the length of a warm-up, and the rule that says when a case has been measured well enough.

Nothing here assumes a distribution. Times of a collective are skewed and have several modes, so medians stand in for
means and order statistics for standard errors.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr

Interval = tuple[float, float | None, float | None]

MIN_PRECISE_BLOCKS = 10
STATE_RATIO = 1.5


def median_interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """Median of independent `values` (shape (n,), any unit) and the bounds of its interval, (median, low, high).

    The bounds are the order statistics x_(j) and x_(n-j+1) with the largest j whose binomial coverage
    1 - 2 P(B(n, 1/2) < j) still reaches `confidence`; they hold for any distribution (Le Boudec, "Performance
    Evaluation of Computer and Communication Systems", theorem 2.1; Hoefler and Belli, SC'15, rule 5). Bounds are None
    where no pair of order statistics covers enough: at 95 %, below six values. Raises ValueError without values.
    """
    ordered = np.sort(np.asarray(values, dtype=float))
    n = len(ordered)
    if n == 0:
        raise ValueError("the median of no values")
    tail = (1.0 - confidence) / 2.0
    below = bdtr(np.arange(n // 2), n, 0.5)
    j = int(np.searchsorted(below, tail, side="right"))
    median = float(np.median(ordered))
    if j == 0:
        return median, None, None
    return median, float(ordered[j - 1]), float(ordered[n - j])


def ratio_interval(a: ArrayLike, b: ArrayLike, confidence: float = 0.95) -> Interval:
    """Median of the paired ratios a_i / b_i with its interval, (ratio, low, high).

    `a` and `b` have shape (n,), the same unit, and pair by position: blocks that stood next to each other in time, so
    that what moved both cancels. Taken in logarithms, where a ratio and its inverse are treated alike.
    Raises ValueError when the lengths differ or there are no pairs.
    """
    numerator, denominator = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if numerator.shape != denominator.shape:
        raise ValueError(f"{len(numerator)} values cannot be paired with {len(denominator)}")
    middle, low, high = median_interval(np.log(numerator) - np.log(denominator), confidence)
    return float(np.exp(middle)), _exp(low), _exp(high)


def _exp(value: float | None) -> float | None:
    return None if value is None else float(np.exp(value))


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


def is_precise(block_medians: ArrayLike, relative: float = 0.01) -> bool:
    """Whether at least 10 blocks stand behind the median and half its 95 % interval is within `relative` of it."""
    values = np.asarray(block_medians, dtype=float)
    if len(values) < MIN_PRECISE_BLOCKS:
        return False
    median, low, high = median_interval(values)
    return low is not None and high is not None and (high - low) / 2 <= relative * median
