"""Finds steps in the level of series over the same runs, in order of time: `judge`.

The median over the series shows the steps that they share; each series' deviation from it shows
its own. One test serves both (`step_test`). Arrays are (series, runs).
docs/experiments/history.md has the method and its sources."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from reports.trends.noise import OUTLIER, RHO_PRICE, Noise, calm, innovations_of, noise_of
from reports.trends.step_test import (
    LATE_RUNS,
    LEAST_SHARED,
    SPELL_RUNS,
    Places,
    StepTest,
    gls,
    neighbours,
)
from reports.verdicts.verdict import Floats
from wiretax.common.grouped import grouped

LEAST_BASE = 10  # more runs are searched for steps
MIN_RUNS = 20  # of a history that is steady; in a shorter one only large steps are found
# The fewest runs on either side of a step. One slow run of all series is no step, and the next
# confirms it; two of one series are none, because a month has many such pairs.
SHARED_EDGE, EDGE = 2, 3
# The nominal chance, of shared and of own steps each, at one look. Thirty looks at almost the same
# runs raise an alarm in fewer than 5 % of months without a change (docs/calibration.md).
ALPHA = 0.006
MEMBER_ALPHA = 0.05  # that some series which did not change is named beside those that did
NOISY_STEP = np.log(1.1)  # a series where only larger ones would be found is not steady

SUSPECT, DISTURBED = "suspect", "disturbed"


@dataclass
class LevelChange:
    """A change of level before the run `first` (an index); 95 % interval `low` to `high`.
    `log_ratio`, (3,), is the logarithm of the ratio of levels, after over before, with its 95 %
    interval. A step with a `doubt` is no alarm: SUSPECT if only the newest run has it, DISTURBED if
    one of its levels has disturbed runs only."""

    first: int
    low: int
    high: int
    log_ratio: Floats
    doubt: str = ""

    @property
    def word(self) -> str:
        return "worse" if self.log_ratio[0] > 0 else "better"


Steps = dict[int, LevelChange]  # of a series, by their first runs


class Judgement(NamedTuple):
    """What series that are tested together show. The smallest steps that would be found are
    logarithms, infinite for few runs."""

    steps: list[list[LevelChange]]  # of each series in order of time
    words: list[str]  # of each series, if no step of it counts: noisy, steady or too early
    smallest: Floats  # step of each series that would be found, (series,)
    common: float  # smallest step of all series; infinite for fewer than LEAST_SHARED
    rho: float  # correlation of neighbouring runs


class Middle(NamedTuple):
    """What the median over series shows: the places of its steps, its noise, and the smallest step
    in it that would be found, a logarithm. The noise is None of fewer than LEAST_SHARED series,
    whose median shows nothing."""

    places: Places
    noise: Noise | None
    smallest: float


def judge(log_costs: Floats, n_series: int) -> Judgement:
    """The steps of each series of `log_costs`. `n_series` counts the series that all calls test
    together."""
    # What the series share.
    values = log_costs - np.median(log_costs, axis=1, keepdims=True)
    n, runs = values.shape
    middle = steps_of_middle(values, n_series)
    noise = noise_of(values - levels_between(values, [middle.places] * n))

    # Where each series has steps of its own: its shared steps are taken off, then the median over
    # series. Only runs near a shared step give its size here, because steps of the series' own,
    # which are not known yet, would change a mean over all runs.
    members = shared_steps(values, noise, middle.places, SPELL_RUNS)
    rest = values - levels_between(values, members)
    rest = rest - middle_of(rest)
    of_rest = noise_of(rest)
    test = StepTest(rest, of_rest, ALPHA / n_series, EDGE)
    places = [_away_from(middle.places, own) for own in test.places()]

    # Sizes: of its own steps first, without which the shared ones are judged over all runs.
    own_steps, own_levels = fit_own_steps(values, places, middle.places)
    steps = []
    every_shared = shared_steps(values - own_levels, noise, middle.places, runs)
    for shared, own in zip(every_shared, own_steps, strict=True):
        steps.append([step for _, step in sorted((shared | own).items())])

    # What else would have been found.
    smallest = test.smallest()
    words = np.where(smallest > NOISY_STEP, "noisy", "steady")
    rho, common = noise.rho, np.inf
    if middle.noise:
        rho = middle.noise.rho
        common = max(middle.smallest, named_step(noise, runs))
    return Judgement(
        steps,
        words.tolist() if runs >= MIN_RUNS else ["too early"] * n,
        smallest,
        common,
        float(rho.mean()),
    )


def steps_of_middle(values: Floats, n_series: int) -> Middle:
    """The steps of the median over the series, and the newest run, if it is off alone."""
    n, runs = values.shape
    if n < LEAST_SHARED:
        return Middle(Places(), None, np.inf)

    median = middle_of(values)
    least_rho = float(noise_of(values - median).rho.mean())
    noise = noise_of(median, least_rho, RHO_PRICE * (3 / n) ** 2)
    test = StepTest(median, noise, ALPHA * n / n_series, SHARED_EDGE)
    [places] = test.places()
    if test.newest_is_off(places):
        places[runs - 1] = runs - 1, runs - 1
    return Middle(places, noise, float(test.smallest()[0]))


def middle_of(values: Floats) -> Floats:
    """The median over the series, (1, runs); 0 of fewer than LEAST_SHARED series."""
    if len(values) < LEAST_SHARED:
        return np.zeros_like(values[:1])
    return np.asarray(np.median(values, axis=0, keepdims=True))


def _away_from(shared: Iterable[int], places: Places) -> Places:
    """A series' steps without those that may be shared ones: they are judged as that, over all
    runs."""
    return {
        first: (low, high)
        for first, (low, high) in places.items()
        if not any(low - EDGE <= place <= high + EDGE for place in shared)
    }


def fit_own_steps(
    values: Floats, places: Sequence[Places], shared: Iterable[int]
) -> tuple[list[Steps], Floats]:
    """The steps of each series at its `places`, with their sizes beside the median of the other
    series without their own steps, if there are enough; and the levels that these steps make,
    (series, runs)."""
    steps, levels = [Steps() for _ in values], np.zeros_like(values)
    changed = [series for series, own in enumerate(places) if own]
    if not changed:
        return steps, levels

    are_many = len(values) >= LEAST_SHARED
    rest = values - middle_of(values)
    # The first fit takes a series' own steps out of what the others are compared with.
    for _ in range(2 if are_many else 1):
        noise = noise_of(rest)
        for series in changed:
            steps[series] = fitted(rest[[series]], noise.of(series), places[series], shared)
            levels[series] = _levels_of(steps[series], values.shape[1])
        if are_many:
            rest = values - medians_of_others(values - levels)

    return steps, levels


def _levels_of(steps: Steps, runs: int) -> Floats:
    """The level of each run after these steps, which begins at 0."""
    is_after = np.arange(runs) >= np.array([*steps])[:, None]
    return np.asarray(np.array([step.log_ratio[0] for step in steps.values()]) @ is_after)


def medians_of_others(values: Floats) -> Floats:
    """For each series the median over the other ones, run by run."""
    n = len(values)
    ordered = np.sort(values, axis=0)
    ranks = np.argsort(np.argsort(values, axis=0), axis=0)
    low, high = (
        np.take_along_axis(ordered, place + (ranks <= place), axis=0)
        for place in ((n - 2) // 2, (n - 1) // 2)
    )
    return np.asarray((low + high) / 2)


def fitted(values: Floats, noise: Noise, places: Places, others: Iterable[int]) -> Steps:
    """A series' steps at these places, in order of time, with sizes and their 95 % intervals by one
    least-squares fit of these and of steps before the runs `others`, which it may have as well."""
    runs, own = values.shape[1], sorted(places)
    firsts = [*own, *others]
    ends = [0, *sorted(firsts), runs]
    most = OUTLIER * noise.run_spread
    near = np.hstack([calm(values[:, start:stop], most) for start, stop in pairwise(ends)])
    is_after = np.arange(runs) >= np.array([0, *firsts])[:, None]  # the first row is the level
    design = innovations_of(is_after.astype(float), noise.rho).T
    inverse = np.linalg.pinv(design.T @ design)
    sizes = inverse @ design.T @ innovations_of(near, noise.rho)[0]
    halves = np.sqrt(np.diag(inverse)) * noise.spread[0, 0] * stdtrit(noise.freedom, 0.975)
    log_ratios = np.stack([sizes, sizes - halves, sizes + halves], axis=1)[1:]
    return {
        first: LevelChange(first, *places[first], log_ratio)
        for first, log_ratio in zip(own, log_ratios, strict=False)
    }


def named_step(noise: Noise, runs: int) -> float:
    """The step of all series that half of them are named for, LATE_RUNS after it, a logarithm."""
    n = len(noise.spread)
    at = np.array([max(runs - LATE_RUNS, 2)])
    _, error = gls(np.zeros((n, runs - 1)), noise.rho, at, 0, runs)
    limit = stdtrit(noise.freedom, 1 - MEMBER_ALPHA / n / 2)
    return float(np.median(limit * error * noise.spread))


def shared_steps(values: Floats, noise: Noise, places: Places, reach: int) -> list[Steps]:
    """The steps of each series at these places; of sizes over `reach` runs on either side. The
    chance that any series is named which did not change is MEMBER_ALPHA."""
    n, runs = values.shape
    steps = [Steps() for _ in values]
    limit = stdtrit(noise.freedom, 1 - MEMBER_ALPHA / n / 2)

    for start, first, stop in neighbours(places, runs):
        near = max(start, first - reach), first, min(stop, first + reach)
        log_ratios, deviates = sizes_between(values, noise, *near)
        doubt = SUSPECT if first == runs - 1 else ""
        for series in np.flatnonzero(np.abs(deviates) > limit).tolist():
            steps[series][first] = LevelChange(first, *places[first], log_ratios[series], doubt)

    return steps


def sizes_between(
    values: Floats, noise: Noise, start: int, first: int, stop: int
) -> tuple[Floats, Floats]:
    """The log ratio of each series' step before the run `first` with its 95 % interval, (series,
    3), and the same in standard errors, (series,), between the runs `start` and `stop`."""
    most = OUTLIER * noise.run_spread
    near = np.hstack([calm(values[:, start:first], most), calm(values[:, first:stop], most)])
    units = innovations_of(near, noise.rho) / noise.spread
    deviates, error = gls(units, noise.rho, np.array([first - start]), 0, stop - start)
    half = error * stdtrit(noise.freedom, 0.975)
    size = error * deviates
    return np.hstack([size, size - half, size + half]) * noise.spread, deviates[:, 0]


def levels_between(values: Floats, firsts: Sequence[Iterable[int]]) -> Floats:
    """The level of each run: the median between two steps of its series."""
    levels = np.empty_like(values)
    # Most series have the same steps, or none.
    for places, own in grouped(range(len(values)), lambda row: (*sorted(firsts[row]),)).items():
        for start, stop in pairwise([0, *places, values.shape[1]]):
            levels[own, start:stop] = np.median(values[own, start:stop], axis=1, keepdims=True)

    return levels
