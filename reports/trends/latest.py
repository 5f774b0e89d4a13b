"""Compares the latest runs of series with the runs before them, so that a large step shows at its
first run, and joins these steps with those of `changes`. Values are logarithms of costs, (series,
runs), in order of time. docs/experiments/history.md explains the method."""

from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from reports.trends.changes import (
    LEAST_VARIANCE,
    MEMBER,
    MIN_RUNS,
    POSITION_DROP,
    Step,
    find_steps,
    normal,
    row_medians,
    threshold,
)
from reports.verdicts.verdict import Floats

LEAST_BASE, MOST_BASE = 5, 40  # runs before the latest runs
# Latest runs. In a long history, windows up to either length share the runs before them.
SHORT_WINDOW, MOST_WINDOW = 3, 12
RHO = 0.4  # assumed of neighbouring runs: less correlation costs power and no false alarms
# Nominal chance of an alarm at one look, for a step that all series share and for a step of one.
COMMON_ALPHA, SINGLE_ALPHA = 1e-3, 6e-4
MOST_BEYOND = 2.0  # standard deviations by which a run counts beyond its window's middle run
LEAST_PART = 0.01  # variance of a part, in squares of a series' spread
NOISY = np.log(1.1) / 3  # spread: a step of three spreads is found


class Look(NamedTuple):
    """A window of latest runs against the runs before it. `levels` and `spread` are of each series,
    (series, 1), in spreads and in logarithms. `shifts`, in spreads, and `deviates` are of the
    parts, (1 + series, 1): the level that all series share, and the rest of each series.
    `plain_deviates` are of means over the window, which locate a step. `excess` is the excess
    kurtosis of the parts, (1 + series, 1): zero for the level that all series share, and the mean
    over series for the rest. `error` is a level's standard error, with degrees of freedom."""

    levels: Floats
    spread: Floats
    shifts: Floats
    deviates: Floats
    plain_deviates: Floats
    excess: Floats
    error: float
    freedom: float

    def sizes(self, part: int) -> dict[int, tuple[float, float, float]]:
        """A step's sizes with their 95 % intervals, by series. A series has the step if its own
        level is at least half of the shift; at least a quarter of all have a shared step."""
        levels, shift = self.levels, self.shifts[part, 0]
        has_step = (levels * np.sign(shift) > abs(shift) / 2)[:, 0]
        if part:
            has_step &= np.arange(1, len(levels) + 1) == part
        else:
            has_step &= np.abs(levels[:, 0]) > MEMBER * self.error
            has_step &= 4 * has_step.sum() >= len(levels)
        half = stdtrit(self.freedom, 0.975) * self.error
        ends = np.hstack([levels, levels - half, levels + half]) * self.spread
        return {
            series: (size, low, high)
            for series, (size, low, high) in enumerate(ends.tolist())
            if has_step[series]
        }


def judge(values: Floats, n_series: int) -> list[tuple[list[Step], str]]:
    """The steps of each series, in order of time, and its verdict. `n_series` counts the series
    that all calls test together. A late step must not count as noise for `find_steps`, nor an
    earlier step for `find_latest`."""
    late = find_latest(values, n_series)
    early = find_steps(without(values, late), n_series)
    if any(early):
        late = find_latest(without(values, early), n_series)
    steps = [
        sorted([*own, *last], key=lambda step: step.first)
        for own, last in zip(early, late, strict=True)
    ]
    _, spread = standardise(without(values, steps)[:, -MOST_BASE:], 0, LEAST_VARIANCE)
    if values.shape[1] < MIN_RUNS:
        words = ["too early"] * len(values)
    else:
        words = ["noisy" if own > NOISY else "steady" for own in spread[:, 0]]
    return [(own, own[-1].word if own else word) for own, word in zip(steps, words, strict=True)]


def without(values: Floats, steps: Sequence[Sequence[Step]]) -> Floats:
    """The values with all runs at the level before the first step."""
    values = values.copy()
    for row, own in zip(values, steps, strict=True):
        for step in own:
            row[step.first :] -= step.size[0]
    return values


def find_latest(values: Floats, n_series: int) -> list[list[Step]]:
    """The step in the latest runs of each series, if any; older steps are left to `find_steps`."""
    runs, steps = values.shape[1], [list[Step]() for _ in values]
    if runs >= MOST_BASE + MOST_WINDOW:
        ends = [SHORT_WINDOW, MOST_WINDOW]
    else:
        ends = [*range(1, min(runs - LEAST_BASE, MOST_WINDOW) + 1)]
    if not ends:
        return steps
    looks = [
        look for start, end in pairwise([0, *ends]) for look in take_looks(values, start + 1, end)
    ]
    p = np.full((1 + len(values), 1), SINGLE_ALPHA / n_series / MOST_WINDOW)
    p[0] = COMMON_ALPHA * len(values) / n_series / MOST_WINDOW
    limits = [threshold(p, look.excess, 0.0, window) for window, look in enumerate(looks, 1)]
    is_told = np.abs(np.hstack([look.deviates for look in looks])) > np.hstack(limits)
    likely = np.hstack([look.plain_deviates for look in looks]) ** 2
    for part in np.flatnonzero(is_told.any(axis=1)).tolist():
        best = int(np.argmax(np.where(is_told[part], likely[part], 0)))
        if best + 1 == MOST_WINDOW and runs >= MIN_RUNS:
            continue
        near = likely[part] >= likely[part, best] - POSITION_DROP
        firsts = runs - 1 - np.flatnonzero(near)
        for series, size in looks[best].sizes(part).items():
            step = Step(runs - 1 - best, int(firsts.min()), int(firsts.max()), size)
            steps[series] = steps[series] or [step]
    return steps


def take_looks(values: Floats, least: int, most: int) -> list[Look]:
    """Compares the last `least` to `most` runs with up to MOST_BASE runs before the last `most`."""
    units, spread = standardise(values[:, -MOST_BASE - most :], most, LEAST_VARIANCE)
    common = np.median(units, axis=0, keepdims=True)
    parts, scale = standardise(np.vstack([common, units - common]), most, LEAST_PART)
    before = units.shape[1] - most
    freedom = before * (1 - RHO**2) / (1 + RHO**2) - 1
    squares = np.square(parts[1:, :before])
    kurtosis = np.mean(squares**2, axis=-1) / np.maximum(np.mean(squares, axis=-1) ** 2, 1e-30)
    excess = np.full((len(parts), 1), max(float(np.mean(kurtosis)) - 3, 0.0))
    excess[0] = 0
    looks = []
    for window in range(least, most + 1):
        error = float(np.sqrt(mean_variance(window) + mean_variance(before)))
        shifts = window_levels(parts[:, -window:])
        means = parts[:, -window:].mean(axis=-1, keepdims=True)
        deviates, plain_deviates = (normal(level / error, freedom) for level in (shifts, means))
        if window == 1:  # one run is no step of one or two series
            deviates[len(values) > 2 :] = 0
        levels = window_levels(units[:, -window:])
        looks.append(
            Look(levels, spread, shifts * scale, deviates, plain_deviates, excess, error, freedom)
        )
    return looks


def standardise(runs: Floats, window: int, least: float) -> tuple[Floats, Floats]:
    """The runs as deviations from the mean of the runs before the window, in their standard
    deviations, and these, (series, 1). Outliers count up to three standard deviations."""
    before = runs[:, : runs.shape[1] - window]
    middle = row_medians(before)
    most = 3 * np.sqrt(np.pi / 2) * np.mean(np.abs(before - middle), axis=-1, keepdims=True)
    away = np.clip(before - middle, -most, most)
    mean = away.mean(axis=-1, keepdims=True)
    squares = np.mean(np.square(away - mean), axis=-1, keepdims=True)
    # The runs' own mean hides a part of their variance.
    unbiased = squares / max(1 - mean_variance(before.shape[1]), 0.1)
    scale = np.sqrt(np.maximum(unbiased, least))
    return (runs - middle - mean) / scale, scale


def window_levels(units: Floats) -> Floats:
    """The level of each row, (rows, 1). A run counts only up to MOST_BEYOND beyond the middle run
    that is nearest to zero, so that a single outlier is no step."""
    n = units.shape[1]
    middle = np.sort(units, axis=-1)[:, [(n - 1) // 2, n // 2]]
    nearest = np.argmin(np.abs(middle), axis=-1)[:, None]
    middle = np.take_along_axis(middle, nearest, axis=-1)
    within = np.clip(units, middle - MOST_BEYOND, middle + MOST_BEYOND)
    return np.asarray(within.mean(axis=-1, keepdims=True))


@cache
def mean_variance(runs: int) -> float:
    """The variance of the mean of an AR(1) with variance 1 and correlation RHO."""
    lag = np.arange(1, runs)
    return float(1 + 2 * np.sum((1 - lag / runs) * RHO**lag)) / runs
