"""Changes of a percentile of steps over runs, which `changes.judge` finds as those of medians.

Where about as many steps are slow as lie beyond a percentile, it jumps between runs, and its noise
is no AR(1): alarms in 13 to 40 % of months without a change. So ranks must confirm each change,
which no size of a jump sways."""

from collections.abc import Sequence
from dataclasses import replace
from math import comb

import numpy as np
from scipy.special import ndtr, ndtri

from reports.trends.changes import ALPHA, Judgement, LevelChange
from reports.trends.step_test import SPELL_RUNS, neighbours
from reports.verdicts.verdict import Floats
from wiretax.record.tails import PERCENTILES

# The percentiles that runs keep, as they are typed, and their names in observations.
QUANTILES = {f"{100 * share:g}": name for name, share in PERCENTILES.items()}
MOST_EXACT = 50  # runs on one side: beyond them a normal p is at most twice the exact one of 1e-6
MOST_SIZED = 1000  # runs on each side: 8 MB of differences


def limit_of(n_series: int) -> float:
    """The most that the p of a confirmed change may be, of so many series: for one of the newest
    runs, as StepTest shares its chances among the places of a step."""
    return ALPHA / n_series / (2 * SPELL_RUNS)


def confirmed(judged: Judgement, logs: Floats, n_series: int) -> Judgement:
    """Without the steps that the ranks of the runs on both sides do not confirm, the others with
    their sizes by ranks. `logs` is (series, runs); `n_series` counts the series that all calls test
    together."""
    limit = limit_of(n_series)
    steps = []
    for own, of_series in zip(judged.steps, logs, strict=True):
        rest = confirmed_in(own, of_series, limit)
        places = neighbours([step.first for step in rest], len(of_series))
        sizes = (
            size_by_ranks(of_series[start:first], of_series[first:stop], judged.rho)
            for start, first, stop in places
        )
        steps.append(
            [replace(step, log_ratio=size) for step, size in zip(rest, sizes, strict=True)]
        )
    return judged._replace(steps=steps)


def confirmed_in(steps: Sequence[LevelChange], logs: Floats, limit: float) -> list[LevelChange]:
    """The steps of one series of these logs, (runs,), whose p is at most the limit. The least sure
    one is dropped first, since its runs then count for its neighbours."""
    rest = list(steps)
    while rest:
        places = neighbours([step.first for step in rest], len(logs))
        p = [rank_sum_p(logs[start:first], logs[first:stop]) for start, first, stop in places]
        worst = int(np.argmax(p))
        if p[worst] <= limit:
            break
        del rest[worst]

    return rest


def rank_sum_p(before: Floats, after: Floats) -> float:
    """The two-sided p of Wilcoxon's rank-sum test (Biometrics Bulletin 1, 1945), up to MOST_EXACT
    runs on one side exact without equal values, and too large with some."""
    n, m, ordered = len(before), len(after), np.sort(before)
    wins = np.sum(np.searchsorted(ordered, after) + np.searchsorted(ordered, after, "right")) / 2
    least = int(min(wins, n * m - wins))
    if min(n, m) > MOST_EXACT:
        return min(2 * float(ndtr((least + 0.5 - n * m / 2) / deviation_of_wins(n, m))), 1.0)

    # How many orders have so many wins: the coefficients of the Gaussian binomial.
    orders = np.zeros(least + 1)
    orders[0] = 1
    for k in range(1, min(n, m) + 1):
        longer = max(n, m) + k
        orders[longer:] -= orders[:-longer].copy()
        for rest in range(k):
            orders[rest::k] = np.cumsum(orders[rest::k])
    return min(2 * float(orders.sum()) / comb(n + m, n), 1.0)


def deviation_of_wins(n: int, m: int) -> float:
    """Of how many of the n x m pairs one side wins, where both are alike."""
    return float(np.sqrt(n * m * (n + m + 1) / 12))


def size_by_ranks(before: Floats, after: Floats, rho: float) -> Floats:
    """The shift that these values have with its 95 % interval, (3,): the median of all differences,
    and those that the rank-sum test does not exclude (Hodges and Lehmann, Annals of Mathematical
    Statistics 34, 1963), of runs of which neighbours have this correlation. The nearest MOST_SIZED
    runs on each side count."""
    before, after = before[-MOST_SIZED:], after[:MOST_SIZED]
    differences = np.sort((after[:, None] - before).ravel())
    n, m = len(before), len(after)
    deviation = deviation_of_wins(n, m) * np.sqrt((1 + rho) / (1 - rho))
    beyond = int(np.clip(n * m / 2 + ndtri(0.025) * deviation, 0, n * m // 2))
    return np.array([np.median(differences), differences[beyond], differences[-1 - beyond]])


def runs_to_tell(runs: int, n_series: int) -> int:
    """How many of so many runs must have a change, so that their ranks can confirm it; 0 if none
    can."""
    ages = range(1, runs // 2 + 1)
    return next((age for age in ages if 2 / comb(runs, age) <= limit_of(n_series)), 0)
