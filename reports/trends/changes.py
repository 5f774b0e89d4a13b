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

from reports.verdicts.verdict import Floats
from wiretax.common.grouped import grouped
from wiretax.record.stats import clipped

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
# What is assumed of rho before runs show it: of series, and how far the median over them differs.
USUAL_RHO, RHO_SD, MIDDLE_RHO_SD = 0.3, 0.3, 0.2
# By simulation, so that months without a change hold with few series and heavy tails: the factors
# by which what is not known of rho, and outliers, lower the degrees of freedom.
RHO_PRICE, TAIL_PRICE = 1.2, 1.0
NORMAL_TAIL = 0.0027  # the share of normal values beyond three standard deviations
MOST_RHO = 0.9
LEAST_SPREAD = 1e-4  # of logarithms: 0.01 %
ROUNDING = 1e-12  # of logarithms, and more than that of numbers
NOISY_STEP = np.log(1.1)  # a series where only larger ones would be found is not steady
LATE_RUNS, POWER_DEVIATE = 8, 0.84  # a step is found so many runs after it in 80 % of cases
MEDIAN_FOLLOWS = 2.5  # standard deviations, over the number of series

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


class Judgement(NamedTuple):
    """The steps of each series in order of time, and its word if none counts; the smallest step of
    each that would be found, a logarithm, (series,), and the smallest in all series, infinite for
    few runs or series; and the correlation of neighbouring runs."""

    steps: list[list[LevelChange]]
    words: list[str]
    smallest: Floats
    common: float
    rho: float


Places = dict[int, tuple[int, int]]  # of steps: the first run after each, and its 95 % interval


def judge(log_costs: Floats, n_series: int) -> Judgement:
    """The steps of each series of `log_costs`. `n_series` counts the series that all calls test
    together."""
    values = log_costs - np.median(log_costs, axis=1, keepdims=True)
    n, runs = values.shape
    middle, shared, common = np.zeros((1, runs)), Places(), np.inf
    noise, rest = noise_of(values), values
    rho = noise.rho

    if n >= LEAST_SHARED:
        middle = np.median(values, axis=0, keepdims=True)
        least_rho = float(noise_of(values - middle).rho.mean())
        of_middle = noise_of(middle, least_rho, RHO_PRICE * (3 / n) ** 2)
        alpha, rho = ALPHA * n / n_series, of_middle.rho
        [shared] = find_steps(middle, of_middle, alpha, SHARED_EDGE)
        if stands_out(middle, of_middle, shared, alpha):
            shared[runs - 1] = runs - 1, runs - 1
        common = float(smallest_step(middle, of_middle, alpha, SHARED_EDGE)[0])
        noise = noise_of(values - levels_between(values, [shared] * n))
        common = max(common, named_step(noise, runs))
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
    sizes, levels = own_steps(values, middle, own, shared)
    steps = shared_steps(values - levels, noise, shared, runs)
    for of_series, places, log_ratios in zip(steps, own, sizes, strict=True):
        for first, log_ratio in zip(sorted(places), log_ratios, strict=True):
            of_series[first] = LevelChange(first, *places[first], log_ratio)

    smallest = smallest_step(rest, of_rest, ALPHA / n_series, EDGE)
    words = np.where(smallest > NOISY_STEP, "noisy", "steady")
    return Judgement(
        [[of_series[first] for first in sorted(of_series)] for of_series in steps],
        words.tolist() if runs >= MIN_RUNS else ["too early"] * n,
        smallest,
        common,
        float(rho.mean()),
    )


def own_steps(
    values: Floats, middle: Floats, own: Sequence[Places], shared: Iterable[int]
) -> tuple[list[Floats], Floats]:
    """The log ratios of each series' own steps, (steps, 3), beside the median of the other series
    without their own steps, if there are enough; and their levels, (series, runs)."""
    n = len(values)
    levels = np.zeros_like(values)
    sizes = [np.empty((0, 3)) for _ in values]
    if not any(own):
        return sizes, levels

    rest = values - middle
    # The first fit takes a series' own steps out of what the others are compared with.
    for _ in range(2 if n >= LEAST_SHARED else 1):
        noise = noise_of(rest)
        for series, places in enumerate(own):
            if places:
                firsts = sorted(places)
                sizes[series] = fitted(rest[[series]], noise.of(series), firsts, shared)
                is_after = np.arange(values.shape[1]) >= np.array(firsts)[:, None]
                levels[series] = sizes[series][:, 0] @ is_after
        if n >= LEAST_SHARED:
            rest = values - medians_of_others(values - levels)

    return sizes, levels


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


def fitted(values: Floats, noise: Noise, firsts: Sequence[int], others: Iterable[int]) -> Floats:
    """The log ratios of a series' steps before the runs `firsts` with their 95 % intervals, (steps,
    3), by one least-squares fit of these and of the `others`, which it may have as well."""
    runs = values.shape[1]
    places = [*firsts, *others]
    ends = [0, *sorted(places), runs]
    most = OUTLIER * noise.spread / np.sqrt(1 - noise.rho**2)
    near = np.hstack([calm(values[:, start:stop], most) for start, stop in pairwise(ends)])
    is_after = np.arange(runs) >= np.array([0, *places])[:, None]
    design = innovations_of(is_after.astype(float), noise.rho).T
    inverse = np.linalg.pinv(design.T @ design)
    size = inverse @ design.T @ innovations_of(near, noise.rho)[0]
    half = np.sqrt(np.diag(inverse)) * noise.spread[0, 0] * stdtrit(noise.freedom, 0.975)
    return np.stack([size, size - half, size + half], axis=1)[1 : len(firsts) + 1]


def smallest_step(values: Floats, noise: Noise, alpha: float, edge: int) -> Floats:
    """The step of each series that is found in four of five times, LATE_RUNS after it."""
    n, runs = values.shape
    if runs < 2 * LATE_RUNS:
        return np.full(n, np.inf)

    # Such a step also raises what is taken for noise. One of many series counts little for rho.
    is_after = np.arange(runs) >= runs - LATE_RUNS
    stepped = noise_of(values + 10 * noise.spread * is_after)
    share = 1 / max(n - 2, 1)
    rho = noise.rho + share * (stepped.rho - noise.rho)
    noise = Noise(rho, np.maximum(noise.spread, stepped.spread), noise.freedom)
    first, limits = thresholds(noise, alpha, edge, runs)
    at = np.flatnonzero(first == runs - LATE_RUNS)
    units = np.zeros((n, runs - 1))
    windows = (0, runs), (max(runs - LATE_RUNS - SPELL_RUNS, 0), runs)
    errors = [gls(units, rho, first[at], *window)[1] for window in windows]
    # By simulation: with few runs of few series the estimates are rough, and the median over few
    # series follows the step of one of them.
    is_beside = n >= LEAST_SHARED
    rough = 1 + (12 * share if is_beside else 3) / runs
    moved = MEDIAN_FOLLOWS / n / np.sqrt(1 - rho**2) if is_beside else 0.0
    size = rough * (limits[at] + POWER_DEVIATE) * np.min(errors, axis=0) + moved
    return np.asarray(size * noise.spread)[:, 0]


def named_step(noise: Noise, runs: int) -> float:
    """The step of all series that half of them are named for, LATE_RUNS after it."""
    n = len(noise.spread)
    at = np.array([max(runs - LATE_RUNS, 2)])
    _, error = gls(np.zeros((n, runs - 1)), noise.rho, at, 0, runs)
    limit = stdtrit(noise.freedom, 1 - MEMBER_ALPHA / n / 2)
    return float(np.median(limit * error * noise.spread))


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
    # Most series have the same steps, or none.
    for places, own in grouped(range(len(values)), lambda row: (*sorted(firsts[row]),)).items():
        for start, stop in pairwise([0, *places, values.shape[1]]):
            levels[own, start:stop] = np.median(values[own, start:stop], axis=1, keepdims=True)

    return levels


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
    first, limits = thresholds(noise, alpha, edge, runs)
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


def thresholds(noise: Noise, alpha: float, edge: int, runs: int) -> tuple[Any, Floats]:
    """The first runs of the steps that are tested among so many runs, and their thresholds, in
    standard errors."""
    first = np.arange(edge, runs - edge + 1)
    # The newest steps are the news, and an older one has more runs that show it (weighted
    # Bonferroni: Genovese, Roeder and Wasserman, Biometrika 93, 2006).
    share = 1 / np.maximum(runs - first, SPELL_RUNS) ** 2.0
    return first, np.asarray(stdtrit(noise.freedom, 1 - alpha / 4 * share / share.sum()))


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
