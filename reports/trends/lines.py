"""The statistics of a fit: lines through times, time = alpha + size / beta, one for each launch; where one line does
not do; and what the launches together say of a figure.

Shapes: `times_us` is (..., launches, sizes), `sizes` (sizes,) in bytes, ascending. What stands for a launch may be
anything that repeats the whole curve, such as a group of its blocks. Nothing here assumes how launches scatter, but for
the test of a break.
"""

from __future__ import annotations

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


def lines(sizes: Floats, times_us: Floats) -> tuple[Floats, Floats]:
    """(alpha in us, slope in us a byte) of each launch's line, both (..., launches), by least squares relative to the
    median of the launches at each size: times span three decades, and each is to count as much as another."""
    weight = np.median(times_us, axis=-2, keepdims=True) ** -2.0
    total = np.sum(weight, axis=-1)
    centre = np.sum(weight * sizes, axis=-1) / total
    apart = sizes - centre[..., None]
    slope = np.sum(weight * apart * times_us, axis=-1) / np.sum(weight * apart**2, axis=-1)
    return np.sum(weight * times_us, axis=-1) / total - slope * centre, slope


def residuals(sizes: Floats, times_us: Floats) -> Floats:
    """How far the launches' median lies above its own line at each size, as a share, (..., sizes)."""
    median_us = np.median(times_us, axis=-2, keepdims=True)
    alpha, slope = lines(sizes, median_us)
    return np.asarray((1 - (alpha[..., None] + slope[..., None] * sizes) / median_us)[..., 0, :])


def differ(sizes: Floats, times_us: Floats, at: int) -> Floats:
    """p of "the first `at` sizes and the others are on one line", (...): Hotelling's T^2 (Annals of Mathematical
    Statistics 2, 1931) of the differences, launch by launch, between the lines of both; exact for normal launches,
    however the sizes of a launch hang together. 1 for fewer than three launches."""
    launches = times_us.shape[-2]
    if launches < 3:
        return np.ones(times_us.shape[:-2])
    level = np.mean(times_us / np.median(times_us, axis=-2, keepdims=True), axis=-1)
    apart = np.stack([(one - other) / level for one, other in zip(
        lines(sizes[:at], times_us[..., :at]), lines(sizes[at:], times_us[..., at:]), strict=True)])
    (a, b), means = apart - apart.mean(axis=-1, keepdims=True), apart.mean(axis=-1)
    aa, ab, bb = np.sum(a * a, -1), np.sum(a * b, -1), np.sum(b * b, -1)
    spread = aa * bb - ab**2
    squared = np.divide(means[0] ** 2 * bb - 2 * means[0] * means[1] * ab + means[1] ** 2 * aa, spread,
                        out=np.where(np.any(means != 0, axis=0), np.inf, 0.0), where=spread > 0)
    return np.asarray(fdtrc(2, launches - 2, (launches - 2) / 2 * launches * squared))


def breaks(sizes: Floats, times_us: Floats, least_misfit: float = LEAST_MISFIT) -> list[tuple[int, ...]]:
    """Before which sizes new lines begin, for each of `times_us` (n, launches, sizes): the most breaks, two at most, of
    which the data ask for each. They lie where lines of at least three sizes leave the least squares of residuals."""
    n = times_us.shape[-1]
    squares = {(i, j): np.sum(residuals(sizes[i:j], times_us[..., i:j]) ** 2, axis=-1)
               for i, j in combinations(range(n + 1), 2) if j - i >= MIN_SIZES}
    found: list[tuple[int, ...]] = [()] * len(times_us)
    for count in range(1, MOST_BREAKS + 1):
        ways = [way for way in combinations(range(n), count) if all(piece in squares for piece in pieces(way, n))]
        if not ways:
            break
        best = np.argmin([sum(squares[piece] for piece in pieces(way, n)) for way in ways], axis=0)
        for way in np.unique(best).tolist():
            rows = np.flatnonzero(best == way)
            ends = [0, *ways[way], n]
            asked = np.all([_asked_for(sizes[i:k], times_us[rows, :, i:k], j - i, n, least_misfit)
                            for i, j, k in zip(ends, ends[1:], ends[2:], strict=False)], axis=0)
            for row in rows[asked].tolist():
                found[row] = ways[way]
    return found


def pieces(at: Sequence[int], n: int) -> list[tuple[int, int]]:
    """From and to which of `n` sizes each line goes."""
    return list(pairwise([0, *at, n]))


def _asked_for(sizes: Floats, times_us: Floats, at: int, n: int, least_misfit: float) -> NDArray[np.bool_]:
    """Whether a break is: one line would miss a size by `least_misfit`, and two differ by more than chance, though the
    place was chosen among all that there are. Neighbouring places tell much the same, so n of them count as n^(2/3):
    that brings the chance of a small p at the best place to p (simulated for 6 to 20 sizes, 5 to 20 launches)."""
    places = n - 2 * MIN_SIZES + 1
    misfit = np.max(np.abs(residuals(sizes, times_us)), axis=-1)
    return np.asarray((misfit > least_misfit) & (differ(sizes, times_us, at) < BREAK_P / places ** (2 / 3)))


def walsh_means(values: Any) -> Floats:
    """The means of any two values along the last axis, each with itself included."""
    values = np.asarray(values, dtype=float)
    i, j = np.triu_indices(values.shape[-1])
    return np.asarray((values[..., i] + values[..., j]) / 2)


def interval(walsh: Floats, launches: int, is_piece: bool = False) -> tuple[Floats, Floats, Floats]:
    """(estimate, low, high) from `walsh_means`, or ratios of those of two quantities, along the last axis: Hodges and
    Lehmann's estimate and its exact 95 % interval, as in `verdict.evidence`; infinite below five launches. Five have
    93.75 % between the least and the greatest; a twentieth more on either side makes it 95 % where they are normal. Of
    a piece (`is_piece`), whose ends were chosen by the same times, 94.5 % are 95 % with a hundredth more."""
    ordered = np.sort(walsh, axis=-1)
    middle = ordered.shape[-1] // 2
    estimate = (ordered[..., middle] + ordered[..., ~middle]) / 2
    if launches < MIN_LAUNCHES:
        return estimate, np.full_like(estimate, -np.inf), np.full_like(estimate, np.inf)
    k = max(1, int(np.searchsorted(signed_rank_cdf(launches), 0.025, side="right")))
    low, high = ordered[..., k - 1], ordered[..., -k]
    more = (0.05 * (launches == MIN_LAUNCHES) + 0.01 * is_piece) * (high - low)
    return estimate, low - more, high + more
