"""Statistics of a run. Times of a collective are skewed and multimodal, so no function assumes a
distribution: medians replace means, and order statistics replace standard errors."""

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wiretax.common.grouped import grouped

Interval = tuple[float, float | None, float | None]

MIN_INTERVAL_VALUES, MIN_PRECISE_BLOCKS = 6, 10
SIGMAS = 1.96  # of a normal distribution, to each side: 95 %
MOST_HALF = float(np.log(1e6))  # of an interval of logarithms: a wider one tells nothing


def median_interval(values: ArrayLike, rho: float = 0.0, are_differences: bool = False) -> Interval:
    """(median, low, high) of `values` (shape (n,), any unit; above 0 unless they `are_differences`
    of such values), whose neighbours have the correlation `rho`; low and high bound the 95 %
    interval, which fewer than six lack. Raises ValueError without values.

    The bounds are quantiles of the values, for any distribution (Le Boudec, "Performance Evaluation
    of Computer and Communication Systems", section 2.2): the number of values below their median is
    almost normal, with the variance of the signs of an AR(1), whose correlation at lag k is
    2/pi arcsin(rho^k) (Van Vleck and Middleton, Proc. IEEE 54, 1966). Values that weigh less than
    six independent ones get Student's bounds: differences as they are, others of their logarithms,
    or none if these are beyond a factor of a million."""
    ordered = np.sort(np.asarray(values, dtype=float))
    n = len(ordered)

    if n == 0:
        raise ValueError("the median of no values")

    median = float(ordered[(n - 1) // 2 : n // 2 + 1].mean())
    if n < MIN_INTERVAL_VALUES:
        return median, None, None

    rho = round(rho, 2)
    weight = n / sign_inflation(n, rho)  # as so many independent values
    if weight < MIN_INTERVAL_VALUES and are_differences:
        half = _student_half_width(ordered, rho)
        return median, median - half, median + half
    if weight < MIN_INTERVAL_VALUES:
        is_positive = ordered[0] > 0
        half = _student_half_width(np.log(ordered), rho) if is_positive else np.inf
        if half > MOST_HALF:
            return median, None, None
        return median, median * float(np.exp(-half)), median * float(np.exp(half))

    # In ranks; the last factor holds the coverage at 95 to 96 % for few values too.
    half = SIGMAS / 2 * n / np.sqrt(weight) * (1 - 0.6 / weight)
    ranks = np.arange(n) - (n - 1) / 2
    low, high = np.interp([-half, half], ranks, ordered)
    return median, float(low), float(high)


@cache
def sign_inflation(n: int, rho: float) -> float:
    """The factor by which correlation raises the variance of a count of n signs of an AR(1)."""
    lag = np.arange(1, n)
    return float(1 + 2 * np.sum((1 - lag / n) * 2 / np.pi * np.arcsin(rho**lag)))


def _student_half_width(values: NDArray[np.float64], rho: float) -> float:
    """Half the interval of the median of an AR(1). Its variance is pi/2 times that of the mean;
    correlation lowers variance and degrees of freedom (Satterthwaite, Biometrics 2, 1946)."""
    n = len(values)
    centred = np.eye(n) - 1 / n
    lags = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    covariance = centred @ rho**lags @ centred
    freedom = np.trace(covariance) ** 2 / np.sum(covariance**2)
    variance = np.sum(_calm_deviations(values) ** 2) / np.trace(covariance)
    half = np.sqrt(np.pi / 2 * variance * sign_inflation(n, rho) / n)
    return float(student_quantile(freedom) * half)


def student_quantile(freedom: ArrayLike, sigmas: float = SIGMAS) -> NDArray[np.float64]:
    """How many standard errors of Student's distribution cover as much as so many of a normal one,
    by default 95 %, in the shape of `freedom`: to 1 % from three degrees on, and more than it takes
    below (Wallace, Annals of Mathematical Statistics 30, 1959). Importing scipy would delay each
    run by 0.3 s."""
    freedom = np.asarray(freedom, dtype=float)
    scale = sigmas * (8 * freedom + 3) / (8 * freedom + 1)
    return np.asarray(np.sqrt(freedom * np.expm1(scale**2 / freedom)))


def clipped(deviations: NDArray[np.float64], most: float) -> NDArray[np.float64]:
    """Deviations from a centre, along the last axis, up to `most` robust standard deviations:
    otherwise one outlier dominates the variance."""
    # 0.6745 is the median absolute deviation of a normal distribution with sigma 1.
    limit = most * np.median(np.abs(deviations), axis=-1, keepdims=True) / 0.6745
    return np.asarray(np.clip(deviations, -limit, limit))


def _calm_deviations(logs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Deviations from the mean, along the last axis, without the weight of outliers."""
    calm = clipped(logs - np.median(logs, axis=-1, keepdims=True), 3)
    return np.asarray(calm - calm.mean(axis=-1, keepdims=True))


def autocorrelation(series: Sequence[ArrayLike]) -> float:
    """Correlation of neighbouring values, from 0 to 0.95, as in an AR(1), pooled over `series`,
    (n,), above 0, in order of time. A short series hides (1 + 4 rho) / n of it (Marriott and Pope,
    Biometrika 41, 1954) and, by simulation, rho^4 / n more: the estimate adds both."""
    every = (np.log(np.asarray(values, dtype=float)) for values in series)
    varied = (logs for logs in every if len(logs) >= MIN_INTERVAL_VALUES and np.ptp(logs) > 0)
    by_length = grouped(varied, len)
    if not by_length:
        return 0.0

    estimates = list[float]()
    for logs in by_length.values():  # (series, n) at once
        deviations = _calm_deviations(np.array(logs))
        squares = np.sum(deviations**2, axis=-1)
        lagged = np.sum(deviations[:, 1:] * deviations[:, :-1], axis=-1)
        estimates += np.divide(
            lagged, squares, out=np.zeros_like(lagged), where=squares > 0
        ).tolist()

    hidden = np.mean([1 / n for n, logs in by_length.items() for _ in logs])
    rho = (np.mean(estimates) + hidden) / (1 - 4 * hidden)
    return float(np.clip(rho + hidden * rho**4, 0, 0.95))


def warmup_length(times: ArrayLike) -> int:
    """The number of leading iterations of `times`, (n,), that are warm-up, at most half: Pettitt's
    changepoint test (Applied Statistics 28, 1979) compares the ranks before and after t; its
    largest U_t, K, has p = 2 exp(-6 K^2 / (n^3 + n^2)). A slower part with p < 0.01 goes."""
    values, start = np.asarray(times, dtype=float), 0
    while start < len(values) // 2:
        rest = values[start:]
        n = len(rest)
        _, position, counts = np.unique(rest, return_inverse=True, return_counts=True)
        ranks = (np.cumsum(counts) - (counts - 1) / 2)[position]
        u = 2.0 * np.cumsum(ranks)[:-1] - np.arange(1, n) * (n + 1)
        change = int(np.argmax(np.abs(u)))
        p = 2.0 * np.exp(-6.0 * u[change] ** 2 / (float(n) ** 3 + float(n) ** 2))
        if p >= 0.01 or u[change] < 0:
            break
        start += change + 1

    return min(start, len(values) // 2)


def is_precise(block_medians: ArrayLike, rho: float = 0.0) -> bool:
    """Whether 10 blocks or more have half a 95 % interval within 1 % of the median."""
    if np.size(block_medians) < MIN_PRECISE_BLOCKS:
        return False

    median, low, high = median_interval(block_medians, rho=rho)
    return low is not None and high is not None and (high - low) / 2 <= 0.01 * median
