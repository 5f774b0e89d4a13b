"""Finds steps in the level of series over the same runs, in order of time.

Values are logarithms of costs, (series, runs). A step is tested on the innovations of each series'
AR(1), which `noise` estimates, by generalised least squares (GLS). docs/experiments/history.md
cites the sources.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc, ndtri, stdtrit

from reports.trends.noise import LEAST_VARIANCE, Floats, Noise, estimate_noise, pooled_variance

MIN_RUNS = 20
PASSES = 3
FAR_ABOVE = 9.0  # median deviations (six standard deviations) that a step is above the scatter
# Nominal chance of any alarm in a history without changes, for a step at one of the last `LATEST`
# places, an earlier step, a step that was reverted, and a step that many series share.
LATEST_ALPHA, EARLIER_ALPHA, REVERTED_ALPHA, SHARED_ALPHA = 0.017, 0.006, 0.005, 0.004
LATEST = 4
EDGE, SHARED_EDGE = 7, 3  # the fewest runs on either side of a step
REVERTED_RUNS = (8, 16, 32)  # windows on either side of a step that was reverted
MEMBER = 2.5  # standard deviations by which a series steps that belongs to a shared step
POSITION_DROP = 6.0  # in twice the log likelihood; by simulation it gives 95 % intervals


@dataclass
class Step:
    """A change of level before the run `first` (an index); 95 % interval `low` to `high`.

    `size` is the logarithm of the ratio of levels, after over before, with its 95 % interval."""

    first: int
    low: int
    high: int
    size: tuple[float, float, float]

    @property
    def word(self) -> str:
        return "worse" if self.size[0] > 0 else "better"

    @property
    def magnitude(self) -> float:
        return abs(self.size[0])


def find_steps(values: Floats, n_series: int) -> list[list[Step]]:
    """The steps of each series, (series, runs); none below `MIN_RUNS` runs.

    At most 5 % of histories without a change get any step. `n_series` counts the series tested in
    all histories together."""
    steps = [list[Step]() for _ in values]
    for _ in range(PASSES if values.shape[1] >= MIN_RUNS else 0):
        levels = np.array(list(map(level_between, values, steps)))
        new, before = _find_steps(values, levels, n_series), steps
        # A step stays once a pass reported it: its chance of error is already spent.
        steps = [own or former for own, former in zip(new, before, strict=True)]
        if list(map(_places, steps)) == list(map(_places, before)):
            break
    return steps


def _places(steps: Sequence[Step]) -> list[int]:
    return [step.first for step in steps]


def level_between(values: Floats, steps: Sequence[Step]) -> Floats:
    """The median between the steps of one series, (runs,), if a step is far above the scatter;
    otherwise 0: the first pass is final."""
    if not steps:
        return np.zeros_like(values)
    level = np.empty_like(values)
    for start, stop in pairwise([0, *_places(steps), len(values)]):
        level[start:stop] = np.median(values[start:stop])
    scatter = np.median(np.abs(values - level))
    is_far = max(step.magnitude for step in steps) > FAR_ABOVE * scatter
    return level if is_far else np.zeros_like(values)


def _find_steps(values: Floats, levels: Floats, n_series: int) -> list[list[Step]]:
    """One pass: the noise is estimated after `levels`, the steps known so far, are subtracted."""
    runs = values.shape[1]
    new, noise = estimate_noise(values - levels)
    new = new + levels[:, 1:] - noise.rho * levels[:, :-1]
    of_series = [noise._replace(rho=rho) for rho in noise.rho]
    scores, _ = best_steps(new, noise, n_series, 0, runs)
    places = [split(partial(best_steps, new[[series]], of_series[series], n_series), 0, runs)
              if score > 1 else [] for series, score in enumerate(scores)]
    shared = split(partial(best_shared_step, new, noise), 0, runs) if len(values) > 1 else []
    for start, place, stop in _with_neighbours(shared, runs):
        deviates = deviates_of_steps(new[:, start : stop - 1], noise, SHARED_EDGE)
        at_place = np.abs(deviates[:, place - start - SHARED_EDGE])
        for series in np.flatnonzero(at_place > MEMBER).tolist():
            apart = [other for other in places[series] if abs(other - place) >= EDGE]
            places[series] = sorted([place, *apart])
    return [[_locate(new[series, start : stop - 1], of_series[series], start, place,
                     place in shared)
             for start, place, stop in _with_neighbours(own, runs)]
            for series, own in enumerate(places)]


def _with_neighbours(places: Sequence[int], runs: int) -> list[tuple[int, int, int]]:
    """Each place with the ends of the stretches before and after it."""
    ends = [0, *places, runs]
    return list(zip(ends, ends[1:], ends[2:], strict=False))


def split(best: Callable[[int, int], tuple[Any, Any]], start: int, stop: int) -> list[int]:
    """The places of steps from `start` to `stop`: binary segmentation at the best place while its
    score exceeds 1."""
    if stop - start < MIN_RUNS:
        return []
    score, place = best(start, stop)
    if score <= 1:
        return []
    middle = start + place.item()
    return [*split(best, start, middle), middle, *split(best, middle, stop)]


def gls_steps(new: Floats, rho: Floats, first: NDArray[np.int64], start: Any, stop: Any,
              ) -> tuple[Floats, Floats]:
    """Sizes of steps before the runs `first`, (..., len(first)), each over the innovations from
    `start` to `stop`, and their GLS weights: the innovations' variance over the size's."""
    sums = np.concatenate([np.zeros_like(new[..., :1]), np.cumsum(new, axis=-1)], axis=-1)
    total, after = stop - start, stop - first
    share = 1 - rho  # of a level in each innovation after the first
    mean = (sums[..., stop] - sums[..., start]) / total
    expected = 1 + share * after
    weight = 1 + share**2 * after - expected**2 / total
    later = share * (sums[..., stop] - sums[..., first])
    return (new[..., first - 1] + later - expected * mean) / weight, weight


def t_of_steps(new: Floats, noise: Noise, edge: int) -> tuple[Floats, Floats, Floats]:
    """(t, size, standard error) of a step before each run from `edge` to `runs - edge`, over all
    innovations (..., runs - 1); t has runs - 3 + prior_runs degrees of freedom."""
    n = new.shape[-1] + 1
    first = np.arange(edge, n - edge + 1)
    whole = np.full_like(first, n - 1)
    size, weight = gls_steps(new, noise.rho, first, np.zeros_like(first), whole)
    squares = np.sum(np.square(new - new.mean(axis=-1, keepdims=True)), axis=-1, keepdims=True)
    rest = np.maximum(squares - size**2 * weight, LEAST_VARIANCE * (n - 3))
    variance = (rest + noise.variance * noise.prior_runs) / (n - 3 + noise.prior_runs)
    error = np.sqrt(variance / weight)
    return size / error, size, error


def deviates_of_steps(new: Floats, noise: Noise, edge: int) -> Floats:
    """The normal deviates of `t_of_steps`."""
    t, _, _ = t_of_steps(new, noise, edge)
    return normal(t, new.shape[-1] - 2 + noise.prior_runs)


def normal(t: Floats, freedom: float) -> Floats:
    """The normal deviate with the p of `t` (Wallace, Annals of Mathematical Statistics, 1959)."""
    factor = (8 * freedom + 1) / (8 * freedom + 3)
    return np.asarray(np.sign(t) * factor * np.sqrt(freedom * np.log1p(t**2 / freedom)))


def threshold(p: float, excess: float, rho: float, runs: NDArray[np.int64] | int) -> Floats:
    """The normal deviate at two-sided `p` for a step with `runs` runs on its shorter side, raised
    for heavy tails (Cornish and Fisher's expansion)."""
    deviate, share, after = -ndtri(p / 2), 1 - rho, np.asarray(runs) - 1
    weight = (1 + share**4 * after) / (1 + share**2 * after) ** 2
    return np.asarray(deviate + excess * weight / 12 * (deviate**3 - 3 * deviate))


def best_steps(new: Floats, noise: Noise, n_series: int, start: int,
               stop: int) -> tuple[Floats, NDArray[np.int64]]:
    """The best step of each series, (series, runs - 1), between two runs: its deviate over its
    threshold, and the number of runs before it."""
    n, rho, is_latest = stop - start, float(noise.rho.mean()), stop == new.shape[-1] + 1
    new = new[:, start : stop - 1]
    firsts = np.arange(EDGE, n - EDGE + 1)
    shorter = np.minimum(firsts, n - firsts)
    limits = threshold(EARLIER_ALPHA / (n_series * len(firsts)), noise.excess, rho, shorter)
    if is_latest:
        p = LATEST_ALPHA / (n_series * LATEST)
        limits[-LATEST:] = threshold(p, noise.excess, rho, shorter[-LATEST:])
    scores, places = [np.abs(deviates_of_steps(new, noise, EDGE)) / limits], [firsts]
    variance, freedom = pooled_variance(new, noise)
    widths = [width for width in REVERTED_RUNS if 2 * width < n]
    for width in widths:
        first = np.arange(width, n - width + 1)
        size, weight = gls_steps(new, noise.rho, first, first - width, first + width - 1)
        p = REVERTED_ALPHA / (n_series * len(widths) * len(first))
        deviates = normal(size * np.sqrt(weight / variance), freedom)
        scores.append(np.abs(deviates) / threshold(p, noise.excess, rho, width))
        places.append(first)
    scored = np.concatenate(scores, axis=-1)
    return scored.max(axis=-1), np.concatenate(places)[np.argmax(scored, axis=-1)]


def best_shared_step(new: Floats, noise: Noise, start: int, stop: int) -> tuple[Any, Any]:
    """The best step of all series together between two runs, as in `best_steps`.

    The statistic is the sum of squared deviates without the part that all series share (an equal
    correlation), with the degrees of freedom that the remaining correlations leave (Satterthwaite,
    Biometrics 2, 1946)."""
    new = new[:, start : stop - 1]
    series, n = len(new), stop - start
    away = new - new.mean(axis=-1, keepdims=True)
    mean_squares = np.mean(np.square(away), axis=-1, keepdims=True)
    unit = away / np.sqrt(np.maximum(mean_squares, 1e-30))
    common = (np.mean(np.square(unit.sum(axis=0))) / series - 1) / (series - 1)
    common = float(np.clip(common, 0, 0.95))
    deviates = deviates_of_steps(new, noise, SHARED_EDGE)
    scale = 1 - np.sqrt((1 - common) / (1 + (series - 1) * common))
    apart, own = ((part - scale * part.mean(axis=0)) / np.sqrt(1 - common)
                  for part in (deviates, unit))
    products = np.einsum("it,jt->ij", own, own)
    spread = np.sum(np.square(products)) / (n - 1) ** 2 - series**2 / (n - 1)
    freedom = series**2 / max(spread, series) / (1 + noise.excess / SHARED_EDGE)
    sums = np.sum(np.square(apart), axis=0)
    best = np.argmax(sums)
    p = chdtrc(freedom, sums[best] * freedom / max(series, np.median(sums)))
    deviate, limit = -ndtri(max(p, 1e-300)), -ndtri(SHARED_ALPHA / len(sums))
    return deviate / limit, SHARED_EDGE + best


def _locate(new: Floats, noise: Noise, start: int, place: int, is_shared: bool) -> Step:
    """The step near the run `place` in one series' innovations since `start`: the most likely place
    (a shared step stays), the interval of places, and the size."""
    edge = SHARED_EDGE - 1
    t, sizes, errors = t_of_steps(new, noise._replace(variance=0.0, prior_runs=0.0), edge)
    freedom = len(new) - 2
    likely = (len(new) + 1) * np.log1p(t**2 / freedom)
    best = place - start - edge
    if not is_shared:
        nearest = max(best - EDGE, 0)
        best = nearest + int(np.argmax(likely[nearest : best + EDGE + 1]))
    within = np.flatnonzero(likely >= likely[best] - POSITION_DROP) + start + edge
    size, half = float(sizes[best]), float(stdtrit(freedom, 0.975) * errors[best])
    return Step(start + edge + best, int(within[0]), int(within[-1]),
                (size, size - half, size + half))
