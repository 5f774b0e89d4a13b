"""Finds steps in the level of series over the same runs, in order of time: `judge`.

The noise of a series is an AR(1): neighbouring runs have the correlation `rho`, and an innovation
is what a run adds to `rho` times the run before. `find_steps` tests a step before each run on the
innovations, by generalised least squares (GLS). `find_latest` tells a large step from its first
runs on, in which it could also be an outlier. Arrays are (series, runs) or, of innovations,
(series, runs - 1). docs/experiments/history.md explains the method and cites its sources."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from scipy.special import chdtri, stdtrit

from reports.store.stats import clipped
from reports.verdicts.verdict import Floats

MIN_RUNS = 20  # of a history, or of the runs between two steps, that is searched for steps
EDGE, SHARED_EDGE = 8, 3  # runs on either side of a step of one series, of many series
NEAR_RUNS = 10, 30  # on either side of a step: a level that was soon reverted shows among these
# Nominal chance of an alarm at one look: for a step at the last place with EDGE runs after it, at
# an earlier place, and of many series. Together with the latest runs they raise an alarm in fewer
# than 5 % of months without a change.
LATEST_ALPHA, EARLIER_ALPHA, SHARED_ALPHA = 4e-4, 1e-4, 5e-4
MEMBER_DEVIATE = 2.5  # standard errors by which a series changes that has a shared step
PLACE_DROP = 6.0  # in twice the log likelihood: by simulation it gives 95 % intervals
OUTLIER_RUNS, CORRELATION_RUNS = 9, 17  # windows of running medians
# Limits of innovations and of other deviations, in robust standard deviations.
MOST_INNOVATION, MOST_DEVIATION = 3.5, 3.0
# Other steps inflate the variance around the best step, but hardly that of differences of
# neighbours, which scatters more. By chance the first is rarely this many times the second.
MOST_VARIANCE_RATIO = 1.5
# By simulation: the lag-1 correlation of deviations from the running median at rho = 0, its slope
# over rho, and the variance of the estimated rho, times the number of runs.
ZERO_RHO, RHO_SLOPE, RHO_VARIANCE = -0.02, 0.79, 1.6
DIFFERENCE_FREEDOM = 2 / 3  # that a difference of neighbours adds to the variance
LEAST_VARIANCE = 1e-8  # of a logarithm: a spread of 0.01 %
LEAST_BASE, MOST_BASE, MOST_LATEST = 10, 40, 11  # runs before the latest runs; the latest runs
# Nominal chance that the latest runs are so far off: of all series, of one.
ALL_LATEST_ALPHA, ONE_LATEST_ALPHA = 3e-4, 1e-4
YOUNG_RHO = 0.4  # assumed below MIN_RUNS: less correlation costs power and no false alarms
NOISY_SPREAD = np.log(1.1) / 3  # of logarithms: a step of three spreads is found


@dataclass
class Step:
    """A change of level before the run `first` (an index); 95 % interval `low` to `high`.
    `log_ratio` is the logarithm of the ratio of levels, after over before, with its 95 % interval.
    A step between levels of which one has disturbed runs only is no alarm."""

    first: int
    low: int
    high: int
    log_ratio: tuple[float, float, float]
    is_alarm: bool = True

    @property
    def word(self) -> str:
        return "worse" if self.log_ratio[0] > 0 else "better"


class Noise(NamedTuple):
    """The scatter around the levels: the correlation of neighbouring runs, (series, 1); the mean
    excess kurtosis of innovations; and a prior for their variance, worth `prior_runs` runs."""

    rho: Floats
    excess: float
    variance: float
    prior_runs: float


def judge(log_costs: Floats, n_series: int) -> list[tuple[list[Step], str]]:
    """The steps of each series, in order of time, and its word if none counts. `n_series` counts
    the series that all calls test together."""
    runs = log_costs.shape[1]
    noise = estimate_noise(log_costs)
    # The search would misplace a step of all series that is younger than SHARED_EDGE.
    latest = find_latest(log_costs, noise, n_series, SHARED_EDGE)
    age = max((own for own in latest if own < SHARED_EDGE), default=0)
    firsts = find_steps(log_costs[:, : runs - age], noise, n_series)
    rest = log_costs - levels_between(log_costs, firsts)
    latest = find_latest(rest, noise, n_series, MOST_LATEST)

    for own, age in zip(firsts, latest, strict=True):
        own += [runs - age] if age else []

    levels = levels_between(log_costs, firsts)
    rest = clipped(log_costs - levels, MOST_INNOVATION)
    innovations = innovations_of(levels + rest, noise.rho)
    steps = [list[Step]() for _ in log_costs]

    for same, rows in alike(firsts):
        of_rows = noise._replace(rho=noise.rho[rows])
        for start, first, stop in neighbours(same, runs):
            measured = measure(innovations[rows, start : stop - 1], of_rows, start, first)
            for series, step in zip(rows, measured, strict=True):
                steps[series].append(step)

    if runs < MIN_RUNS:
        return [(own, "too early") for own in steps]

    spreads = rest[:, -MOST_BASE:].std(axis=-1, ddof=1)
    words = ["noisy" if spread > NOISY_SPREAD else "steady" for spread in spreads]
    return list(zip(steps, words, strict=True))


def neighbours(firsts: Sequence[int], runs: int) -> Iterator[tuple[int, int, int]]:
    """Each step between the one before it and the one after it."""
    return zip([0, *firsts], firsts, [*firsts[1:], runs], strict=False)


def alike(firsts: Sequence[Sequence[int]]) -> Iterator[tuple[Sequence[int], list[int]]]:
    """The series with the same steps, which are computed together: shared steps are many."""
    rows: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for series, own in enumerate(firsts):
        rows[tuple(own)].append(series)

    yield from rows.items()


def levels_between(log_costs: Floats, firsts: Sequence[Sequence[int]]) -> Floats:
    """The level of each run: the median between two steps."""
    levels = np.empty_like(log_costs)
    for own, rows in alike(firsts):
        for start, stop in pairwise([0, *own, log_costs.shape[1]]):
            between = log_costs[rows, start:stop]
            levels[rows, start:stop] = np.median(between, axis=-1, keepdims=True)

    return levels


def find_steps(log_costs: Floats, noise: Noise, n_series: int) -> list[list[int]]:
    """The first run after each step of each series: first of those that many series share, then of
    its own."""
    runs, firsts = log_costs.shape[1], [list[int]() for _ in log_costs]
    if runs < MIN_RUNS:
        return firsts

    innovations = calm(innovations_of(log_costs, noise.rho))
    shared = split(partial(best_shared_step, innovations, noise), 0, runs)

    for start, first, stop in neighbours(shared, runs):
        segment = innovations[:, start : stop - 1]
        _, deviates = deviates_of_steps(segment, noise, SHARED_EDGE, NEAR_RUNS[0])
        is_member = np.abs(deviates[:, first - start - SHARED_EDGE]) > MEMBER_DEVIATE
        for series in np.flatnonzero(is_member).tolist():
            firsts[series].append(first)

    rest = log_costs - levels_between(log_costs, firsts)
    innovations = calm(innovations_of(rest, noise.rho))
    scores, _ = best_steps(innovations, noise, n_series, 0, runs)

    for series in np.flatnonzero(scores > 1).tolist():
        own, of_series = innovations[[series]], noise._replace(rho=noise.rho[[series]])
        places = split(partial(best_steps, own, of_series, n_series), 0, runs)
        for start, _, stop in neighbours(places, runs):
            _, deviates = deviates_of_steps(own[:, start : stop - 1], of_series, 1)
            firsts[series].append(start + 2 + int(np.argmax(np.abs(deviates))))
        firsts[series] = sorted({*firsts[series]})

    return firsts


def split(best: Callable[[int, int], tuple[Any, Any]], start: int, stop: int) -> list[int]:
    """The places of steps by binary segmentation, at the best place while its score exceeds 1."""
    if stop - start < MIN_RUNS:
        return []

    score, place = best(start, stop)
    if score <= 1:
        return []

    middle = start + place.item()
    return [*split(best, start, middle), middle, *split(best, middle, stop)]


def best_steps(
    innovations: Floats, noise: Noise, n_series: int, start: int, stop: int
) -> tuple[Any, Any]:
    """The best step of each series between two runs: its deviate over its threshold, and the number
    of runs before it. It is tested against all these runs and against those near it."""
    n = stop - start
    n_places = n - 2 * EDGE + 1
    segment = innovations[:, start : stop - 1]
    scores, sizes = [], []

    for window in (n, *NEAR_RUNS):
        p = np.full(n_places, EARLIER_ALPHA / n_places / 3)
        if window == n and stop == innovations.shape[-1] + 1:
            p[-1] = LATEST_ALPHA
        limits = stdtrit(n - 3 + noise.prior_runs, 1 - p / n_series / 2)
        limits += noise.excess / EDGE * (limits**3 - 3 * limits) / 12
        sizes.append(np.abs(deviates_of_steps(segment, noise, EDGE, window)[1]))
        scores.append(sizes[-1] / limits)

    return np.max(scores, axis=(0, -1)), EDGE + np.argmax(np.max(sizes, axis=0), axis=-1)


def best_shared_step(innovations: Floats, noise: Noise, start: int, stop: int) -> tuple[Any, Any]:
    """The best step of many series, as in `best_steps`, at the place of least squares: by the sum
    of squared deviates, or by the median over the series, which tells smaller steps of all."""
    segment = innovations[:, start : stop - 1]
    _, deviates = deviates_of_steps(segment, noise, SHARED_EDGE)
    alpha = SHARED_ALPHA / deviates.shape[1]
    sums, freedom = own_squares(segment, deviates)
    freedom /= 1 + noise.excess / SHARED_EDGE
    scores = sums * freedom / chdtri(freedom, alpha)
    units = segment / np.sqrt(difference_variance(segment))
    middle = calm(np.median(units, axis=0, keepdims=True))
    of_middle = noise._replace(rho=noise.rho.mean(keepdims=True), prior_runs=0.0)
    _, middle_deviates = deviates_of_steps(middle, of_middle, SHARED_EDGE)
    limit = stdtrit(segment.shape[1] - 2, 1 - alpha / 2)
    scores = np.maximum(scores, np.abs(middle_deviates[0]) / limit)
    explained = np.sum(deviates**2, axis=0)
    return scores.max(), SHARED_EDGE + np.argmax(np.where(scores > 1, explained, 0))


def own_squares(innovations: Floats, deviates: Floats) -> tuple[Floats, float]:
    """The mean square of deviates over the series, around the median over the series, and the
    degrees of freedom that the remaining correlations leave (Satterthwaite, Biometrics 2, 1946)."""
    away = deviations(innovations)
    away /= np.sqrt(np.maximum(np.mean(away**2, axis=-1, keepdims=True), LEAST_VARIANCE))
    away -= np.median(away, axis=0)
    series, runs = away.shape
    scale = max(float(np.mean(away**2)), LEAST_VARIANCE)
    correlations = away @ away.T / runs / scale
    spread = np.sum(correlations**2) - series**2 / runs
    squares = np.mean(np.square(deviates - np.median(deviates, axis=0)), axis=0) / scale
    return squares / max(1, np.median(squares)), float(series**2 / max(spread, series))


def measure(innovations: Floats, noise: Noise, start: int, first: int) -> list[Step]:
    """The step of each series before the run `first`, from the innovations since the run `start`,
    with the intervals of its place and size."""
    log_ratios, deviates = deviates_of_steps(innovations, noise, 1)
    first_place = start + 2
    log_ratio, deviate = (rows[:, first - first_place] for rows in (log_ratios, deviates))
    is_likely = np.square(deviates) >= np.square(deviate)[:, None] - PLACE_DROP
    low = first_place + np.argmax(is_likely, axis=-1)
    high = first_place + is_likely.shape[1] - 1 - np.argmax(is_likely[:, ::-1], axis=-1)
    freedom = innovations.shape[-1] - 2 + noise.prior_runs
    half = np.abs(log_ratio / deviate) * stdtrit(freedom, 0.975)
    sizes = np.stack([log_ratio, log_ratio - half, log_ratio + half], axis=-1)
    intervals = zip(low.tolist(), high.tolist(), sizes.tolist(), strict=True)
    return [Step(first, place, end, tuple(size)) for place, end, size in intervals]


def deviates_of_steps(
    innovations: Floats, noise: Noise, edge: int, window: int | None = None
) -> tuple[Floats, Floats]:
    """The log ratio of a step before each run from `edge` to `runs - edge`, and the same in its
    standard errors (t): over all runs, or over `window` runs on either side."""
    runs = innovations.shape[-1] + 1
    first = np.arange(max(edge, 2), runs - edge + 1)  # before the second run there is no innovation
    everything = gls_steps(innovations, noise.rho, first, 0 * first, 0 * first + runs - 1)
    log_ratios, weights = everything

    if window:
        start, stop = np.maximum(first - window, 0), np.minimum(first + window, runs) - 1
        log_ratios, weights = gls_steps(innovations, noise.rho, first, start, stop)

    variance = innovation_variance(innovations, noise, *everything)
    return log_ratios, log_ratios * np.sqrt(weights / variance)


def innovation_variance(
    innovations: Floats, noise: Noise, log_ratios: Floats, weights: Floats
) -> Floats:
    """The variance of each series' innovations around its best step, (series, 1), with the prior
    (Smyth, Statistical Applications in Genetics and Molecular Biology 3, 2004)."""
    freedom = max(innovations.shape[-1] - 2, 1)
    centred = innovations - innovations.mean(axis=-1, keepdims=True)
    explained = np.max(log_ratios**2 * weights, axis=-1, keepdims=True)
    rest = (np.sum(centred**2, axis=-1, keepdims=True) - explained) / freedom
    variance = np.minimum(rest, MOST_VARIANCE_RATIO * difference_variance(innovations))
    total = np.maximum(variance, LEAST_VARIANCE) * freedom + noise.variance * noise.prior_runs
    return np.asarray(total / (freedom + noise.prior_runs))


def gls_steps(
    innovations: Floats, rho: Floats, first: Any, start: Any, stop: Any
) -> tuple[Floats, Floats]:
    """Log ratios of steps before the runs `first`, (..., len(first)), each over the innovations
    from `start` to `stop`, and their GLS weights: the innovations' variance over the estimate's."""
    zero = np.zeros_like(innovations[..., :1])
    sums = np.concatenate([zero, np.cumsum(innovations, axis=-1)], axis=-1)
    total, after = stop - start, stop - first
    share = 1 - rho  # of a level in each innovation after the first
    mean = (sums[..., stop] - sums[..., start]) / total
    expected = 1 + share * after
    weight = 1 + share**2 * after - expected**2 / total
    later = share * (sums[..., stop] - sums[..., first])
    return (innovations[..., first - 1] + later - expected * mean) / weight, weight


def innovations_of(log_costs: Floats, rho: Floats) -> Floats:
    return log_costs[:, 1:] - rho * log_costs[:, :-1]


def calm(innovations: Floats) -> Floats:
    """Innovations with limited outliers."""
    medians = running_median(innovations, OUTLIER_RUNS)
    return np.asarray(medians + clipped(innovations - medians, MOST_INNOVATION))


def running_median(values: Floats, width: int) -> Floats:
    """The median of `width` runs around each run; it preserves steps."""
    half = width // 2
    windows = np.lib.stride_tricks.sliding_window_view(values, width, axis=-1)
    medians = np.partition(windows, half, axis=-1)[..., half]
    return np.pad(medians, [(0, 0), (half, half)], mode="edge")


def deviations(values: Floats) -> Floats:
    """From a running median, which keeps steps out of correlations. The last runs have no median
    around them, so a step there would look like correlation."""
    away = values - running_median(values, CORRELATION_RUNS)
    return away[:, : -(CORRELATION_RUNS // 2)]


def estimate_noise(log_costs: Floats) -> Noise:
    """The noise of these series. The more alike their variances are, the more runs the prior counts
    for; 2 / degrees of freedom is the variance of a variance's logarithm."""
    n_series, runs = log_costs.shape
    rho = np.full((n_series, 1), YOUNG_RHO) if runs < MIN_RUNS else correlations(log_costs)
    innovations = calm(innovations_of(log_costs, rho))
    centred = innovations - innovations.mean(axis=-1, keepdims=True)
    variances = np.maximum(np.mean(centred**2, axis=-1), LEAST_VARIANCE)
    kurtosis = np.mean(centred**4, axis=-1) / variances**2
    logs = np.log(difference_variance(innovations))
    freedom = DIFFERENCE_FREEDOM * runs
    between = max(float(np.var(logs)) - 2 / freedom, 1e-9)
    prior_runs = min(2 / between, 2 * freedom) if n_series > 1 else 0.0
    excess = max(float(np.mean(kurtosis)) - 3, 0.0)
    return Noise(rho, excess, float(np.exp(np.mean(logs))), prior_runs)


def correlations(log_costs: Floats) -> Floats:
    """The correlation of neighbouring runs, from 0 to 0.9, of each series, (series, 1): from
    deviations from a running median, which few steps disturb. An empirical Bayes estimate shrinks
    each series towards the mean of all."""
    away = clipped(deviations(log_costs), MOST_DEVIATION)
    squares = np.maximum(np.mean(away**2, axis=-1), LEAST_VARIANCE)
    lag_1 = np.mean(away[:, 1:] * away[:, :-1], axis=-1) / squares
    rhos = (lag_1 - ZERO_RHO) / RHO_SLOPE
    chance = RHO_VARIANCE / away.shape[1]
    between = max(float(np.var(rhos)) - chance, 0.0)
    weight = between / (between + chance)
    # Too low costs false alarms, too high little power.
    own = weight * (rhos - rhos.mean() + np.sqrt(chance))
    return np.asarray(np.clip(rhos.mean() + own, 0, 0.9))[:, None]


def difference_variance(innovations: Floats) -> Floats:
    """The variance of each series' innovations, (series, 1), from differences of neighbours. A
    large one, as across a step, is clipped."""
    differences = clipped(np.diff(innovations), MOST_DEVIATION)
    variance = np.mean(differences**2, axis=-1, keepdims=True) / 2
    return np.asarray(np.maximum(variance, LEAST_VARIANCE))


def find_latest(log_costs: Floats, noise: Noise, n_series: int, most: int) -> list[int]:
    """The age in runs of each series' latest step, at most `most`, 0 without one: all innovations
    since are far off on one side. The median over the series tells a step of all from the first run
    on, a series alone from its third, as it may have outliers."""
    n_latest = min(most, log_costs.shape[1] - LEAST_BASE)
    if n_latest < 1:
        return [0] * len(log_costs)

    innovations = innovations_of(log_costs, noise.rho)
    looks = [look_at(innovations, window, n_series) for window in range(1, n_latest + 1)]
    scores = np.array([score for score, _ in looks])  # (windows, 1 + series)
    latest = 1 + np.argmax(scores, axis=0)
    latest[scores.max(axis=0) <= 1] = 0

    if latest[0]:
        _, sizes = looks[latest[0] - 1]
        latest[1:][sizes[1:] / sizes[0] > 0.5] = latest[0]

    windows: list[int] = latest[1:].tolist()
    return windows


def look_at(innovations: Floats, window: int, n_series: int) -> tuple[Floats, Floats]:
    """How far off the last `window` innovations are, over a limit that they rarely pass by chance,
    and their median in standard deviations: first of the median over the series, then of each
    series, (1 + series,)."""
    base = innovations[:, -window - MOST_BASE : -window]
    middle = np.median(base, axis=-1, keepdims=True)
    spread = np.sqrt(np.maximum(base.var(axis=-1, ddof=1, keepdims=True), LEAST_VARIANCE))
    deviates = (innovations[:, -window:] - middle) / spread
    deviates = np.vstack([np.median(deviates, axis=0), deviates])
    n, runs = base.shape
    alpha = np.array([ALL_LATEST_ALPHA * n, *[ONE_LATEST_ALPHA] * n]) / n_series
    p_of_run = alpha ** (1 / min(window, 3))
    limits = stdtrit(runs - 1, 1 - p_of_run / 2) * np.sqrt(1 + 1 / runs)
    scores = np.maximum(deviates.min(axis=1), -deviates.max(axis=1)) / limits

    if window < 3:  # one run is no step of one or two series
        scores[1 if n > 2 else 0 :] = 0

    return scores, np.median(deviates, axis=1)
