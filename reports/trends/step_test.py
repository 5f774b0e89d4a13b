"""The one test for steps in the level of series: their size by generalised least squares (GLS) in
an AR(1). Innovations count so little that outliers alone do not pass. Values are (series, runs),
innovations (series, runs - 1). docs/experiments/history.md has the method and its sources."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import stdtrit

from reports.trends.noise import OUTLIER, Noise, calm, innovations_of, noise_of
from reports.verdicts.verdict import Floats, Integers

LEAST_SHARED = 3  # series whose median is neither one of two nor their mean
SPELL_RUNS = 10  # a step is also tested among so many runs on either side, for short spells
MARGIN = 1.1  # over the threshold, for the noise of the runs before
# Twice the log-likelihood has this drop from its maximum to the place of a step in 95 % of cases:
# it is the maximum of two random walks with drift (Hinkley, Biometrika 57, 1970).
PLACE_DROP = -2 * np.log(1 - np.sqrt(0.95))
LATE_RUNS, POWER_DEVIATE = 8, 0.84  # a step is found so many runs after it in 80 % of cases
MEDIAN_FOLLOWS = 2.5  # standard deviations, over the number of series

Places = dict[int, tuple[int, int]]  # of steps: the first run after each, and its 95 % interval


@dataclass(frozen=True)
class StepTest:
    """The test of each series of `values` for steps in its `noise`. `alpha` is the chance of a
    false one in a series; `edge` is the fewest runs on either side of a step."""

    values: Floats
    noise: Noise
    alpha: float
    edge: int

    @property
    def runs(self) -> int:
        return int(self.values.shape[1])

    @cached_property
    def units(self) -> Floats:
        """The innovations in standard deviations."""
        return np.asarray(innovations_of(self.values, self.noise.rho) / self.noise.spread)

    def places(self) -> list[Places]:
        """The places of the steps of each series."""
        scores, _ = self._best_steps(0, self.runs)
        found = [Places() for _ in self.values]
        for series in np.flatnonzero(scores > 1).tolist():
            values, noise = self.values[[series]], self.noise.of(series)
            found[series] = StepTest(values, noise, self.alpha, self.edge)._places_in_one()

        return found

    def _places_in_one(self) -> Places:
        """The places of the steps of the only series, by binary segmentation."""
        firsts, segments = list[int](), [(0, self.runs)]
        while segments:
            start, stop = segments.pop()
            if stop - start < 2 * self.edge:
                continue
            [score], [first] = self._best_steps(start, stop)
            if score > 1:
                firsts.append(int(first))
                segments += [(start, int(first)), (int(first), stop)]

        places, start = Places(), 0
        for _, first, stop in neighbours(sorted(firsts), self.runs):
            best, interval = self._place(start, first, stop)
            places[best] = interval
            start = best

        return places

    def _best_steps(self, start: int, stop: int) -> tuple[Floats, Integers]:
        """The best step of each series between two runs: its deviate over its threshold, and its
        first run. It is tested against all these runs and against those near it."""
        runs, rho = stop - start, self.noise.rho
        first, limits = self._thresholds(runs)
        # Innovations as many as an edge has runs pass together, but not one fewer.
        later, total = 1 - rho, runs - 1
        expected = 1 + (self.edge - 1) * later
        weight = 1 + (self.edge - 1) * later**2 - expected**2 / total
        least = limits.min() * np.sqrt(weight)
        most = MARGIN * least / expected / (1 - self.edge / total)
        segment = calm(self.units[:, start : stop - 1], most)

        among_all, _ = gls(segment, rho, first, 0, runs)
        near = np.maximum(first - SPELL_RUNS, 0), np.minimum(first + SPELL_RUNS, runs)
        among_near, _ = gls(segment, rho, first, *near)
        scores = np.maximum(np.abs(among_all), np.abs(among_near)) / limits
        return scores.max(axis=1), start + first[np.argmax(scores, axis=1)]

    def _thresholds(self, runs: int) -> tuple[Integers, Floats]:
        """The first runs of the steps that are tested among so many runs, and their thresholds, in
        standard errors."""
        first = np.arange(self.edge, runs - self.edge + 1)
        # The newest steps are the news, and an older one has more runs that show it (weighted
        # Bonferroni: Genovese, Roeder and Wasserman, Biometrika 93, 2006).
        share = 1 / np.maximum(runs - first, SPELL_RUNS) ** 2.0
        share /= share.sum()
        n_sides = 4  # two windows, up and down
        return first, np.asarray(stdtrit(self.noise.freedom, 1 - self.alpha / n_sides * share))

    def _place(self, start: int, first: int, stop: int) -> tuple[int, tuple[int, int]]:
        """The place of the only series' step that was found before the run `first`, between two
        runs: of the likely places, whatever outliers there are, the one of least squares; and its
        interval."""
        units = self.units[:, start : stop - 1]
        # Before the second run there is no innovation, and the last run alone is no step.
        places = np.arange(2, units.shape[1])
        [robust], _ = gls(calm(units, OUTLIER), self.noise.rho, places, 0, stop - start)
        [plain], _ = gls(units, self.noise.rho, places, 0, stop - start)
        gain = plain**2  # of twice the log-likelihood
        gain[robust**2 < robust[first - start - 2] ** 2 - PLACE_DROP] = 0
        likely = places[gain >= gain.max() - PLACE_DROP]
        best = int(places[np.argmax(gain)])
        return start + best, (start + int(likely[0]), start + int(likely[-1]))

    def newest_is_off(self, firsts: Iterable[int]) -> bool:
        """Whether the newest run of the only series is off alone, by one test, since the last of
        these steps."""
        start = max(firsts, default=0)
        [units] = self.units[:, start:]
        if len(units) < 2:
            return False

        error = np.sqrt(1 + 1 / (len(units) - 1))
        deviate = (units[-1] - np.median(units[:-1])) / error
        return bool(abs(deviate) > stdtrit(self.noise.freedom, 1 - self.alpha / 2))

    def smallest(self) -> Floats:
        """The step of each series that is found in four of five times, LATE_RUNS after it, a
        logarithm, (series,); infinite for few runs."""
        n, runs = self.values.shape
        if runs < 2 * LATE_RUNS:
            return np.full(n, np.inf)

        # Such a step also raises what is taken for noise. One of many series counts little for rho.
        last = runs - LATE_RUNS
        stepped = noise_of(self.values + 10 * self.noise.spread * (np.arange(runs) >= last))
        share = 1 / max(n - 2, 1)
        rho = self.noise.rho + share * (stepped.rho - self.noise.rho)
        spread = np.maximum(self.noise.spread, stepped.spread)

        tested, limits = self._thresholds(runs)
        at = tested == last
        no_units = np.zeros((n, runs - 1))
        _, among_all = gls(no_units, rho, tested[at], 0, runs)
        _, among_near = gls(no_units, rho, tested[at], max(last - SPELL_RUNS, 0), runs)
        error = np.minimum(among_all, among_near)
        # By simulation: with few runs of few series the estimates are rough, and the median over
        # few series follows the step of one of them.
        estimate_factor, median_shift = 1 + 3 / runs, 0.0
        if n >= LEAST_SHARED:
            estimate_factor = 1 + 12 * share / runs
            median_shift = MEDIAN_FOLLOWS / n / np.sqrt(1 - rho**2)
        size = estimate_factor * (limits[at] + POWER_DEVIATE) * error + median_shift
        return np.asarray(size * spread)[:, 0]


def neighbours(firsts: Iterable[int], runs: int) -> Iterator[tuple[int, int, int]]:
    """Each step between the one before it and the one after it."""
    ends = [0, *firsts, runs]
    return zip(ends, ends[1:], ends[2:], strict=False)


def gls(
    innovations: Floats,
    rho: Floats,
    first: Integers,
    start: int | Integers,
    stop: int | Integers,
) -> tuple[Floats, Floats]:
    """Steps before the runs `first`, (steps,), each among the runs from `start` to `stop`, one of
    all steps or (steps,): their sizes in standard errors, (series, steps), and these errors, for
    innovations of variance 1. By least squares of the innovations, (series, runs - 1), in which a
    level is `1 - rho`, and a step 1 and then `1 - rho`."""
    zero = np.zeros_like(innovations[..., :1])
    sums = np.concatenate([zero, np.cumsum(innovations, axis=-1)], axis=-1)
    begin = np.broadcast_to(start, first.shape)
    end = np.broadcast_to(stop, first.shape) - 1  # the first run has no innovation
    total, after = end - begin, end - first
    share = 1 - rho  # of a level in each innovation after the first
    mean = (sums[..., end] - sums[..., begin]) / total
    expected = 1 + share * after
    weight = 1 + share**2 * after - expected**2 / total
    later = share * (sums[..., end] - sums[..., first])
    size = (innovations[..., first - 1] + later - expected * mean) / weight
    return size * np.sqrt(weight), 1 / np.sqrt(weight)
