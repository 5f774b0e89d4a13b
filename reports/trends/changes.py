"""Finds steps in the level of series over the same runs, in order of time. Values are logarithms of
costs, (series, runs). `find_latest` compares the latest runs with those before them, so that a
large step shows at its first run. `find_steps` finds older steps: each series is modelled as an
AR(1), and a step is tested on its innovations by generalised least squares (GLS). `judge` joins
both. docs/experiments/history.md explains the method and cites its sources."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from scipy.special import chdtrc, ndtri, stdtrit

from reports.store.stats import clipped
from reports.verdicts.verdict import Floats

MIN_RUNS, PASSES = 20, 3
FAR_ABOVE = 9.0  # median deviations (six standard deviations) that a step is above the scatter
# Nominal chance of an alarm at one look, for a step at the last place with `EDGE` runs after it, an
# earlier step, a step that was reverted, and a step that many series share. Together they raise an
# alarm in fewer than 5 % of months without a change.
LATEST_ALPHA, EARLIER_ALPHA, REVERTED_ALPHA, SHARED_ALPHA = 8e-4, 3e-4, 3e-4, 5e-4
EDGE, SHARED_EDGE = 8, 3  # edges: the fewest runs on either side of a step
REVERTED_RUNS = (8, 16, 32)  # windows on either side of a step that was reverted
MEMBER = 2.5  # standard deviations by which a series steps that belongs to a shared step
POSITION_DROP = 6.0  # in twice the log likelihood; by simulation it gives 95 % intervals
OUTLIER_RUNS, CORRELATION_RUNS = 9, 17  # windows of running medians
# Limits of values, innovations and differences of neighbours, in robust standard deviations.
MOST_VALUE, MOST_INNOVATION, MOST_DIFFERENCE = 5.0, 3.5, 3.0
# By simulation: the lag-1 correlation of deviations from the running median at rho = 0, its slope
# over rho, and the variance of the estimated rho, times the number of runs.
ZERO_RHO, RHO_SLOPE, RHO_VARIANCE = -0.035, 0.87, 1.3
LEAST_VARIANCE = 1e-8  # of a logarithm: a spread of 0.01 %
DIFFERENCE_RUNS = 2 / 3  # degrees of freedom that a difference of neighbours adds to the variance
LEAST_BASE, MOST_BASE = 5, 40  # runs before the latest runs
# Latest runs. In a long history, windows up to either length share the runs before them.
SHORT_WINDOW, MOST_WINDOW = 3, 12
RHO = 0.4  # assumed of neighbouring runs: less correlation costs power and no false alarms
# Nominal chance of an alarm at one look, for a step that all series share and for a step of one.
COMMON_ALPHA, SINGLE_ALPHA = 1e-3, 6e-4
MOST_BEFORE = 3.0  # robust standard deviations by which an earlier run counts
MOST_BEYOND = 2.0  # standard deviations by which a run counts beyond its window's middle run
LEAST_PART = 0.01  # variance of a part, in squares of a series' spread
NOISY = np.log(1.1) / 3  # spread: a step of three spreads is found


@dataclass
class Step:
    """A change of level before the run `first` (an index); 95 % interval `low` to `high`. `size` is
    the logarithm of the ratio of levels, after over before, with its 95 % interval. A step between
    levels of which one has disturbed runs only is no alarm."""

    first: int
    low: int
    high: int
    size: tuple[float, float, float]
    is_alarm: bool = True

    @property
    def word(self) -> str:
        return "worse" if self.size[0] > 0 else "better"


class Noise(NamedTuple):
    """The scatter around the levels: the correlation of neighbouring runs, (series, 1); the mean
    excess kurtosis; and a prior for the innovations' variance, worth `prior_runs` runs."""

    rho: Floats
    excess: float
    variance: float
    prior_runs: float


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
    """The steps of each series, in order of time, and its word if none counts. `n_series` counts
    the series that all calls test together. A late step must not count as noise for `find_steps`,
    nor an earlier step for `find_latest`."""
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
    return list(zip(steps, words, strict=True))


def without(values: Floats, steps: Sequence[Sequence[Step]]) -> Floats:
    """The values with all runs at the level before the first step."""
    values = values.copy()
    for row, own in zip(values, steps, strict=True):
        for step in own:
            row[step.first :] -= step.size[0]
    return values


def find_steps(values: Floats, n_series: int) -> list[list[Step]]:
    """The steps of each series, (series, runs); none below `MIN_RUNS`. At most 5 % of histories
    without a change get any, if `n_series` counts the series that all calls test together."""
    steps = [list[Step]() for _ in values]
    for _ in range(PASSES if values.shape[1] >= MIN_RUNS else 0):
        places = [[step.first for step in own] for own in steps]
        levels = np.zeros_like(values)
        for runs, level, own in zip(values, levels, steps, strict=True):
            if not own:
                continue
            for start, stop in pairwise([0, *(step.first for step in own), len(runs)]):
                level[start:stop] = np.median(runs[start:stop])
            scatter = np.median(np.abs(runs - level))
            if not any(abs(step.size[0]) > FAR_ABOVE * scatter for step in own):
                level[:] = 0  # the first pass is final
        # A step stays once a pass reported it: its chance of error is already spent.
        new = _find_steps(values, levels, n_series)
        steps = [own or former for own, former in zip(new, steps, strict=True)]
        if [[step.first for step in own] for own in steps] == places:
            break
    return steps


def _find_steps(values: Floats, levels: Floats, n_series: int) -> list[list[Step]]:
    """One pass: the noise is estimated after `levels`, the medians between the steps known so far
    in series with a step far above the scatter, are subtracted."""
    runs = values.shape[1]
    new, noise = estimate_noise(values - levels)
    new = new + levels[:, 1:] - noise.rho * levels[:, :-1]
    of_series = [noise._replace(rho=rho) for rho in noise.rho]
    scores, _ = best_steps(new, noise, n_series, 0, runs)
    places = [
        split(partial(best_steps, new[[series]], of_series[series], n_series), 0, runs)
        if score > 1
        else []
        for series, score in enumerate(scores)
    ]
    shared = split(partial(best_shared_step, new, noise), 0, runs) if len(values) > 1 else []
    for start, place, stop in zip([0, *shared], shared, [*shared[1:], runs], strict=False):
        _, deviates, *_ = t_of_steps(new[:, start : stop - 1], noise, SHARED_EDGE)
        at_place = np.abs(deviates[:, place - start - SHARED_EDGE])
        for series, deviate in enumerate(at_place.tolist()):
            apart = [other for other in places[series] if abs(other - place) >= EDGE]
            if deviate > MEMBER or len(apart) < len(places[series]):
                places[series] = sorted([place, *apart])
    return [
        [
            _locate(new[series, start : stop - 1], of_series[series], start, place, place in shared)
            for start, place, stop in zip([0, *own], own, [*own[1:], runs], strict=False)
        ]
        for series, own in enumerate(places)
    ]


def split(best: Callable[[int, int], tuple[Any, Any]], start: int, stop: int) -> list[int]:
    """The places of steps by binary segmentation, at the best place while its score exceeds 1."""
    if stop - start < MIN_RUNS:
        return []
    score, place = best(start, stop)
    if score <= 1:
        return []
    middle = start + place.item()
    return [*split(best, start, middle), middle, *split(best, middle, stop)]


def best_steps(new: Floats, noise: Noise, n_series: int, start: int, stop: int) -> tuple[Any, Any]:
    """The best step of each series, (series, runs - 1), between two runs: its deviate over its
    threshold, and the number of runs before it."""
    n, rho = stop - start, float(noise.rho.mean())
    firsts = np.arange(EDGE, n - EDGE + 1)
    p = np.full(len(firsts), EARLIER_ALPHA / (n_series * len(firsts)))
    if stop == new.shape[-1] + 1:
        p[-1] = LATEST_ALPHA / n_series
    limits = threshold(p, noise.excess, rho, np.minimum(firsts, n - firsts))
    new = new[:, start : stop - 1]
    scores, places = [np.abs(t_of_steps(new, noise, EDGE)[1]) / limits], [firsts]
    own = n * DIFFERENCE_RUNS
    freedom = own + noise.prior_runs
    total = difference_variance(new)[:, None] * own + noise.variance * noise.prior_runs
    widths = [width for width in REVERTED_RUNS if 2 * width < n]
    for width in widths:
        first = np.arange(width, n - width + 1)
        size, weight = gls_steps(new, noise.rho, first, first - width, first + width - 1)
        deviates = normal(size * np.sqrt(weight / (total / freedom)), freedom)
        p_each = REVERTED_ALPHA / (n_series * len(widths) * len(first))
        scores.append(np.abs(deviates) / threshold(p_each, noise.excess, rho, width))
        places.append(first)
    scored = np.concatenate(scores, axis=-1)
    return scored.max(axis=-1), np.concatenate(places)[np.argmax(scored, axis=-1)]


def best_shared_step(new: Floats, noise: Noise, start: int, stop: int) -> tuple[Any, Any]:
    """The best step of all series together, as in `best_steps`: by the sum of squared deviates
    without the part that all series share (an equal correlation), with the degrees of freedom that
    the remaining correlations leave (Satterthwaite, Biometrics 2, 1946)."""
    new = new[:, start : stop - 1]
    series, n = len(new), stop - start
    # Around a running median, which keeps the step out of the correlation.
    unit, common = common_correlation(new - running_median(new, CORRELATION_RUNS))
    _, deviates, *_ = t_of_steps(new, noise, SHARED_EDGE)
    scale = 1 - np.sqrt((1 - common) / (1 + (series - 1) * common))
    apart, own = (
        (part - scale * part.mean(axis=0)) / np.sqrt(1 - common) for part in (deviates, unit)
    )
    products = np.einsum("it,jt->ij", own, own)
    spread = np.sum(np.square(products)) / (n - 1) ** 2 - series**2 / (n - 1)
    freedom = series**2 / max(spread, series) / (1 + noise.excess / SHARED_EDGE)
    sums = np.sum(np.square(apart), axis=0)
    p = chdtrc(freedom, np.max(sums) * freedom / max(series, np.median(sums)))
    deviate, limit = -ndtri(max(p, 1e-300)), -ndtri(SHARED_ALPHA / len(sums))
    return deviate / limit, SHARED_EDGE + np.argmax(explained_squares(new, noise))


def explained_squares(new: Floats, noise: Noise) -> Floats:
    """The squares that a step of all series before each run from SHARED_EDGE on explains, each
    series in units of its variance: its maximum is the least-squares place."""
    first = np.arange(SHARED_EDGE, new.shape[-1] - SHARED_EDGE + 2)
    size, weight = gls_steps(new, noise.rho, first, 0 * first, 0 * first + new.shape[-1])
    return np.asarray(np.sum(size**2 * weight / difference_variance(new)[:, None], axis=0))


def common_correlation(away: Floats) -> tuple[Floats, float]:
    """Deviations, (series, runs), in units of each series' spread, and the mean correlation of two
    series, from 0 to 0.95."""
    series = len(away)
    unit = away / np.sqrt(np.maximum(np.mean(away**2, axis=-1, keepdims=True), 1e-30))
    common = (np.mean(np.square(unit.sum(axis=0))) / series - 1) / max(series - 1, 1)
    return unit, float(np.clip(common, 0, 0.95))


def _locate(new: Floats, noise: Noise, start: int, place: int, is_shared: bool) -> Step:
    """The step near the run `place` in one series' innovations since `start`: the most likely place
    (a shared step stays), the interval of places, and the size."""
    edge, freedom = SHARED_EDGE - 1, len(new) - 2
    t, _, sizes, errors = t_of_steps(new, noise._replace(variance=0.0, prior_runs=0.0), edge)
    likely = (len(new) + 1) * np.log1p(t**2 / freedom)
    best = place - start - edge
    if not is_shared:
        nearest = max(best - EDGE, 0)
        best = nearest + int(np.argmax(likely[nearest : best + EDGE + 1]))
    within = (np.flatnonzero(likely >= likely[best] - POSITION_DROP) + start + edge).tolist()
    size, half = float(sizes[best]), float(stdtrit(freedom, 0.975) * errors[best])
    return Step(start + edge + best, within[0], within[-1], (size, size - half, size + half))


def gls_steps(new: Floats, rho: Floats, first: Any, start: Any, stop: Any) -> tuple[Floats, Floats]:
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


def t_of_steps(new: Floats, noise: Noise, edge: int) -> tuple[Floats, Floats, Floats, Floats]:
    """(t, its normal deviate, size, standard error) of a step before each run from `edge` to
    `runs - edge`, over all innovations (..., runs - 1)."""
    n = new.shape[-1] + 1
    first = np.arange(edge, n - edge + 1)
    size, weight = gls_steps(new, noise.rho, first, 0 * first, 0 * first + n - 1)
    squares = np.sum(np.square(new - new.mean(axis=-1, keepdims=True)), axis=-1, keepdims=True)
    rest = np.maximum(squares - size**2 * weight, LEAST_VARIANCE * (n - 3))
    freedom = n - 3 + noise.prior_runs
    variance = (rest + noise.variance * noise.prior_runs) / freedom
    error = np.sqrt(variance / weight)
    return size / error, normal(size / error, freedom), size, error


def normal(t: Floats, freedom: float) -> Floats:
    """The normal deviate with the p of `t` (Wallace, Annals of Mathematical Statistics, 1959)."""
    factor = (8 * freedom + 1) / (8 * freedom + 3)
    return np.asarray(np.sign(t) * factor * np.sqrt(freedom * np.log1p(t**2 / freedom)))


def threshold(p: Floats | float, excess: Any, rho: float, runs: Any) -> Floats:
    """The normal deviate at two-sided `p` for a step with `runs` runs on its shorter side, raised
    for heavy tails (Cornish and Fisher's expansion)."""
    deviate, share, after = -ndtri(p / 2), 1 - rho, runs - 1
    weight = (1 + share**4 * after) / (1 + share**2 * after) ** 2
    return np.asarray(deviate + excess * weight / 12 * (deviate**3 - 3 * deviate))


def estimate_noise(values: Floats) -> tuple[Floats, Noise]:
    """The innovations of all runs but the first, (series, runs - 1), and the noise. The more alike
    the series are, the more runs the prior counts for (Smyth, Statistical Applications in Genetics
    and Molecular Biology 3, 2004, with 2 / degrees of freedom as the logarithm's variance)."""
    calm = winsorise(values, MOST_VALUE)
    rho = correlations(calm)
    new = winsorise(calm[:, 1:] - rho * calm[:, :-1], MOST_INNOVATION)
    away = new - row_medians(new)
    squares, fourth = np.mean(np.square(away), axis=-1), np.mean(away**4, axis=-1)
    kurtosis = np.divide(fourth, squares**2, out=np.full_like(squares, 3.0), where=squares > 0)
    logs, own = np.log(difference_variance(new)), new.shape[-1] * DIFFERENCE_RUNS
    between = max(float(np.var(logs)) - 2 / own, 1e-9)
    prior_runs = min(2 / between, 2 * own) if len(new) > 1 else 0.0
    excess = max(float(np.mean(kurtosis)) - 3, 0.0)
    return new, Noise(rho, excess, float(np.exp(np.mean(logs))), float(prior_runs))


def winsorise(values: Floats, most: float) -> Floats:
    """The values, (series, runs), at most `most` robust standard deviations from their median."""
    medians = running_median(values, OUTLIER_RUNS)
    return np.asarray(medians + clipped(values - medians, most))


def row_medians(values: Floats) -> Floats:
    """The median of each row, (..., 1). For short rows np.median takes twice as long."""
    n, ordered = values.shape[-1], np.sort(values, axis=-1)
    return np.asarray((ordered[..., [(n - 1) // 2]] + ordered[..., [n // 2]]) / 2)


def running_median(values: Floats, width: int) -> Floats:
    """The median of `width` runs around each run, (series, runs); it preserves steps."""
    half = width // 2
    windows = np.lib.stride_tricks.sliding_window_view(values, width, axis=-1)
    medians = np.partition(windows, half, axis=-1)[..., half]
    return np.pad(medians, [(0, 0), (half, half)], mode="edge")


def correlations(calm: Floats) -> Floats:
    """The correlation of neighbouring runs, from 0 to 0.9, of each series, (series, 1). Differences
    over two runs against differences over one give a first estimate for all series. The rest shows
    in the innovations' deviations from their running median, which steps do not bend. An empirical
    Bayes estimate shrinks each series towards the mean of all."""
    by_one, by_two = (np.mean(squared_differences(calm, lag)) for lag in (1, 2))
    first = float(np.clip(by_two / by_one - 1, 0, 0.9)) if by_one > 0 else 0.0
    new = winsorise(calm[:, 1:] - first * calm[:, :-1], MOST_INNOVATION)
    away = new - running_median(new, CORRELATION_RUNS)
    squares, lagged = np.mean(away**2, axis=-1), np.mean(away[:, 1:] * away[:, :-1], axis=-1)
    lag_1 = np.divide(lagged, squares, out=np.full_like(lagged, ZERO_RHO), where=squares > 0)
    rest = (lag_1 - ZERO_RHO) / RHO_SLOPE
    chance = RHO_VARIANCE / new.shape[-1]
    beyond = max(0.0, float(np.var(rest)) - chance)
    weight = beyond / (beyond + chance)
    # A correlation that is too low costs false alarms; one that is too high costs little. The mean
    # over series that move together has the standard error `common * sqrt(chance)`.
    _, common = common_correlation(away)
    mean = first + rest.mean() + common * np.sqrt(chance)
    own = weight * (rest - rest.mean()) + np.sqrt(weight * chance) / 4
    return np.asarray(np.clip(mean + own, 0, 0.9))[:, None]


def squared_differences(values: Floats, lag: int) -> Floats:
    """Squared differences over `lag` runs; large ones, as across a step, are clipped."""
    return np.square(clipped(values[:, lag:] - values[:, :-lag], MOST_DIFFERENCE))


def difference_variance(new: Floats) -> Floats:
    """The variance of each series' innovations, (series,), from differences of neighbours."""
    return np.asarray(np.maximum(squared_differences(new, 1).mean(axis=-1) / 2, LEAST_VARIANCE))


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
    squares = window_squares(values[:, -MOST_BASE - MOST_WINDOW :], len(looks))
    for part in np.flatnonzero(is_told.any(axis=1)).tolist():
        is_told[part, MOST_WINDOW - 1 :] = True
        best = int(np.argmax(np.where(is_told[part], squares[part], 0)))
        if best + 1 == MOST_WINDOW and runs >= MIN_RUNS:
            continue
        near = likely[part] >= likely[part, best] - POSITION_DROP
        firsts = runs - 1 - np.flatnonzero(near)
        for series, size in looks[best].sizes(part).items():
            step = Step(runs - 1 - best, int(firsts.min()), int(firsts.max()), size)
            steps[series] = steps[series] or [step]
    return steps


def window_squares(values: Floats, windows: int) -> Floats:
    """The squares that a step before the last 1 to `windows` runs explains in each part, (1 +
    series, windows): its maximum is the least-squares place."""
    units, _ = standardise(values, windows, LEAST_VARIANCE)
    common = np.median(units, axis=0, keepdims=True)
    sums = np.cumsum(np.vstack([common, units - common])[:, ::-1], axis=-1)
    n, after = values.shape[1], np.arange(1, windows + 1)
    before = n - after
    shift = sums[:, :windows] / after - (sums[:, [-1]] - sums[:, :windows]) / before
    return np.asarray(shift**2 * after * before / n)


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
    away = clipped(before - middle, MOST_BEFORE)
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
