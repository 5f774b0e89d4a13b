"""Where series of runs change level: a scan of each series for steps, and of all together for a step that many share.

Values are logarithms of costs, (series, runs), of runs that all these series have, in order of time. Neighbouring runs
hang together, as an AR(1), so it is their innovations that are looked at; outliers are drawn in towards the runs around
them; what is looked for is the t statistic of a step after generalised least squares.
docs/experiments/history.md has the sources.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc, ndtri, stdtrit

Floats = NDArray[np.floating[Any]]

MIN_RUNS = 20
PASSES, FAR_ABOVE = 3, 9.0  # median deviations: six spreads
# The chance, nominally, that anything is called in a history where nothing changed, by what is looked for: a step in
# the latest places that can be told, elsewhere, one that was taken back, one that many series share.
LATEST_ALPHA, EARLIER_ALPHA, PASSING_ALPHA, SHARED_ALPHA = 0.017, 0.006, 0.005, 0.004
LATEST = 4
EDGE, SHARED_EDGE = 7, 3  # the fewest runs on either side of a step
PASSING = (8, 16, 32)  # runs that are looked at on either side of a step that was taken back
NEXT, NEARBY = 9, 17  # runs around one: those an outlier is drawn towards, those its correlation is told by
FAR_AWAY, MOST_AWAY = 5.0, 3.5  # how far an outlier stays from it: robust standard deviations of values, innovations
# By simulation, normal or not: the correlation of neighbours' deviations from the median nearby where they are
# independent, how much of a small correlation is seen in it, and the variance of what is told of a series, times runs.
OF_NONE, OF_MORE, CHANCE = -0.035, 0.87, 1.3
MEMBER = 2.5  # standard deviations that a series steps by where many do, to be one of them
STILL = 1e-8  # no variance of a logarithm is taken for less: a spread of 0.01 %
POSITION_DROP = 6.0  # of twice the log likelihood: places within it are as good; so that 95 % of intervals are right
INFORMED = 2 / 3  # of a run: what its difference from the one before tells of the variance


class Known(NamedTuple):
    """A variance of the innovations, and how many runs' worth of it is known from other series."""

    variance: float
    runs: float


NOTHING = Known(0.0, 0.0)


@dataclass
class Step:
    """One series' change of level before its run `first`, which lies from `low` to `high` with 95 % confidence. `size`
    is the logarithm of the ratio of the level after to that before, with the ends of its 95 % interval."""

    series: int
    first: int
    low: int
    high: int
    size: tuple[float, float, float]


def find(values: Floats, series: int) -> list[Step]:
    """The steps of all series, (series, runs), as alarms whose rate over a whole history is held to 5 %; `series` are
    as many as are tested in all, of which these are some. None below `MIN_RUNS` runs."""
    runs, levels, found = values.shape[1], np.zeros_like(values), list[Step]()
    for _ in range(PASSES if runs >= MIN_RUNS else 0):
        before, found = found, _find(values, levels, series)
        still = {step.series for step in found}  # an alarm is not taken back: its chance has been counted
        found = sorted([*found, *(step for step in before if step.series not in still)], key=lambda step: step.series)
        if [(step.series, step.first) for step in found] == [(step.series, step.first) for step in before]:
            break
        levels = levels_of(values, found)
    return found


def levels_of(values: Floats, found: Sequence[Step]) -> Floats:
    """The median of each stretch between steps, (series, runs), of series with a step that is far above the scatter;
    of the others 0: there the first pass has told all that can be."""
    levels = np.zeros_like(values)
    for one in {step.series for step in found}:
        its = [step for step in found if step.series == one]
        level = np.concatenate([np.full(stop - start, np.median(values[one, start:stop])) for start, stop in pairwise(
            [0, *(step.first for step in its), values.shape[1]])])
        if max(abs(step.size[0]) for step in its) > FAR_ABOVE * np.median(np.abs(values[one] - level)):
            levels[one] = level
    return levels


def _find(values: Floats, levels: Floats, series: int) -> list[Step]:
    """The steps, where `levels` are known so far: what they explain is taken for neither correlation nor outliers, as
    it is where a level holds for ten runs or fewer between two others. No alarm comes of it that was not there."""
    runs = values.shape[1]
    calm = tamed(values - levels, FAR_AWAY)
    rho = correlations(calm)
    quiet = innovations(calm, rho)
    heavy, known = kurtosis(quiet), spread_of_all(quiet)
    new = quiet + levels[:, 1:] - rho * levels[:, :-1]

    def of_one(one: int, start: int, stop: int) -> tuple[float, int]:
        its = new[one : one + 1, start : stop - 1], rho[one : one + 1]
        scores, places = best_steps(*its, series, heavy, known, stop == runs)
        return float(scores[0]), int(places[0])

    def of_all(start: int, stop: int) -> tuple[float, int]:
        return shared_step(new[:, start : stop - 1], rho, heavy, known)

    alone = np.flatnonzero(best_steps(new, rho, series, heavy, known, True)[0] > 1).tolist()
    found = {one: split(partial(of_one, one), 0, runs) for one in alone}
    shared = split(of_all, 0, runs) if len(values) > 1 else []
    for start, place, stop in zip([0, *shared], shared, [*shared[1:], runs], strict=False):
        t = steps(new[:, start : stop - 1], rho, SHARED_EDGE, known)[0][:, place - start - SHARED_EDGE]
        for one in np.flatnonzero(np.abs(normal(t, stop - start - 3 + known.runs)) > MEMBER).tolist():
            found[one] = sorted([place, *(other for other in found.get(one, []) if abs(other - place) >= EDGE)])
    return [_located(one, new[one, start : stop - 1], float(rho[one, 0]), start, place, place in shared)
            for one, places in sorted(found.items())
            for start, place, stop in zip([0, *places], places, [*places[1:], runs], strict=False)]


def split(best: Callable[[int, int], tuple[float, int]], start: int, stop: int) -> list[int]:
    """The places of steps in these runs: the best, if it counts, and then those on either side of it."""
    if stop - start < MIN_RUNS:
        return []
    score, place = best(start, stop)
    return [*split(best, start, start + place), start + place, *split(best, start + place, stop)] if score > 1 else []


def around(values: Floats, width: int) -> Floats:
    """The median of so many runs around each, (..., runs); it steps where the values do."""
    n, half = values.shape[-1], width // 2
    medians = np.partition(np.lib.stride_tricks.sliding_window_view(values, width, axis=-1), half, axis=-1)[..., half]
    return np.asarray(medians[..., np.clip(np.arange(n) - half, 0, n - width)])


def tamed(values: Floats, away: float) -> Floats:
    """The values, (..., runs), with outliers drawn in towards the runs around them."""
    medians = around(values, NEXT)
    most = away * 1.4826 * np.median(np.abs(values - medians), axis=-1, keepdims=True)
    return np.asarray(medians + np.clip(values - medians, -most, most))


def innovations(calm: Floats, rho: Floats | float) -> Floats:
    """What is new in each run but the first, (series, runs - 1)."""
    return tamed(calm[:, 1:] - rho * calm[:, :-1], MOST_AWAY)


def correlations(calm: Floats) -> Floats:
    """Correlation of neighbouring runs, from 0 to 0.9, of each series, (series, 1): what all have in common, as far as
    the series do not differ by more than chance makes them (an empirical Bayes estimate).

    How much more differences over two runs vary than those over one gives a first estimate for all. What is left in
    the innovations is seen in how these deviate from the runs around, which no step bends."""
    one, two = (np.mean(_squares(calm, lag)) for lag in (1, 2))
    first = float(np.clip(two / one - 1, 0, 0.9)) if one > 0 else 0.0
    new = innovations(calm, first)
    away = new - around(new, NEARBY)
    squares, lagged = np.mean(np.square(away), axis=-1), np.mean(away[:, 1:] * away[:, :-1], axis=-1)
    lag_1 = np.divide(lagged, squares, out=np.full_like(lagged, OF_NONE), where=squares > 0)
    own, n = (lag_1 - OF_NONE) / OF_MORE, new.shape[-1]
    beyond = max(0.0, float(np.var(own)) - CHANCE / n)
    weight = beyond / (beyond + CHANCE / n)
    # What is left open of it costs false alarms where it is too low, and next to nothing where it is too high.
    apart = weight * (own - own.mean()) + np.sqrt(weight * CHANCE / n) / 4
    return np.asarray(np.clip(first + own.mean() + apart, 0, 0.9))[:, None]


def _squares(values: Floats, lag: int) -> Floats:
    """Of the differences over `lag` runs; those across a step, and other large ones, are drawn in."""
    squares = np.square(values[:, lag:] - values[:, :-lag])
    return np.asarray(np.minimum(squares, 20 * np.median(squares, axis=-1, keepdims=True)))


def spread_of_all(new: Floats) -> Known:
    """What the series say of each other's spread: the more, the more alike they are (Smyth, Statistical Applications in
    Genetics and Molecular Biology 3, 2004, with the logarithm's variance as 2 / degrees of freedom)."""
    logs, own = np.log(np.maximum(_squares(new, 1).mean(axis=-1) / 2, STILL)), new.shape[-1] * INFORMED
    runs = float(min(2 / max(float(np.var(logs)) - 2 / own, 1e-9), 2 * own)) if len(new) > 1 else 0.0
    return Known(float(np.exp(np.mean(logs))), runs)


def steps(new: Floats, rho: Floats | float, edge: int, known: Known = NOTHING) -> tuple[Floats, Floats, Floats]:
    """Of a step before each run from `edge` to `runs - edge`, by its innovations (..., runs - 1): its t with so many
    degrees of freedom as there are runs, less 3, and what is `known`; its size; the standard error of that."""
    n = new.shape[-1] + 1
    first = np.arange(edge, n - edge + 1)
    share, after = 1 - rho, n - 1 - first  # a level counts in the innovations with this share, in its first run in full
    sums = np.cumsum(new[..., ::-1], axis=-1)[..., ::-1]
    later = np.concatenate([sums, np.zeros_like(sums[..., :1])], axis=-1)[..., first]
    mean = sums[..., :1] / (n - 1)
    of_step = 1 + share * after
    weight = 1 + share**2 * after - of_step**2 / (n - 1)
    size = (new[..., first - 1] + share * later - of_step * mean) / weight
    left = np.sum(np.square(new - mean), axis=-1, keepdims=True) - size**2 * weight
    error = np.sqrt((np.maximum(left, STILL * (n - 3)) + known.variance * known.runs) / (n - 3 + known.runs) / weight)
    return size / error, size, error


def passing(new: Floats, rho: Floats, width: int, noise: Floats) -> Floats:
    """The same t for a step with `width` runs on either side that count, before each run from `width` to
    `runs - width`; `noise` is the standard deviation of the innovations of each series."""
    n, share, after = new.shape[-1] + 1, 1 - rho, width - 1
    first = np.arange(width, n - width + 1)
    sums = np.concatenate([np.zeros_like(new[:, :1]), np.cumsum(new, axis=-1)], axis=-1)
    last = sums[:, first + width - 1]
    of_step, mean = 1 + share * after, (last - sums[:, first - width]) / (2 * width - 1)
    weight = 1 + share**2 * after - of_step**2 / (2 * width - 1)
    size = (new[:, first - 1] + share * (last - sums[:, first]) - of_step * mean) / weight
    return np.asarray(size * np.sqrt(weight) / noise)


def normal(t: Floats, freedom: float) -> Floats:
    """The normal deviate that is as unlikely as this t (Wallace, Annals of Mathematical Statistics 30, 1959)."""
    return np.asarray(np.sign(t) * (8 * freedom + 1) / (8 * freedom + 3) * np.sqrt(freedom * np.log1p(t**2 / freedom)))


def kurtosis(new: Floats) -> float:
    """The mean excess of the series, 0 at least."""
    away = new - np.median(new, axis=-1, keepdims=True)
    squares = np.mean(np.square(away), axis=-1)
    own = np.divide(np.mean(away**4, axis=-1), squares**2, out=np.full_like(squares, 3.0), where=squares > 0)
    return max(float(np.mean(own)) - 3, 0.0)


def bar(alpha: float, tests: int, heavy: float, rho: float, runs: NDArray[np.int64] | int) -> Floats:
    """What a normal deviate has to exceed, one of so many, whose step has `runs` on its shorter side; heavy tails raise
    it (Cornish and Fisher's expansion)."""
    deviate, share, after = -ndtri(alpha / tests / 2), 1 - rho, np.asarray(runs) - 1
    weight = (1 + share**4 * after) / (1 + share**2 * after) ** 2
    return np.asarray(deviate + heavy * weight / 12 * (deviate**3 - 3 * deviate))


def best_steps(new: Floats, rho: Floats, series: int, heavy: float, known: Known,
               is_latest: bool) -> tuple[Floats, NDArray[np.int64]]:
    """Of each series, (series, runs - 1), by how many times its most telling step exceeds its bar, and the run that it
    stands before. `series` are as many as are tested in all; `is_latest`: these are the last runs that there are."""
    n, mean = new.shape[-1] + 1, float(rho.mean())
    firsts = np.arange(EDGE, n - EDGE + 1)
    shorter = np.minimum(firsts, n - firsts)
    bars = bar(EARLIER_ALPHA, series * len(firsts), heavy, mean, shorter)
    if is_latest:
        bars[-LATEST:] = bar(LATEST_ALPHA, series * LATEST, heavy, mean, shorter[-LATEST:])
    scores, places = [np.abs(normal(steps(new, rho, EDGE, known)[0], n - 3 + known.runs)) / bars], [firsts]
    own, squares = n * INFORMED, _squares(new, 1).mean(axis=-1, keepdims=True) / 2
    noise = np.sqrt((np.maximum(squares, STILL) * own + known.variance * known.runs) / (own + known.runs))
    widths = [width for width in PASSING if 2 * width < n]
    for width in widths:
        places.append(np.arange(width, n - width + 1))
        least = bar(PASSING_ALPHA, series * len(widths) * len(places[-1]), heavy, mean, width)
        scores.append(np.abs(normal(passing(new, rho, width, noise), own + known.runs)) / least)
    scored, place = np.concatenate(scores, axis=-1), np.concatenate(places)
    best = np.argmax(scored, axis=-1)
    return np.take_along_axis(scored, best[:, None], axis=-1)[:, 0], place[best]


def shared_step(new: Floats, rho: Floats, heavy: float, known: Known) -> tuple[float, int]:
    """By how many times the most telling step of all series together exceeds its bar, and the run it stands before.

    It is told by the sum of squared deviates, after what all series have in common is taken out (an equal correlation),
    with as many degrees of freedom as the correlations that are left allow (Satterthwaite, Biometrics 2, 1946)."""
    series, n = len(new), new.shape[-1] + 1
    away = new - new.mean(axis=-1, keepdims=True)
    unit = away / np.sqrt(np.maximum(np.mean(np.square(away), axis=-1, keepdims=True), 1e-30))
    common = float(np.clip((np.mean(np.square(unit.sum(axis=0))) / series - 1) / (series - 1), 0, 0.95))
    deviates = normal(steps(new, rho, SHARED_EDGE, known)[0], n - 3 + known.runs)
    scale = 1 - np.sqrt((1 - common) / (1 + (series - 1) * common))
    apart, own = ((its - scale * its.mean(axis=0)) / np.sqrt(1 - common) for its in (deviates, unit))
    spread = np.sum(np.square(np.einsum("it,jt->ij", own, own))) / (n - 1) ** 2 - series**2 / (n - 1)
    freedom = series**2 / max(spread, series) / (1 + heavy / SHARED_EDGE)
    sums = np.sum(np.square(apart), axis=0)
    best = int(np.argmax(sums))
    p = chdtrc(freedom, sums[best] * freedom / max(series, np.median(sums)))
    return float(-ndtri(max(p, 1e-300)) / -ndtri(SHARED_ALPHA / len(sums))), SHARED_EDGE + best


def _located(one: int, new: Floats, rho: float, start: int, place: int, is_shared: bool) -> Step:
    """The step between its neighbours: the place that is most likely (that of a shared one stays), those that are not
    much less so, and the size."""
    edge = SHARED_EDGE - 1
    t, sizes, errors = steps(new, rho, edge)
    freedom = len(new) - 2
    likely = (len(new) + 1) * np.log1p(t**2 / freedom)
    best = place - start - edge
    if not is_shared:
        around = max(best - EDGE, 0)
        best = around + int(np.argmax(likely[around : best + EDGE + 1]))
    within = np.flatnonzero(likely >= likely[best] - POSITION_DROP) + start + edge
    size, half = float(sizes[best]), float(stdtrit(freedom, 0.975) * errors[best])
    return Step(one, start + edge + best, int(within[0]), int(within[-1]), (size, size - half, size + half))
