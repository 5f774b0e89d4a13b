"""Claims on `history`: how often it misses a change, invents one, or misplaces it.

A synthetic history has 84 series of 100 runs. Runs are an AR(1) with standard deviation 1, normal
or Student's t with three degrees of freedom. 3 % of the runs of a series, or of whole runs, can be
outliers, by 6.7 standard deviations on average, as in `synthetic`.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np

from reports.calibration.rate import Figure, Simulation
from reports.calibration.synthetic import LAUNCH_EXCESS, OUTLYING_LAUNCHES
from reports.trends.changes import MIN_RUNS, Step, find_steps
from reports.verdicts.verdict import Floats

N_SERIES, RUNS = 84, 100
STEP = 3.0  # in standard deviations
EXCESS = LAUNCH_EXCESS / 0.015  # of an outlier, in standard deviations
FEWEST_BEFORE = 30
NEAR_RUNS = 2


@dataclass(frozen=True)
class Scatter:
    """How runs scatter: `rho` of neighbouring runs, from the first series to the last; `shared`,
    the part of the variance common to all series; `outliers` of `series`, of whole `runs`, or none.
    """

    name: str
    rho: tuple[float, float] = (0.2, 0.2)
    heavy: bool = False
    shared: float = 0.0
    outliers: str | None = None

    def draw(self, rng: np.random.Generator) -> Floats:
        """One history, (N_SERIES, RUNS)."""
        shape = (RUNS, N_SERIES + 1)  # the last column is common to all series
        new = rng.standard_t(3, shape) / np.sqrt(3) if self.heavy else rng.standard_normal(shape)
        rho = np.linspace(*self.rho, N_SERIES + 1)
        for run in range(1, RUNS):
            new[run] = rho * new[run - 1] + np.sqrt(1 - rho**2) * new[run]
        values = np.sqrt(1 - self.shared) * new[:, :-1] + np.sqrt(self.shared) * new[:, -1:]
        if self.outliers:
            shape = (RUNS, N_SERIES if self.outliers == "series" else 1)
            values += rng.exponential(EXCESS, shape) * (rng.random(shape) < OUTLYING_LAUNCHES)
        return np.ascontiguousarray(values.T)


def false_alarms(scatter: Scatter, rng: np.random.Generator, n: int) -> list[Figure]:
    """The share of histories without a change that have an alarm after the last run."""
    alarms = [any(find_steps(scatter.draw(rng), N_SERIES)) for _ in range(n // 4)]
    return [Figure(scatter.name, alarms, most=0.05)]


def looks(scatter: Scatter, rng: np.random.Generator, n: int) -> list[Figure]:
    """The share of histories without a change that have an alarm after some run."""
    alarms = []
    for _ in range(max(n // 100, 2)):
        values = scatter.draw(rng)
        alarms.append(any(any(find_steps(values[:, :runs], N_SERIES))
                          for runs in range(MIN_RUNS, RUNS + 1)))
    return [Figure(scatter.name, alarms)]


def one_step(scatter: Scatter, least: float, share: int, rng: np.random.Generator,
             n: int) -> list[Figure]:
    """A step of 3 standard deviations in one series, looked for eight runs later, then seven; and
    whether its intervals cover the truth. Runs 1 / `share` of the replications."""
    detected, place_covered, size_covered = [], [], []
    for _ in range(n // share):
        place = int(rng.integers(FEWEST_BEFORE, RUNS - 7))
        values = scatter.draw(rng)[:, : place + 8]
        values[0, place:] += STEP
        steps = _of_first(values, place) or _of_first(values[:, :-1], place)
        detected.append(bool(steps))
        place_covered += [step.low <= place <= step.high for step in steps]
        size_covered += [step.size[1] <= STEP <= step.size[2] for step in steps]
    return [Figure(f"{scatter.name}: found", detected, least),
            Figure(f"{scatter.name}: place inside", place_covered),
            Figure(f"{scatter.name}: size inside", size_covered)]


def shared_step(scatter: Scatter, rng: np.random.Generator, n: int) -> list[Figure]:
    """A step of 3 standard deviations in a third of the series, four runs ago: whether half of
    these series get it."""
    detected = []
    for _ in range(n // 8):
        place = int(rng.integers(FEWEST_BEFORE, RUNS - 3))
        values = scatter.draw(rng)[:, : place + 4]
        values[::3, place:] += STEP
        stepped = [any(_is_at(step, place) for step in steps)
                   for steps in find_steps(values, N_SERIES)[::3]]
        detected.append(sum(stepped) >= N_SERIES / 6)
    return [Figure(f"{scatter.name}: found", detected, 0.90)]


def _of_first(values: Floats, place: int) -> list[Step]:
    return [step for step in find_steps(values, N_SERIES)[0] if _is_at(step, place)]


def _is_at(step: Step, place: int) -> bool:
    return abs(step.first - place) <= NEAR_RUNS or step.low <= place <= step.high


NORMAL = [Scatter(f"rho {rho:g}", (rho, rho)) for rho in (0.0, 0.2, 0.4)]
HEAVY = [Scatter(f"rho {rho:g}, t with 3 df", (rho, rho), heavy=True) for rho in (0.0, 0.4)]
SHARED = [Scatter(f"rho {rho:g}, hang together", (rho, rho), shared=0.7) for rho in (0.0, 0.4)]
SERIES_OUTLIERS = Scatter("rho 0, series go astray", (0.0, 0.0), outliers="series")
RUN_OUTLIERS = Scatter("rho 0.4, runs go astray", (0.4, 0.4), outliers="runs")
MIXED = Scatter("rho from 0 to 0.4", (0.0, 0.4))
CLAIMS: dict[str, list[Simulation]] = {
    "A history where nothing changed: any alarm": [partial(false_alarms, scatter) for scatter in (
        *NORMAL, *HEAVY, *SHARED, SERIES_OUTLIERS, RUN_OUTLIERS, MIXED)],
    "The same, looked at after every run": [partial(looks, NORMAL[1])],
    "A step of 3 spreads in one of 84 series, within eight runs": [
        partial(one_step, *case) for case in (
            (NORMAL[0], 0.90, 8), (NORMAL[1], 0.90, 8), (NORMAL[2], 0.90, 4), (HEAVY[1], 0.90, 4),
            (SHARED[1], 0.0, 8))],
    "The same in a third of the series, within four runs": [
        partial(shared_step, scatter) for scatter in (NORMAL[0], NORMAL[2], *SHARED)],
}
