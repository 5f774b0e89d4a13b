"""Estimates how series of runs scatter around their levels; `changes` tests steps against it.

Values are logarithms of costs, (series, runs). Neighbouring runs are correlated, so each series is
modelled as an AR(1). Outliers are winsorised: drawn in towards the median of the runs around them.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]

OUTLIER_RUNS, CORRELATION_RUNS = 9, 17  # windows of running medians
MOST_VALUE, MOST_INNOVATION = 5.0, 3.5  # winsorising limits, in robust standard deviations
# By simulation: the lag-1 correlation of deviations from the running median at rho = 0, its slope
# over rho, and the variance of the estimated rho, times the number of runs.
ZERO_RHO, RHO_SLOPE, RHO_VARIANCE = -0.035, 0.87, 1.3
LEAST_VARIANCE = 1e-8  # of a logarithm: a spread of 0.01 %
DIFFERENCE_RUNS = 2 / 3  # degrees of freedom that a difference of neighbours adds to the variance


class Noise(NamedTuple):
    """The scatter around the levels: the correlation of neighbouring runs, (series, 1); the mean
    excess kurtosis; and a prior for the innovations' variance, worth `prior_runs` runs."""

    rho: Floats
    excess: float
    variance: float
    prior_runs: float


def estimate_noise(values: Floats) -> tuple[Floats, Noise]:
    """The innovations of all runs but the first, (series, runs - 1), and the noise."""
    calm = winsorise(values, MOST_VALUE)
    rho = correlations(calm)
    new = innovations(calm, rho)
    return new, Noise(rho, kurtosis(new), *variance_prior(new))


def running_median(values: Floats, width: int) -> Floats:
    """The median of `width` runs around each run, (series, runs); it preserves steps."""
    half = width // 2
    windows = np.lib.stride_tricks.sliding_window_view(values, width, axis=-1)
    medians = np.partition(windows, half, axis=-1)[..., half]
    return np.pad(medians, [(0, 0), (half, half)], mode="edge")


def winsorise(values: Floats, most: float) -> Floats:
    """The values, (series, runs), at most `most` robust standard deviations from their median."""
    medians = running_median(values, OUTLIER_RUNS)
    limit = most * 1.4826 * np.median(np.abs(values - medians), axis=-1, keepdims=True)
    return np.asarray(medians + np.clip(values - medians, -limit, limit))


def innovations(calm: Floats, rho: Floats | float) -> Floats:
    """The AR(1) innovations of all runs but the first, (series, runs - 1), winsorised."""
    return winsorise(calm[:, 1:] - rho * calm[:, :-1], MOST_INNOVATION)


def correlations(calm: Floats) -> Floats:
    """The correlation of neighbouring runs, from 0 to 0.9, of each series, (series, 1).

    Differences over two runs against differences over one give a first estimate for all series.
    The rest shows in the innovations' deviations from their running median, which steps do not
    bend. An empirical Bayes estimate shrinks each series towards the mean of all."""
    by_one, by_two = (np.mean(squared_differences(calm, lag)) for lag in (1, 2))
    first = float(np.clip(by_two / by_one - 1, 0, 0.9)) if by_one > 0 else 0.0
    new = innovations(calm, first)
    away = new - running_median(new, CORRELATION_RUNS)
    squares = np.mean(np.square(away), axis=-1)
    lagged = np.mean(away[:, 1:] * away[:, :-1], axis=-1)
    lag_1 = np.divide(lagged, squares, out=np.full_like(lagged, ZERO_RHO), where=squares > 0)
    rest = (lag_1 - ZERO_RHO) / RHO_SLOPE
    chance = RHO_VARIANCE / new.shape[-1]
    beyond = max(0.0, float(np.var(rest)) - chance)
    weight = beyond / (beyond + chance)
    # A correlation that is too low costs false alarms; one that is too high costs little.
    own = weight * (rest - rest.mean()) + np.sqrt(weight * chance) / 4
    return np.asarray(np.clip(first + rest.mean() + own, 0, 0.9))[:, None]


def squared_differences(values: Floats, lag: int) -> Floats:
    """Squared differences over `lag` runs; large ones, as across a step, are capped."""
    squares = np.square(values[:, lag:] - values[:, :-lag])
    return np.asarray(np.minimum(squares, 20 * np.median(squares, axis=-1, keepdims=True)))


def variance_prior(new: Floats) -> tuple[float, float]:
    """The innovations' variance over all series, and the runs that it counts for: more, the more
    alike the series are (Smyth, Statistical Applications in Genetics and Molecular Biology 3,
    2004, with the logarithm's variance as 2 / degrees of freedom)."""
    variances = squared_differences(new, 1).mean(axis=-1) / 2
    logs = np.log(np.maximum(variances, LEAST_VARIANCE))
    own = new.shape[-1] * DIFFERENCE_RUNS
    between = max(float(np.var(logs)) - 2 / own, 1e-9)
    runs = min(2 / between, 2 * own) if len(new) > 1 else 0.0
    return float(np.exp(np.mean(logs))), float(runs)


def pooled_variance(new: Floats, noise: Noise) -> tuple[Floats, float]:
    """The innovations' variance of each series, (series, 1), and its degrees of freedom, from
    differences of neighbours and the prior."""
    squares = squared_differences(new, 1).mean(axis=-1, keepdims=True) / 2
    own = (new.shape[-1] + 1) * DIFFERENCE_RUNS
    freedom = own + noise.prior_runs
    total = np.maximum(squares, LEAST_VARIANCE) * own + noise.variance * noise.prior_runs
    return total / freedom, freedom


def kurtosis(new: Floats) -> float:
    """The mean excess kurtosis of the series, at least 0."""
    away = new - np.median(new, axis=-1, keepdims=True)
    squares = np.mean(np.square(away), axis=-1)
    fourth = np.mean(away**4, axis=-1)
    own = np.divide(fourth, squares**2, out=np.full_like(squares, 3.0), where=squares > 0)
    return max(float(np.mean(own)) - 3, 0.0)
