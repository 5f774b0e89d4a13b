"""Claims on `history`: a change missed, invented or misplaced, by synthetic histories."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from reports.trends.changes import LevelChange, judge
from reports.verdicts.verdict import Floats
from tests.calibration.synthetic import (
    LAUNCH_EXCESS,
    Figure,
    Rng,
    Simulation,
    ar1,
    deviates,
    outliers,
)

N_SERIES, RUNS = 84, 100  # of a history
# Spreads, the run after the step by which `history` must raise an alarm, and how often.
LATE_STEPS = (10.0, 2, 0.85), (5.0, 3, 0.75), (3.0, 8, 0.65)
MONTH = range(RUNS - 29, RUNS + 1)  # looks after each of the last 30 runs


@dataclass(frozen=True)
class Runs:
    """How runs scatter, as an AR(1) with variance 1: `shared` of the variance in all series, and
    with `outliers` 3 % of the runs slower."""

    name: str
    rho: float
    heavy: bool = False
    shared: float = 0.0
    outliers: bool = False

    def draw(self, rng: Rng) -> Floats:
        """One history, (N_SERIES, RUNS)."""
        new = deviates(rng, (RUNS, N_SERIES + 1), self.heavy).T  # the last row for all series
        ar1(new, self.rho)
        values = np.sqrt(1 - self.shared) * new[:-1] + np.sqrt(self.shared) * new[-1]
        if self.outliers:
            values += outliers(rng, (RUNS,), LAUNCH_EXCESS / 0.015)  # for a spread of 1.5 %
        return np.ascontiguousarray(values)


def steps_of(values: Floats) -> list[list[LevelChange]]:
    """The steps of each series of a history, (series, runs)."""
    verdicts, _ = judge(values, len(values))
    return [steps for steps, _ in verdicts]


def is_alarm(steps: Sequence[LevelChange]) -> bool:
    return any(not step.doubt for step in steps)


def alarms(scatter: Runs, looks: Sequence[int], rng: Rng, n: int) -> list[Figure]:
    """The share of histories without a change with an alarm after one of the `looks`, in runs.
    Heavy tails have no limit: with them more months have an alarm (docs/calibration.md)."""
    called = [
        any(any(map(is_alarm, steps_of(values[:, :runs]))) for runs in looks)
        for values in (scatter.draw(rng) for _ in range(max(n // 5, 2)))
    ]
    return [Figure(scatter.name, called, most=1.0 if scatter.heavy else 0.05)]


def late_steps(scatter: Runs, rng: Rng, n: int) -> list[Figure]:
    """Steps of all series after 40 runs: the share with an alarm in half of the series in time."""
    figures = []
    for size, last, least in LATE_STEPS:
        told = []
        for _ in range(n // 20):
            values = scatter.draw(rng)[:, : 40 + last]
            values[:, 40:] += size
            looks = (steps_of(values[:, : 40 + age]) for age in range(2, last + 1))
            told.append(any(2 * sum(map(is_alarm, steps)) >= N_SERIES for steps in looks))
        figures.append(Figure(f"{scatter.name}: {size:g} by run {last}", told, least))
    return figures


def placed(scatter: Runs, size: float, least: float, rng: Rng, n: int) -> list[Figure]:
    """A step of `size` standard deviations in all series, 5 or 40 runs ago: whether `judge` names
    its run in half of the series, and whether its interval has it."""
    named, inside = list[bool](), list[bool]()
    for replication in range(n // 8):
        first = RUNS - (40, 5)[replication % 2]
        values = scatter.draw(rng)
        values[:, first:] += size
        steps = steps_of(values)
        right = sum(any(step.first == first for step in own) for own in steps)
        named.append(2 * right >= N_SERIES)
        found = [step for own in steps for step in own]
        inside.append(any(step.low <= first <= step.high for step in found))
    name = f"{scatter.name}, {size:g} spreads"
    held = 0.93 if least else 0.0
    return [Figure(f"{name}: right", named, least), Figure(f"{name}: inside", inside, held)]


def beside(scatter: Runs, series: int, rng: Rng, n: int) -> list[Figure]:
    """A step of 5 or 20 standard deviations in the first of so many series, ten runs ago: whether
    it is told, and whether another is named."""
    told, others = list[bool](), list[bool]()
    for replication in range(n // 8):
        values = scatter.draw(rng)[:series]
        values[0, RUNS - 10 :] += (5.0, 20.0)[replication % 2]
        first, *rest = map(bool, steps_of(values))
        told.append(first)
        others.append(any(rest))
    name = f"{scatter.name}, {series} series"
    return [Figure(f"{name}: told", told, 0.90), Figure(f"{name}: others", others, most=0.08)]


NORMAL = [Runs(f"rho {rho:g}", rho) for rho in (0.0, 0.2, 0.4, 0.7)]
HEAVY = Runs("rho 0.4, t with 3 df", 0.4, heavy=True)
SHARED = [Runs(f"rho {rho:g}, hang together", rho, shared=0.7) for rho in (0.0, 0.4)]
DISTURBED = [Runs(f"rho {rho:g}, runs go astray", rho, outliers=True) for rho in (0.0, 0.4)]
CLAIMS: dict[str, list[Simulation]] = {
    "A history where nothing changed, looked at after each of 30 runs": [
        partial(alarms, scatter, MONTH)
        for scatter in (NORMAL[0], NORMAL[2], NORMAL[3], HEAVY, *SHARED, *DISTURBED)
    ],
    "A step of one series, and others named beside it": [
        partial(beside, scatter, series)
        for scatter in (NORMAL[0], NORMAL[2])
        for series in (24, 84)
    ],
    "The run of a step in all series, of 100 runs": [
        partial(placed, scatter, size, least)
        for scatter, least in ((NORMAL[0], 0.95), (NORMAL[2], 0.95), (SHARED[0], 0.0))
        for size in (3.0, 5.0, 8.0, 10.0, 15.0)
    ],
    "Steps of 10, 5, 3 spreads in all series after 40 runs": [
        partial(late_steps, scatter) for scatter in (NORMAL[0], NORMAL[2], *SHARED)
    ],
}
