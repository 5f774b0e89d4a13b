"""A cost that grows little by little: `history` tells it as steps, each of a part of its size."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import median_filter
from scipy.special import stdtrit

from reports.trends.changes import OUTLIER, innovations_of, noise_of
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
    smooth = median_filter(log_costs, OUTLIER_WINDOW, mode="nearest")
    most = OUTLIER * noise.spread[0, 0] / np.sqrt(1 - noise.rho[0, 0] ** 2)
    calm = smooth + np.clip(log_costs - smooth, -most, most)

    def centred(values: Floats) -> Floats:
        new = innovations_of(values, noise.rho)
        return np.asarray(new - new.mean(axis=1, keepdims=True))

    places = np.arange(runs)
    [own] = centred(calm[None])
    steps = centred((places >= np.array(firsts)[:, None]).astype(float))
    sizes, *_ = np.linalg.lstsq(steps.T, own, rcond=None)
    ends = np.array(
        [
            (first, first + length)
            for length in np.unique(np.geomspace(LEAST_LENGTH, runs, LENGTHS).astype(int))
            for first in range(1, runs - length + 1)
        ]
        or [(1, runs)]
    )
    first, stop = ends.T[:, :, None]
    ramps = centred(np.clip((places - first + 1) / (stop - first), 0, 1))
    weights = np.sum(ramps**2, axis=1)
    rest = np.sum(own**2) - (ramps @ own) ** 2 / weights
    best = int(np.argmin(rest))
    gain = runs * np.log(np.sum((own - sizes @ steps) ** 2) / rest[best])
    if gain <= (3 - 2 * len(firsts)) * np.log(runs):
        return None

    # Of each creep the sizes that are as likely (profile likelihood).
    deviate = stdtrit(noise.freedom, 0.975)
    less_likely = runs * np.log(rest / rest[best]) / deviate**2
    sizes = ramps @ own / weights
    halves = deviate * noise.spread[0, 0] * np.sqrt(np.maximum(1 - less_likely, 0) / weights)
    likely = less_likely < 1
    low, high = np.min((sizes - halves)[likely]), np.max((sizes + halves)[likely])
    first, last = int(ends[best, 0]), int(ends[best, 1]) - 1
    return Creep(first, last, np.array([sizes[best], low, high]))
