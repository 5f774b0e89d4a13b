"""A rate that was found by simulation, and whether it keeps what is promised.

A rate is over independent replications (tables, runs) and has its 95 % interval after Clopper and Pearson (Biometrika
26, 1934); where a replication has many cells, which hang together, the interval is that of as many independent cells as
would vary like this (Korn and Graubard, Survey Methodology 24, 1998). It passes when its whole interval does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import betainccinv, betaincinv

Values = NDArray[np.float64]

CHANCE = 1e-5  # that one figure fails with fewer replications though it would just pass with all


@dataclass
class Figure:
    """A rate, and between what its interval has to lie; `values` has one for each replication, from 0 to 1."""

    claim: str
    name: str
    values: Values
    least: float = 0.0
    most: float = 1.0

    @property
    def weight(self) -> float:
        """So many independent answers of yes or no vary as these replications do."""
        rate, variance = np.mean(self.values), np.var(self.values) / len(self.values)
        return float(rate * (1 - rate) / variance) if variance > 0 else len(self.values)

    def judge(self, scale: float = 1.0) -> tuple[bool, tuple[float, float], tuple[float, float]]:
        """Whether it passes, its interval and its limits; these are widened where `scale` of the replications, below 1,
        were made."""
        n = self.weight
        low, high = clopper_pearson(float(np.mean(self.values)), n)
        least, most = (_widened(limit, n / min(scale, 1.0), n) for limit in (1 - self.least, self.most))
        return low >= 1 - least and high <= most, (low, high), (1 - least, most)


def clopper_pearson(rate: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """The interval of a rate that was found in `n` independent tries."""
    hits, tail = rate * n, (1 - confidence) / 2
    low = float(betaincinv(hits, n - hits + 1, tail)) if hits > 0 else 0.0
    return low, float(betainccinv(hits + 1, n - hits, tail)) if hits < n else 1.0


def _widened(limit: float, full: float, n: float) -> float:
    """What an upper bound over `n` tries may be for a limit that is meant for `full`. Take the highest rate that passes
    in full: the highest that is then found in `n`, but for a chance of 1 in 100,000, has this bound."""
    if n >= full or limit >= 1 or clopper_pearson(0.0, full)[1] >= limit:
        return limit
    passes = brentq(lambda rate: clopper_pearson(rate, full)[1] - limit, 0.0, limit)
    if clopper_pearson(1.0, n, 1 - 2 * CHANCE)[0] <= passes:  # so few tries that any rate may be found
        return 1.0
    found = brentq(lambda rate: clopper_pearson(rate, n, 1 - 2 * CHANCE)[0] - passes, passes, 1.0)
    return clopper_pearson(float(found), n)[1]
