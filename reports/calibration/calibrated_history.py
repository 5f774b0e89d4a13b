"""The calibration of `changes`: made-up histories whose truth is known, and how often what is said of them is wrong.

A history has 84 series of 100 runs. Runs are an AR(1) of spread 1, normal or with three degrees of freedom; 3 % of them
may go astray, by 6.7 spreads on average, as `synthetic` has it: those of a series, or whole runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from reports.calibration.rate import Figure
from reports.calibration.synthetic import LAUNCH_EXCESS, OUTLYING_LAUNCHES
from reports.trends.changes import MIN_RUNS, Step, find_steps
from reports.trends.noise import Floats

SERIES, RUNS, SPREADS = 84, 100, 3.0
EXCESS = LAUNCH_EXCESS / 0.015  # in spreads
FEWEST_BEFORE = 30
NEAR = 2


@dataclass(frozen=True)
class Noise:
    """How runs scatter: `rho` of neighbouring runs, of all series or from the first's to the last's; `shared` is the
    part of the variance that all series have in common; `astray` says what goes astray, `series` or `runs`."""

    name: str
    rho: tuple[float, float] = (0.2, 0.2)
    heavy: bool = False
    shared: float = 0.0
    astray: str | None = None

    def draw(self, rng: np.random.Generator) -> Floats:
        """One history, (SERIES, RUNS)."""
        rows = SERIES + 1  # the last is what all have in common
        new = rng.standard_t(3, (RUNS, rows)) / np.sqrt(3) if self.heavy else rng.standard_normal((RUNS, rows))
        rho = np.linspace(*self.rho, rows)
        for run in range(1, RUNS):
            new[run] = rho * new[run - 1] + np.sqrt(1 - rho**2) * new[run]
        values = np.sqrt(1 - self.shared) * new[:, :-1] + np.sqrt(self.shared) * new[:, -1:]
        if self.astray:
            shape = values.shape if self.astray == "series" else (RUNS, 1)
            values = values + rng.exponential(EXCESS, shape) * (rng.random(shape) < OUTLYING_LAUNCHES)
        return np.ascontiguousarray(values.T)


def false_alarms(noise: Noise, rng: np.random.Generator, n: int) -> list[Figure]:
    """How many histories where nothing changed have an alarm, looked at in the end."""
    called = np.array([bool(find_steps(noise.draw(rng), SERIES)) for _ in range(n // 4)], float)
    return [Figure("A history where nothing changed: any alarm", noise.name, called, most=0.05)]


def looks(noise: Noise, rng: np.random.Generator, n: int) -> list[Figure]:
    """The same, looked at after every run."""
    called = []
    for _ in range(max(n // 100, 2)):
        values = noise.draw(rng)
        called.append(any(find_steps(values[:, :runs], SERIES) for runs in range(MIN_RUNS, RUNS + 1)))
    return [Figure("The same, looked at after every run", noise.name, np.array(called, float))]


def one_step(noise: Noise, least: float, share: int, rng: np.random.Generator, n: int) -> list[Figure]:
    """A step of 3 spreads in one series: is it found when one looks eight runs later, or seven, and do its intervals
    have the truth in them?"""
    found, place_inside, size_inside = [], [], []
    for _ in range(n // share):
        place = int(rng.integers(FEWEST_BEFORE, RUNS - 7))
        values = noise.draw(rng)[:, : place + 8]
        values[0, place:] += SPREADS
        its = _of_first(values, place) or _of_first(values[:, :-1], place)
        found.append(bool(its))
        place_inside += [step.low <= place <= step.high for step in its]
        size_inside += [step.size[1] <= SPREADS <= step.size[2] for step in its]
    claim = "A step of 3 spreads in one of 84 series, within eight runs"
    return [Figure(claim, f"{noise.name}: found", np.array(found, float), least),
            Figure(claim, f"{noise.name}: place inside", np.array(place_inside, float)),
            Figure(claim, f"{noise.name}: size inside", np.array(size_inside, float))]


def shared_step(noise: Noise, rng: np.random.Generator, n: int) -> list[Figure]:
    """A step of 3 spreads in a third of the series, four runs ago: is it found in half of them at least?"""
    found, third = [], SERIES // 3
    for _ in range(n // 8):
        place = int(rng.integers(FEWEST_BEFORE, RUNS - 3))
        values = noise.draw(rng)[:, : place + 4]
        values[::3, place:] += SPREADS
        its = {step.series for step in find_steps(values, SERIES) if step.series % 3 == 0 and _is_there(step, place)}
        found.append(len(its) >= third / 2)
    return [Figure("The same in a third of the series, within four runs", f"{noise.name}: found",
                   np.array(found, float), 0.90)]


def _of_first(values: Floats, place: int) -> list[Step]:
    return [step for step in find_steps(values, SERIES) if step.series == 0 and _is_there(step, place)]


def _is_there(step: Step, place: int) -> bool:
    return abs(step.first - place) <= NEAR or step.low <= place <= step.high


NORMAL = [Noise(f"rho {rho:g}", (rho, rho)) for rho in (0.0, 0.2, 0.4)]
HEAVY = [Noise(f"rho {rho:g}, t with 3 df", (rho, rho), heavy=True) for rho in (0.0, 0.2, 0.4)]
TOGETHER = [Noise(f"rho {rho:g}, hang together", (rho, rho), shared=0.7) for rho in (0.0, 0.4)]
ASTRAY = Noise("rho 0, series go astray", (0.0, 0.0), astray="series")
CLAIMS: list[Callable[[np.random.Generator, int], list[Figure]]] = [
    *(partial(false_alarms, noise) for noise in (
        *NORMAL, HEAVY[0], HEAVY[2], *TOGETHER, ASTRAY, Noise("rho 0.4, runs go astray", (0.4, 0.4), astray="runs"),
        Noise("rho from 0 to 0.4", (0.0, 0.4)))),
    partial(looks, NORMAL[1]),
    *(partial(one_step, *case) for case in ((NORMAL[0], 0.90, 8), (NORMAL[1], 0.90, 8), (NORMAL[2], 0.90, 4),
                                            (HEAVY[2], 0.90, 4), (TOGETHER[1], 0.0, 8))),
    *(partial(shared_step, noise) for noise in (NORMAL[0], NORMAL[2], *TOGETHER)),
]
