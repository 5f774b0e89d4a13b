"""The noise of series over the same runs: an AR(1), in which neighbouring runs have the correlation
`rho`. An innovation is what a run adds to `rho` times the run before. Values are (series, runs),
innovations (series, runs - 1)."""

from typing import NamedTuple

import numpy as np

from reports.verdicts.verdict import Floats
from wiretax.record.stats import clipped

OUTLIER = 3.0  # robust standard deviations that a run or a difference counts at the most
DIFFERENCE_FREEDOM = 2 / 3  # that a difference of neighbours adds (von Neumann, 1941)
RHO_VARIANCE = 3.0  # of an estimated rho, times the runs, by simulation: 2 at rho 0, 3 at 0.4
# What is assumed of rho before runs show it: of series, and how far the median over them differs.
USUAL_RHO, RHO_SD, MIDDLE_RHO_SD = 0.3, 0.3, 0.2
# By simulation, so that months without a change hold with few series and heavy tails: the factors
# by which what is not known of rho, and outliers, lower the degrees of freedom.
RHO_PRICE, TAIL_PRICE = 1.2, 1.0
NORMAL_TAIL = 0.0027  # the share of normal values beyond three standard deviations
MOST_RHO = 0.9
LEAST_SPREAD = 1e-4  # of logarithms: 0.01 %
ROUNDING = 1e-12  # of logarithms, and more than that of numbers


class Noise(NamedTuple):
    """The correlation of neighbouring runs and the standard deviation of innovations, (series, 1),
    and the degrees of freedom of the latter."""

    rho: Floats
    spread: Floats
    freedom: float

    @property
    def run_spread(self) -> Floats:
        """The standard deviation of runs, (series, 1)."""
        return np.asarray(self.spread / np.sqrt(1 - self.rho**2))

    def of(self, series: int) -> "Noise":
        return Noise(self.rho[[series]], self.spread[[series]], self.freedom)


def innovations_of(values: Floats, rho: Floats) -> Floats:
    return values[:, 1:] - rho * values[:, :-1]


def calm(units: Floats, most: float | Floats) -> Floats:
    """Values of which none is further than `most` from their median."""
    middle = np.median(units, axis=1, keepdims=True)
    return np.clip(units, middle - most, middle + most)


def noise_of(values: Floats, least_rho: float | None = None, price: float = RHO_PRICE) -> Noise:
    """The noise of series, from differences of neighbours, of which a step disturbs one. Series
    share what chance explains: an empirical Bayes estimate of rho and of the variance (Smyth,
    Statistical Applications in Genetics and Molecular Biology 3, 2004). Their mean rho is shrunk
    towards a usual one or, for the median over series, towards that of their deviations,
    `least_rho`, below which it is not."""
    n, runs = values.shape
    steps = clipped(np.diff(values), OUTLIER)
    squares = np.mean(steps**2, axis=1, keepdims=True)
    # Neighbouring differences of an AR(1) have the correlation (rho - 1) / 2. Series that do not
    # differ, but for rounding, show none.
    products = np.mean(steps[:, 1:] * steps[:, :-1], axis=1, keepdims=True)
    shows = squares > ROUNDING**2
    rho = np.where(shows, 1 + 2 * products / np.where(shows, squares, 1.0), USUAL_RHO)
    error = RHO_VARIANCE / runs
    own_share = max(0.0, 1 - error / max(np.var(rho), 1e-9))
    usual, scatter = (USUAL_RHO, RHO_SD) if least_rho is None else (least_rho, MIDDLE_RHO_SD)
    trust = scatter**2 / (scatter**2 + error / n)
    mean = usual + trust * (rho.mean() - usual)
    rho = np.clip(mean + own_share * (rho - rho.mean()), least_rho or 0.0, MOST_RHO)
    steps = clipped(np.diff(innovations_of(values, rho)), OUTLIER)
    variance = np.maximum(np.mean(steps**2, axis=1, keepdims=True) / 2, LEAST_SPREAD**2)
    freedom = DIFFERENCE_FREEDOM * runs
    if n > 1:
        # The logarithm of a variance has the variance 2 / degrees of freedom.
        excess = max(float(np.var(np.log(variance))) - 2 / freedom, 1e-9)
        prior = min(2 / excess, 2 * freedom)
        shared = np.exp(np.mean(np.log(variance)))
        variance = (freedom * variance + prior * shared) / (freedom + prior)
        freedom += prior

    # What is not known of rho: the variance of a level has the factor (1 + rho) / (1 - rho).
    unknown = price * trust * error / np.sqrt(max(n - 2, 1)) / (1 - float(np.mean(rho)) ** 2) ** 2
    # Heavy tails: differences beyond three standard deviations, more than chance and steps make.
    units = np.abs(np.diff(innovations_of(values, rho))) / np.sqrt(2 * variance)
    tails = np.mean(units > 3) - NORMAL_TAIL - 2 * np.sqrt(NORMAL_TAIL / units.size)
    heavy = TAIL_PRICE * max(0.0, float(tails) - 4 / units.size)
    return Noise(rho, np.sqrt(variance), 1 / (1 / freedom + unknown + heavy))
