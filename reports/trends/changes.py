"""Finds steps in the level of series over the same runs, in order of time: `judge`.

The median over the series shows the steps that they share; each series' deviation from it shows
its own. One test serves both: the size of a step by generalised least squares (GLS) in a noise in
which neighbouring runs have the correlation `rho`. An innovation is what a run adds to `rho` times
the run before. It counts so little that outliers alone do not pass. Arrays are (series, runs) or,
of innovations, (series, runs - 1). docs/experiments/history.md has the method and its sources."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtrit

from reports.store.stats import clipped
from reports.verdicts.verdict import Floats

LEAST_BASE = 10  # more runs are searched for steps
MIN_RUNS = 20  # of a history that is steady; in a shorter one only large steps are found
# The fewest runs on either side of a step. One slow run of all series is no step, and the next
# confirms it; two of one series are none, because a month has many such pairs.
SHARED_EDGE, EDGE = 2, 3
LEAST_SHARED = 3  # series whose median is neither one of two nor their mean
# The nominal chance, of shared and of own steps each, at one look. Thirty looks at almost the same
# runs raise an alarm in fewer than 5 % of months without a change (docs/calibration.md).
ALPHA = 0.006
MEMBER_ALPHA = 0.05  # that some series which did not change is named beside those that did
SPELL_RUNS = 10  # a step is also tested among so many runs on either side, for short spells
OUTLIER = 3.0  # robust standard deviations that a run or a difference counts at the most
MARGIN = 1.1  # over the threshold, for the noise of the runs before
# Twice the log-likelihood has this drop from its maximum to the place of a step in 95 % of cases:
# it is the maximum of two random walks with drift (Hinkley, Biometrika 57, 1970).
PLACE_DROP = -2 * np.log(1 - np.sqrt(0.95))
DIFFERENCE_FREEDOM = 2 / 3  # that a difference of neighbours adds (von Neumann, 1941)
RHO_VARIANCE = 3.0  # of an estimated rho, times the runs, by simulation: 2 at rho 0, 3 at 0.4
MOST_RHO = 0.9
LEAST_SPREAD = 1e-4  # of logarithms: 0.01 %
NOISY_SPREAD = np.log(1.1) / 3  # of logarithms: a step of three spreads is found

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


class Noise(NamedTuple):
    """The correlation of neighbouring runs and the standard deviation of innovations, (series, 1),
    and the degrees of freedom of the latter."""

    rho: Floats
    spread: Floats
    freedom: float

    def of(self, series: int) -> "Noise":
        return Noise(self.rho[[series]], self.spread[[series]], self.freedom)


Places = dict[int, tuple[int, int]]  # of steps: the first run after each, and its 95 % interval


def judge(log_costs: Floats, n_series: int) -> tuple[list[tuple[list[LevelChange], str]], float]:
    """The steps of each series of `log_costs`, in order of time, and its word if none counts; then
    the correlation of neighbouring runs. `n_series` counts the series that all calls test
    together."""
    values = log_costs - np.median(log_costs, axis=1, keepdims=True)
    n, runs = values.shape
    noise, rest, shared = noise_of(values), values, Places()
    rho = noise.rho

    if n >= LEAST_SHARED:
        middle = np.median(values, axis=0, keepdims=True)
        of_middle = noise_of(middle, float(noise_of(values - middle).rho.mean()))
        alpha, rho = ALPHA * n / n_series, of_middle.rho
        [shared] = find_steps(middle, of_middle, alpha, SHARED_EDGE)
        if stands_out(middle, of_middle, shared, alpha):
            shared[runs - 1] = runs - 1, runs - 1
        noise = noise_of(values - levels_between(values, [shared] * n))
        # Near runs only: those further off may have steps of the series' own.
        members = shared_steps(values, noise, shared, SPELL_RUNS)
        rest = values - levels_between(values, members)
        rest -= np.median(rest, axis=0)

    of_rest = noise_of(rest)
    found = find_steps(rest, of_rest, ALPHA / n_series, EDGE)
    # A step that may be a shared one is judged as that, over all runs.
    own = [
        {
            first: (low, high)
            for first, (low, high) in places.items()
            if not any(low - EDGE <= place <= high + EDGE for place in shared)
        }
        for places in found
    ]
    steps = shared_steps(values - levels_between(rest, own), noise, shared, runs)

    for series, places in enumerate(own):
        for start, first, stop in neighbours(places, runs):
            [log_ratio], _ = sizes_of(rest[[series]], of_rest.of(series), start, first, stop)
            steps[series][first] = LevelChange(first, *places[first], log_ratio)

    spreads = (noise.spread / np.sqrt(1 - noise.rho**2))[:, 0]
    words = np.where(spreads > NOISY_SPREAD, "noisy", "steady")
    return [
        (
            [of_series[first] for first in sorted(of_series)],
            word if runs >= MIN_RUNS else "too early",
        )
        for of_series, word in zip(steps, words.tolist(), strict=True)
    ], float(rho.mean())


def shared_steps(
    values: Floats, noise: Noise, places: Places, reach: int
) -> list[dict[int, LevelChange]]:
    """The steps of each series at these places, by their first run; of sizes over `reach` runs on
    either side. The chance that any series is named which did not change is MEMBER_ALPHA."""
    n, runs = values.shape
    steps = [dict[int, LevelChange]() for _ in values]
    limit = stdtrit(noise.freedom, 1 - MEMBER_ALPHA / n / 2)

    for start, first, stop in neighbours(places, runs):
        near = max(start, first - reach), first, min(stop, first + reach)
        log_ratios, deviates = sizes_of(values, noise, *near)
        doubt = SUSPECT if first == runs - 1 else ""
        for series in np.flatnonzero(np.abs(deviates) > limit).tolist():
            steps[series][first] = LevelChange(first, *places[first], log_ratios[series], doubt)

    return steps


def neighbours(firsts: Iterable[int], runs: int) -> Iterator[tuple[int, int, int]]:
    """Each step between the one before it and the one after it."""
    ends = [0, *firsts, runs]
    return zip(ends, ends[1:], ends[2:], strict=False)


def levels_between(values: Floats, firsts: Sequence[Iterable[int]]) -> Floats:
    """The level of each run: the median between two steps of its series."""
    levels = np.empty_like(values)
    for series, own in enumerate(map(sorted, firsts)):
        for start, stop in pairwise([0, *own, values.shape[1]]):
            levels[series, start:stop] = np.median(values[series, start:stop])

    return levels


def noise_of(values: Floats, least_rho: float = 0.0) -> Noise:
    """The noise of series, from differences of neighbours, of which a step disturbs one. Series
    share what chance explains: an empirical Bayes estimate of rho, at least `least_rho`, and of the
    variance (Smyth, Statistical Applications in Genetics and Molecular Biology 3, 2004)."""
    runs = values.shape[1]
    steps = clipped(np.diff(values), OUTLIER)
    squares = np.maximum(np.mean(steps**2, axis=1, keepdims=True), LEAST_SPREAD**2)
    # Neighbouring differences of an AR(1) have the correlation (rho - 1) / 2.
    rho = 1 + 2 * np.mean(steps[:, 1:] * steps[:, :-1], axis=1, keepdims=True) / squares
    own_share = max(0.0, 1 - RHO_VARIANCE / runs / max(np.var(rho), 1e-9))
    rho = np.clip(rho.mean() + own_share * (rho - rho.mean()), least_rho, MOST_RHO)
    steps = clipped(np.diff(innovations_of(values, rho)), OUTLIER)
    variance = np.maximum(np.mean(steps**2, axis=1, keepdims=True) / 2, LEAST_SPREAD**2)
    freedom = DIFFERENCE_FREEDOM * runs
    if len(values) > 1:
        # The logarithm of a variance has the variance 2 / degrees of freedom.
        excess = max(float(np.var(np.log(variance))) - 2 / freedom, 1e-9)
        prior = min(2 / excess, 2 * freedom)
        shared = np.exp(np.mean(np.log(variance)))
        variance = (freedom * variance + prior * shared) / (freedom + prior)
        freedom += prior

    return Noise(rho, np.sqrt(variance), freedom)


def innovations_of(values: Floats, rho: Floats) -> Floats:
    return values[:, 1:] - rho * values[:, :-1]


def find_steps(values: Floats, noise: Noise, alpha: float, edge: int) -> list[Places]:
    """The places of the steps of each series."""
    runs = values.shape[1]
    units = innovations_of(values, noise.rho) / noise.spread
    scores, _ = best_steps(units, noise, alpha, edge, 0, runs)
    found = [Places() for _ in values]

    for series in np.flatnonzero(scores > 1).tolist():
        own, of_own = units[[series]], noise.of(series)
        firsts, segments = list[int](), [(0, runs)]
        while segments:  # binary segmentation
            start, stop = segments.pop()
            if stop - start >= 2 * edge:
                [score], [first] = best_steps(own, of_own, alpha, edge, start, stop)
                if score > 1:
                    firsts.append(int(first))
                    segments += [(start, first), (first, stop)]

        start = 0
        for _, first, stop in neighbours(sorted(firsts), runs):
            start, low, high = place_of(own[:, start : stop - 1], of_own, start, first)
            found[series][start] = low, high

    return found


def best_steps(
    units: Floats, noise: Noise, alpha: float, edge: int, start: int, stop: int
) -> tuple[Any, Any]:
    """The best step of each series between two runs: its deviate over its threshold, and its first
    run. It is tested against all these runs and against those near it. `units` are innovations in
    standard deviations."""
    runs = stop - start
    first = np.arange(edge, runs - edge + 1)
    # The newest steps are the news, and an older one has more runs that show it (weighted
    # Bonferroni: Genovese, Roeder and Wasserman, Biometrika 93, 2006).
    share = 1 / np.maximum(runs - first, SPELL_RUNS) ** 2.0
    limits = stdtrit(noise.freedom, 1 - alpha / 4 * share / share.sum())
    # Innovations as many as an edge has runs pass together, but not one fewer.
    later, total = 1 - noise.rho, runs - 1
    expected = 1 + (edge - 1) * later
    weight = 1 + (edge - 1) * later**2 - expected**2 / total
    most = MARGIN * limits.min() * np.sqrt(weight) / expected / (1 - edge / total)
    segment = calm(units[:, start : stop - 1], most)
    near = np.maximum(first - SPELL_RUNS, 0), np.minimum(first + SPELL_RUNS, runs)
    deviates = [gls(segment, noise.rho, first, *window)[0] for window in ((0, runs), near)]
    scores = np.max(np.abs(deviates), axis=0) / limits
    return scores.max(axis=1), start + first[np.argmax(scores, axis=1)]


def calm(units: Floats, most: float | Floats) -> Floats:
    """Values of which none is further than `most` from their median."""
    middle = np.median(units, axis=1, keepdims=True)
    return np.clip(units, middle - most, middle + most)


def place_of(units: Floats, noise: Noise, start: int, first: int) -> tuple[int, int, int]:
    """The place of a step that was found before the run `first`, among `units` since `start`: of
    the likely places, whatever outliers there are, the one of least squares; and its interval."""
    # Before the second run there is no innovation, and the last run alone is no step.
    places = np.arange(2, units.shape[1])
    robust, plain = (
        gls(each, noise.rho, places, 0, units.shape[1] + 1)[0][0] ** 2
        for each in (calm(units, OUTLIER), units)
    )
    plain[robust < robust[first - start - 2] - PLACE_DROP] = 0
    likely = np.flatnonzero(plain >= plain.max() - PLACE_DROP)
    best, low, high = (int(at) + start + 2 for at in (np.argmax(plain), likely[0], likely[-1]))
    return best, low, high


def stands_out(values: Floats, noise: Noise, firsts: Iterable[int], alpha: float) -> bool:
    """Whether the newest run alone is off, by one test, since the last of these steps."""
    start = max(firsts, default=0)
    units = innovations_of(values[:, start:], noise.rho)[0] / noise.spread[0, 0]
    if len(units) < 2:
        return False

    deviate = (units[-1] - np.median(units[:-1])) / np.sqrt(1 + 1 / (len(units) - 1))
    return bool(abs(deviate) > stdtrit(noise.freedom, 1 - alpha / 2))


def sizes_of(
    values: Floats, noise: Noise, start: int, first: int, stop: int
) -> tuple[Floats, Floats]:
    """The log ratio of each series' step before the run `first` with its 95 % interval, (series,
    3), and the same in standard errors, (series,), between two other steps."""
    most = OUTLIER * noise.spread / np.sqrt(1 - noise.rho**2)
    near = np.hstack([calm(values[:, start:first], most), calm(values[:, first:stop], most)])
    units = innovations_of(near, noise.rho) / noise.spread
    deviates, error = gls(units, noise.rho, np.array([first - start]), 0, stop - start)
    half = error * stdtrit(noise.freedom, 0.975)
    size = error * deviates
    return np.hstack([size, size - half, size + half]) * noise.spread, deviates[:, 0]


def gls(
    innovations: Floats, rho: Floats, first: Any, start: Any, stop: Any
) -> tuple[Floats, Floats]:
    """The sizes of steps before the runs `first`, (..., len(first)), each over the runs from
    `start` to `stop`, in their standard errors, (len(first),), for innovations of variance 1; and
    these errors."""
    zero = np.zeros_like(innovations[..., :1])
    sums = np.concatenate([zero, np.cumsum(innovations, axis=-1)], axis=-1)
    start, stop = start + 0 * first, stop - 1 + 0 * first  # the first run has no innovation
    total, after = stop - start, stop - first
    share = 1 - rho  # of a level in each innovation after the first
    mean = (sums[..., stop] - sums[..., start]) / total
    expected = 1 + share * after
    weight = 1 + share**2 * after - expected**2 / total
    later = share * (sums[..., stop] - sums[..., first])
    size = (innovations[..., first - 1] + later - expected * mean) / weight
    return size * np.sqrt(weight), 1 / np.sqrt(weight)
