"""A simulated rate with its interval, and whether it meets its limits.

A rate is over independent replications (tables, runs); its 95 % interval is Clopper and Pearson's
(Biometrika 26, 1934). The cells of a replication are correlated: the interval is then that for the
number of independent cells that would vary the same (Korn and Graubard, Survey Methodology 24,
1998). A rate passes if its whole interval meets the limits.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import betainccinv, betaincinv

CHANCE = 1e-5  # that a rate which just passes with all replications fails with fewer


@dataclass
class Figure:
    """A rate and its limits; `values`, from 0 to 1, has one for each replication."""

    name: str
    values: Sequence[float] | NDArray[Any]
    least: float = 0.0
    most: float = 1.0

    @property
    def weight(self) -> float:
        """The number of independent yes-or-no answers that vary as these replications do."""
        rate, variance = np.mean(self.values), np.var(self.values) / len(self.values)
        return float(rate * (1 - rate) / variance) if variance > 0 else len(self.values)

    def judge(self, scale: float = 1.0) -> tuple[bool, tuple[float, float], tuple[float, float]]:
        """Whether it passes, its interval, and its limits, which are wider for `scale` < 1: the
        share of the replications that ran."""
        n = self.weight
        low, high = clopper_pearson(float(np.mean(self.values)), n)
        least, most = (_widened(limit, n / min(scale, 1.0), n)
                       for limit in (1 - self.least, self.most))
        return low >= 1 - least and high <= most, (low, high), (1 - least, most)


# Runs replications with a generator of random numbers; a claim has a title and some simulations.
Simulation = Callable[[np.random.Generator, int], list[Figure]]


def clopper_pearson(rate: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """The interval of a rate over `n` independent tries; scipy's takes whole numbers only."""
    hits, tail = rate * n, (1 - confidence) / 2
    low = float(betaincinv(hits, n - hits + 1, tail)) if hits > 0 else 0.0
    return low, float(betainccinv(hits + 1, n - hits, tail)) if hits < n else 1.0


def _widened(limit: float, full: float, n: float) -> float:
    """The limit over `n` tries for the upper bound of a rate with `limit` over `full` tries.

    Take the highest rate that passes with `full` tries. Over `n` tries it shows at most a certain
    rate, except by `CHANCE`; the limit is the upper bound of that rate."""
    if n >= full or limit >= 1 or clopper_pearson(0.0, full)[1] >= limit:
        return limit
    passing = brentq(lambda rate: clopper_pearson(rate, full)[1] - limit, 0.0, limit)

    def excess(rate: float) -> float:
        return clopper_pearson(rate, n, 1 - 2 * CHANCE)[0] - passing

    if excess(1.0) <= 0:  # over so few tries any rate is possible
        return 1.0
    return clopper_pearson(float(brentq(excess, passing, 1.0)), n)[1]
