"""Statistics of a fit: a line for each launch, breaks between lines, intervals over launches.

Shapes: `times_us` is (..., launches, sizes), `sizes` (sizes,) in bytes, ascending. Anything that
repeats the whole curve may stand for a launch, such as a group of its blocks. Only the test of a
break assumes a distribution of the launches.
"""

from collections.abc import Sequence
from itertools import combinations, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtrc

from reports.verdicts.verdict import Floats, signed_rank_cdf

MIN_SIZES = 3  # of a line
MIN_LAUNCHES = 5  # for an interval
MOST_BREAKS = 2
BREAK_P = 0.05
LEAST_MISFIT = 0.05


def fit_lines(sizes: Floats, times_us: Floats) -> tuple[Floats, Floats]:
    """(alpha in us, slope in us a byte) of each launch's line, both (..., launches).

    Least squares relative to the median over launches at each size: times span three decades, and
    each size counts the same."""
    weight = np.median(times_us, axis=-2, keepdims=True) ** -2.0
    total = np.sum(weight, axis=-1)
    centre = np.sum(weight * sizes, axis=-1) / total
    away = sizes - centre[..., None]
    slope = np.sum(weight * away * times_us, axis=-1) / np.sum(weight * away**2, axis=-1)
    return np.sum(weight * times_us, axis=-1) / total - slope * centre, slope


def residuals(sizes: Floats, times_us: Floats) -> Floats:
    """How far the median over launches lies above its own line, as a share, (..., sizes)."""
    median_us = np.median(times_us, axis=-2, keepdims=True)
    alpha, slope = fit_lines(sizes, median_us)
    line_us = alpha[..., None] + slope[..., None] * sizes
    return np.asarray((1 - line_us / median_us)[..., 0, :])


def p_of_one_line(sizes: Floats, times_us: Floats, at: int) -> Floats:
    """p of "the first `at` sizes and the others lie on one line", (...); 1 below three launches.

    Hotelling's T^2 (Annals of Mathematical Statistics 2, 1931) of the differences between both
    lines, launch by launch: exact for normal launches, however a launch's sizes correlate."""
    launches = times_us.shape[-2]
    if launches < 3:
        return np.ones(times_us.shape[:-2])
    level = np.mean(times_us / np.median(times_us, axis=-2, keepdims=True), axis=-1)
    below = np.stack(fit_lines(sizes[:at], times_us[..., :at]))
    above = np.stack(fit_lines(sizes[at:], times_us[..., at:]))
    differences = (below - above) / level
    means = differences.mean(axis=-1)
    a, b = differences - means[..., None]
    aa, ab, bb = np.sum(a * a, -1), np.sum(a * b, -1), np.sum(b * b, -1)
    determinant = aa * bb - ab**2
    squared = means[0] ** 2 * bb - 2 * means[0] * means[1] * ab + means[1] ** 2 * aa
    # Launches without scatter differ for certain, or not at all.
    exact = np.where(np.any(means != 0, axis=0), np.inf, 0.0)
    ratio = np.divide(squared, determinant, out=exact, where=determinant > 0)
    return np.asarray(fdtrc(2, launches - 2, (launches - 2) / 2 * launches * ratio))


def breaks(sizes: Floats, times_us: Floats,
           least_misfit: float = LEAST_MISFIT) -> list[tuple[int, ...]]:
    """The indices of sizes at which new lines begin, for each of `times_us` (n, launches, sizes).

    As many breaks as are significant, at most two, at the places with the least squares of
    residuals; each line has at least three sizes."""
    n = times_us.shape[-1]
    squares = {(i, j): np.sum(residuals(sizes[i:j], times_us[..., i:j]) ** 2, axis=-1)
               for i, j in combinations(range(n + 1), 2) if j - i >= MIN_SIZES}
    chosen: list[tuple[int, ...]] = [()] * len(times_us)
    for count in range(1, MOST_BREAKS + 1):
        places = [place for place in combinations(range(n), count)
                  if all(piece in squares for piece in pieces(place, n))]
        if not places:
            break
        sums = [sum(squares[piece] for piece in pieces(place, n)) for place in places]
        best = np.argmin(sums, axis=0)
        for number in np.unique(best).tolist():
            rows = np.flatnonzero(best == number)
            ends = [0, *places[number], n]
            significant = [_is_break(sizes[i:k], times_us[rows, :, i:k], j - i, n, least_misfit)
                           for i, j, k in zip(ends, ends[1:], ends[2:], strict=False)]
            for row in rows[np.all(significant, axis=0)].tolist():
                chosen[row] = places[number]
    return chosen


def pieces(at: Sequence[int], n: int) -> list[tuple[int, int]]:
    """The first and last index, exclusive, of each line over `n` sizes with breaks `at`."""
    return list(pairwise([0, *at, n]))


def _is_break(sizes: Floats, times_us: Floats, at: int, n: int,
              least_misfit: float) -> NDArray[np.bool_]:
    """Whether one line misses a size by `least_misfit`, and two lines differ significantly.

    The place was chosen among all places; neighbouring places are correlated, so n of them count as
    n^(2/3) tests. With that, p at the best place is uniform (simulated for 6 to 20 sizes and 5 to
    20 launches)."""
    places = n - 2 * MIN_SIZES + 1
    misfit = np.max(np.abs(residuals(sizes, times_us)), axis=-1)
    p = p_of_one_line(sizes, times_us, at)
    return np.asarray((misfit > least_misfit) & (p < BREAK_P / places ** (2 / 3)))


def walsh_means(values: Any) -> Floats:
    """The means of all pairs along the last axis, each value with itself included."""
    i, j = np.triu_indices(values.shape[-1])
    return np.asarray((values[..., i] + values[..., j]) / 2)


def interval(walsh: Floats, launches: int, is_piece: bool = False) -> tuple[Floats, Floats, Floats]:
    """(estimate, low, high) from `walsh_means`, or from ratios of two, along the last axis.

    Hodges and Lehmann's estimate and its exact 95 % interval, as in `verdict.evidence`; infinite
    below five launches. The range of five has 93.75 %: 5 % more on either side makes it 95 % for
    normal launches. The ends of a piece were chosen by the same times, which leaves 94.5 %: 1 %
    more on either side makes it 95 %."""
    ordered = np.sort(walsh, axis=-1)
    middle = ordered.shape[-1] // 2
    estimate = (ordered[..., middle] + ordered[..., ~middle]) / 2
    if launches < MIN_LAUNCHES:
        return estimate, np.full_like(estimate, -np.inf), np.full_like(estimate, np.inf)
    k = max(1, int(np.searchsorted(signed_rank_cdf(launches), 0.025, side="right")))
    low, high = ordered[..., k - 1], ordered[..., -k]
    more = (0.05 * (launches == MIN_LAUNCHES) + 0.01 * is_piece) * (high - low)
    return estimate, low - more, high + more
