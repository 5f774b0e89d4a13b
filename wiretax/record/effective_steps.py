"""How many independent steps the steps of a case are worth, and what so many bound: steps of a
block are alike, and slow ones come together, so a case is worth fewer steps than it has.

The design effect of a share of steps is its variance between clusters over that of independent
steps (Kish, "Survey Sampling", 1965). The bounds are those of a binomial with the steps that are
left (Korn and Graubard, Survey Methodology 24, 1998)."""

from math import ceil, log
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from wiretax.record.histogram import Tally
from wiretax.record.stats import student_quantile

LEAST_BLOCKS = 12  # of one launch, for an interval: as many as `-n` measures
LEAST_LAUNCHES = 5  # of several
OUTSIDE = 0.025  # of a 95 % interval, on each side
Floats = NDArray[np.float64]


def effective_needed(share: float, outside: float = OUTSIDE) -> int:
    """How many independent steps it takes before a percentile has an upper end: otherwise all are
    below it with a chance of `outside` or more. 368 for P99."""
    return ceil(log(outside) / log(share))


def has_interval(steps: Tally) -> bool:
    """Whether there are enough blocks, or enough launches if there is more than one."""
    n_launches = len(np.unique(steps.launches))
    if n_launches == 1:
        return len(steps.launches) >= LEAST_BLOCKS
    return n_launches >= LEAST_LAUNCHES


def effective(steps: Tally, below: Floats, outside: float = OUTSIDE) -> Floats:
    """How many independent steps tell as much of the share of steps below each limit, (limits,),
    given the steps of each block below it, (blocks, limits). At most the steps themselves.

    The clusters are the launches, or the blocks of a single one. Then neighbours may be correlated,
    as an AR(1), whose correlation is estimated as `stats.autocorrelation` does. What the variance
    is beyond that of independent steps is raised by it, and by Student's quantile. Clusters of
    unequal size are worth fewer (Kish, section 8.2): a large one sets the mean that its own
    deviation is taken from."""
    n_in = steps.counts.sum(axis=1)
    shares = below.sum(axis=0) / steps.n
    excess = below - shares * n_in[:, None]
    launches = np.unique(steps.launches, return_inverse=True)[1]
    inflation = np.ones(len(shares))
    if launches.max():
        of_launches = np.zeros((int(launches.max()) + 1, len(shares)))
        np.add.at(of_launches, launches, excess)
        excess, n_in = of_launches, np.bincount(launches, n_in)
    else:
        inflation = _inflation(excess)

    n = max(n_in.sum() ** 2 / (n_in**2).sum(), 2.0)
    variance = np.sum(excess**2, axis=0) * n / (n - 1)
    independent = shares * (1 - shares) * steps.n
    beyond = np.divide(variance, independent, out=np.ones(len(shares)), where=independent > 0) - 1
    # The deviations from a mean hide what their correlation adds to the mean itself.
    hidden = (inflation - 1) / (n - 1)
    sigmas = NormalDist().inv_cdf(1 - outside)
    wider = (student_quantile(np.maximum(n / inflation - 1, 1), sigmas) / sigmas) ** 2
    design = 1 + np.maximum(beyond, 0) * inflation / (1 - hidden) * wider
    return np.asarray(np.maximum(steps.n / design, 1))


def _inflation(excess: Floats) -> Floats:
    """The factor by which the correlation of neighbouring rows raises the variance of their sum, of
    (blocks, limits): (limits,)."""
    n = len(excess)
    squares = np.sum(excess**2, axis=0)
    lagged = np.sum(excess[1:] * excess[:-1], axis=0)
    found = np.divide(lagged, squares, out=np.zeros(len(squares)), where=squares > 0)
    rho = np.clip((found + 1 / n) / (1 - 4 / n), 0, 0.9)
    lags = np.arange(1, n)[:, None]
    return np.asarray(1 + 2 * np.sum((1 - lags / n) * rho**lags, axis=0))


def rank_bounds(n: float, share: float, outside: float = OUTSIDE) -> tuple[float, float]:
    """The shares of n independent steps, ranked, between which a percentile is with 95 %, or with
    1 - 2 `outside`. The upper one is 1 below `effective_needed`."""
    counts, at_least = _binomial(int(n), share)
    low, high = np.interp([outside - 1, -outside], -at_least, counts)
    return float(low) / int(n), float(high) / int(n)


def share_bounds(n: float, found: float) -> tuple[float, float]:
    """The 95 % interval of a share of which n independent steps found this one (Clopper and
    Pearson, Biometrika 26, 1934): none found leaves at most 3.7 / n."""
    bounds = list[float]()
    for count, chance in ((found * int(n), OUTSIDE), (found * int(n) + 1, 1 - OUTSIDE)):
        low, high = 0.0, 1.0
        for _ in range(40):
            middle = (low + high) / 2
            counts, at_least = _binomial(int(n), middle)
            if np.interp(count, counts, at_least, right=0.0) < chance:
                low = middle
            else:
                high = middle
        bounds.append(middle)
    return bounds[0] if found else 0.0, bounds[1]


def _binomial(n: int, share: float) -> tuple[Floats, Floats]:
    """Counts out of n, and the chance of at least so many: those within ten standard deviations, by
    the ratios of neighbours' chances, because scipy would delay each run."""
    reach = 10 * np.sqrt(n * share * (1 - share)) + 30
    counts = np.arange(max(0, int(n * share - reach)), min(n, int(n * share + reach)) + 1)
    ratios = (n - counts[:-1]) / counts[1:] * share / (1 - share)
    logs = np.append(0.0, np.cumsum(np.log(ratios)))
    chances = np.exp(logs - logs.max())
    at_least = np.cumsum(chances[::-1])[::-1]
    return counts.astype(float), at_least / at_least[0]
