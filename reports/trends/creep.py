"""A cost that grows little by little: `history` tells it as steps, each of a part of its size."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.ndimage import median_filter
from scipy.special import stdtrit

from reports.trends.noise import OUTLIER, noise_of
from reports.verdicts.verdict import Floats

LEAST_LENGTH = 8  # runs, of a creep: a shorter one is a step
LENGTHS = 24  # of creeps that are tried
OUTLIER_WINDOW = 7  # runs, whose median shows which of them is an outlier


@dataclass
class Creep:
    """A change from the run before `first` to the run `last`, both indices; its log ratio, (3,),
    with its 95 % interval."""

    first: int
    last: int
    log_ratio: Floats


def creep_of(log_costs: Floats, firsts: Sequence[int]) -> Creep | None:
    """The creep that explains these runs better than steps before the runs `firsts`, all in one
    direction, by the Bayesian information criterion: a step has a place and a size, a creep two
    places and a size."""
    runs = len(log_costs)
    noise = noise_of(log_costs[None])
    rho, spread = float(noise.rho[0, 0]), float(noise.spread[0, 0])
    most = OUTLIER * float(noise.run_spread[0, 0])
    own = _centred(without_outliers(log_costs, most), rho)

    is_after = np.arange(runs) >= np.array(firsts)[:, None]
    steps = np.array([_centred(each, rho) for each in is_after.astype(float)])
    sizes, *_ = np.linalg.lstsq(steps.T, own, rcond=None)
    rest_of_steps = np.sum((own - sizes @ steps) ** 2)

    lengths = np.unique(np.geomspace(LEAST_LENGTH, runs, LENGTHS).astype(int))
    lengths = lengths[lengths < runs] if runs > LEAST_LENGTH else np.array([runs - 1])
    creeps = pd.concat([_creeps(own, rho, length) for length in lengths.tolist()])
    rest = np.sum(own**2) - creeps["weight"] * creeps["size"] ** 2
    best = creeps.iloc[int(np.argmin(rest))]
    least = rest.min()
    if runs * np.log(rest_of_steps / least) <= (3 - 2 * len(firsts)) * np.log(runs):
        return None

    # Of each creep the sizes that are as likely (profile likelihood).
    deviate = stdtrit(noise.freedom, 0.975)
    less_likely = runs * np.log(rest / least) / deviate**2
    half = deviate * spread * np.sqrt(np.maximum(1 - less_likely, 0) / creeps["weight"])
    is_likely = less_likely < 1
    low = np.min((creeps["size"] - half)[is_likely])
    high = np.max((creeps["size"] + half)[is_likely])
    first, length = int(best["first"]), int(best["length"])
    return Creep(first, first + length - 1, np.array([best["size"], low, high]))


def without_outliers(log_costs: Floats, most: float) -> Floats:
    """Values of which none is further than `most` from the median of those around it."""
    smooth = median_filter(log_costs, OUTLIER_WINDOW, mode="nearest")
    return np.asarray(smooth + np.clip(log_costs - smooth, -most, most))


def _centred(values: Floats, rho: float) -> Floats:
    """Innovations, (runs - 1,), less their mean."""
    new = values[1:] - rho * values[:-1]
    return np.asarray(new - new.mean())


def _creeps(own: Floats, rho: float, length: int) -> pd.DataFrame:
    """All creeps of this length, a row each: the `first` run; the `size` that fits the centred
    innovations `own` by least squares; and its `weight`, the sum of squares of the centred
    innovations of a creep of size 1.

    The innovations of such a creep are `of_ramp` in its runs, and `of_level` in each run after
    them. So a correlation and a cumulative sum fit all creeps; a matrix with a row for each creep
    takes 20 GB for 10,000 runs."""
    ramp = np.arange(length + 1) / length
    of_ramp, of_level = ramp[1:] - rho * ramp[:-1], 1 - rho
    runs_after = np.arange(len(own) - length, -1, -1)
    sum_after = np.cumsum(np.append(own, 0.0)[::-1])[::-1]  # from each innovation on
    product = np.correlate(own, of_ramp) + of_level * sum_after[length:]
    total = of_ramp.sum() + of_level * runs_after
    weight = np.sum(of_ramp**2) + of_level**2 * runs_after - total**2 / len(own)
    first = np.arange(1, len(runs_after) + 1)
    return pd.DataFrame(
        {"first": first, "length": length, "size": product / weight, "weight": weight}
    )
