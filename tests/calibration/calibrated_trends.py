"""Claims on `history`: a change missed, invented or misplaced, by synthetic histories."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from reports.trends.changes import LevelChange, judge
from reports.trends.creep import creep_of
from reports.trends.history import RATES
from reports.trends.links import changes_of, nearest, states_in
from reports.trends.panels import filled
from reports.trends.step_test import LATE_RUNS
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
LATE_STEPS = (
    (10.0, 2, 0.85),
    (5.0, 3, 0.75),
    (
        3.0,
        8,
        0.65,
    ),
)
MONTH = range(RUNS - 29, RUNS + 1)  # looks after each of the last 30 runs


@dataclass(frozen=True)
class Runs:
    """How runs of so many series scatter, as an AR(1) with variance 1: `shared` of the variance in
    all series, with `outliers` 3 % of the runs slower, and without a share of the cells."""

    name: str
    rho: float
    heavy: bool = False
    shared: float = 0.0
    outliers: bool = False
    series: int = N_SERIES
    missing: float = 0.0

    def draw(self, rng: Rng, runs: int = RUNS) -> Floats:
        """One history, (series, runs)."""
        new = deviates(rng, (runs, self.series + 1), self.heavy).T  # the last row for all series
        ar1(new, self.rho)
        values = np.sqrt(1 - self.shared) * new[:-1] + np.sqrt(self.shared) * new[-1]
        if self.outliers:
            values += outliers(rng, (runs,), LAUNCH_EXCESS / 0.015)  # for a spread of 1.5 %
        return np.ascontiguousarray(values)

    def without(self, values: Floats, rng: Rng) -> Floats:
        """This history as it is judged without the cells that are missing."""
        if not self.missing:
            return values
        return filled(np.where(rng.random(values.shape) < self.missing, np.nan, values))


def steps_of(values: Floats) -> list[list[LevelChange]]:
    """The steps of each series of a history, (series, runs)."""
    return judge(values, len(values)).steps


def is_alarm(steps: Sequence[LevelChange]) -> bool:
    return any(not step.doubt for step in steps)


def alarms(
    scatter: Runs, looks: Sequence[int], rng: Rng, n: int, most: float = 0.05
) -> list[Figure]:
    """The share of histories without a change with an alarm after one of the `looks`, in runs."""
    histories = max(n // (10 if scatter.missing else 5), 2)
    called = [
        any(any(map(is_alarm, steps_of(values[:, :runs]))) for runs in looks)
        for values in (scatter.without(scatter.draw(rng), rng) for _ in range(histories))
    ]
    return [Figure(scatter.name, called, most=most)]


def rate_of(scatter: Runs) -> float:
    """The rate of false alarms that `history` prints at this correlation, of so many series."""
    return next(
        alarms for most, fewest, alarms in RATES if scatter.rho <= most and scatter.series >= fewest
    )


def late_steps(scatter: Runs, rng: Rng, n: int) -> list[Figure]:
    """Steps of all series after 40 runs: the share with an alarm in half of the series in time."""
    figures = []
    for size, last, least in LATE_STEPS:
        told = []
        for _ in range(n // 20):
            values = scatter.draw(rng)[:, : 40 + last]
            values[:, 40:] += size
            values = scatter.without(values, rng)
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


def sizes(scatter: Runs, rng: Rng, n: int) -> list[Figure]:
    """A step of 5 standard deviations in the first series, 20 runs ago, after a spell of all series
    and a shared step: how often the 95 % interval of its size contains it, and how many sizes are
    too small, of half of which that is true by chance."""
    inside, below = list[bool](), list[bool]()
    for _ in range(n // 10):
        values = scatter.draw(rng)
        values[:, 30:45] += 10.0
        values[:, 65:] += 8.0
        values[0, 80:] += 5.0
        for step in steps_of(values)[0]:
            if abs(step.first - 80) <= 2:
                size, low, high = step.log_ratio
                inside.append(bool(low <= 5.0 <= high))
                below.append(bool(size < 5.0))
    return [
        Figure(f"{scatter.name}: interval", inside, 0.90),
        Figure(f"{scatter.name}: too small", below, 0.40, 0.65),
    ]


def few_runs(scatter: Runs, rng: Rng, n: int) -> list[Figure]:
    """A step of 5 % in the middle of 20 runs that scatter by 0.6 %: whether it is found, and
    whether it is, or the report says that it might not be."""
    found, fair = list[bool](), list[bool]()
    for _ in range(n // 10):
        values = 0.006 * scatter.draw(rng, 20)
        values[:, 10:] += np.log(1.05)
        judged = judge(values, len(values))
        found.append(any(map(is_alarm, judged.steps)))
        fair.append(found[-1] or judged.common > np.log(1.05))
    return [
        Figure(f"{scatter.name}: found", found, 0.90),
        Figure(f"{scatter.name}: found, or not seen", fair, 0.97),
    ]


def smallest(scatter: Runs, runs: int, rng: Rng, n: int) -> list[Figure]:
    """Steps of the smallest size that the report says it would find, eight runs after them, in the
    first series and in all of them: how many are found."""
    own, common = list[bool](), list[bool]()
    for _ in range(n // 10):
        values = scatter.draw(rng, runs)
        judged = judge(values, len(values))
        after = np.arange(runs) >= runs - LATE_RUNS
        one = values.copy()
        one[0] += judged.smallest[0] * after
        own.append(is_alarm(steps_of(one)[0]))
        if np.isfinite(judged.common):
            common.append(any(map(is_alarm, steps_of(values + judged.common * after))))
    name = f"{scatter.name}, {runs} runs"
    figures = [Figure(f"{name}: in one", own, 0.70)]
    return figures + ([Figure(f"{name}: in all", common, 0.70)] if common else [])


def creeps(scatter: Runs, length: int, rng: Rng, n: int) -> list[Figure]:
    """All series get slower by 5 standard deviations, over so many runs or at once: whether the
    last event is told as a creep, and whether its 95 % interval contains the whole."""
    called, inside = list[bool](), list[bool]()
    for _ in range(n // 10):
        values = scatter.draw(rng)
        values += 5.0 * np.clip((np.arange(RUNS) - 35) / length, 0, 1)
        if steps := steps_of(values)[0]:
            firsts = [step.first for step in steps]
            creep = creep_of(np.median(values, axis=0), firsts)
            called.append(creep is not None)
            if creep:
                inside.append(bool(creep.log_ratio[1] <= 5.0 <= creep.log_ratio[2]))
    name = f"{scatter.name}, over {length} runs"
    if length == 1:
        return [Figure(f"{name}: a creep", called, most=0.05)]
    return [Figure(f"{name}: told", called, 0.75), Figure(f"{name}: interval", inside, 0.80)]


def links(rng: Rng, n: int) -> list[Figure]:
    """Months in which 3 % of the runs are each in another state of the link; and a link that is
    slower by 1.65 from run 40 on: whether its change is an alarm by its second run."""
    called, told = list[bool](), list[bool]()
    for _ in range(n // 4):
        trips_ns = 102 * np.exp(0.02 * rng.standard_normal(RUNS))
        trips_ns[rng.random(RUNS) < 0.03] *= 3
        looks = [of_link(trips_ns[:runs]) for runs in MONTH]
        alarms_at = {first for look in looks for first, doubt in look.items() if not doubt}
        called.append(any(first >= MONTH[0] for first in alarms_at))
        trips_ns[40:] *= 1.65
        told.append(of_link(trips_ns[:42]).get(40) == "")
    return [Figure("single runs: an alarm", called, most=0.08), Figure("1.65 x: told", told, 0.90)]


def of_link(trips_ns: Floats) -> dict[int, str]:
    return changes_of(nearest(trips_ns, states_in(trips_ns)))[0]


NORMAL = [Runs(f"rho {rho:g}", rho) for rho in (0.0, 0.2, 0.4, 0.7)]
HEAVY = Runs("rho 0.4, t with 3 df", 0.4, heavy=True)
SHARED = [Runs(f"rho {rho:g}, hang together", rho, shared=0.7) for rho in (0.0, 0.4)]
DISTURBED = [Runs(f"rho {rho:g}, runs go astray", rho, outliers=True) for rho in (0.0, 0.4)]
FEW = [Runs(f"{series} series, rho 0.4", 0.4, series=series) for series in (1, 3, 6, 24)]
FEW_CORRELATED = [Runs(f"{series} series, rho 0.7", 0.7, series=series) for series in (1, 3, 6, 24)]
FEW_HEAVY = [
    replace(scatter, name=f"{scatter.name}, t with 3 df", heavy=True) for scatter in FEW[1:]
]
GAPS = replace(NORMAL[2], name="rho 0.4, 5 % of cells missing", missing=0.05)
EARLY = range(11, 41)
HALF = [Runs(f"{series} series", 0.2, shared=0.5, series=series) for series in (3, 6, 24, 84)]
CLAIMS: dict[str, list[Simulation]] = {
    "A history where nothing changed, looked at after each of 30 runs": [
        *(
            partial(alarms, scatter, MONTH)
            for scatter in (NORMAL[0], NORMAL[2], NORMAL[3], HEAVY, *SHARED, GAPS)
        ),
        # Two disturbed runs in a row, of which nothing tells, are in 3 % of months.
        *(partial(alarms, scatter, MONTH, most=0.07) for scatter in DISTURBED),
        *(
            partial(alarms, scatter, MONTH, most=rate_of(scatter))
            for scatter in (*FEW, *FEW_HEAVY, *FEW_CORRELATED)
        ),
    ],
    "The same, of the first 40 runs": [partial(alarms, scatter, EARLY) for scatter in FEW],
    "A step of one series, and others named beside it": [
        partial(beside, scatter, series)
        for scatter in (NORMAL[0], NORMAL[2])
        for series in (24, 84)
    ],
    "The size of a step in one series, after steps in all": [
        partial(sizes, scatter) for scatter in HALF
    ],
    "The run of a step in all series, of 100 runs": [
        partial(placed, scatter, size, least)
        for scatter, least in (
            (NORMAL[0], 0.95),
            (NORMAL[2], 0.95),
            (SHARED[0], 0.0),
        )
        for size in (3.0, 5.0, 8.0, 10.0, 15.0)
    ],
    "Steps of 10, 5, 3 spreads in all series after 40 runs": [
        partial(late_steps, scatter) for scatter in (NORMAL[0], NORMAL[2], *SHARED, GAPS)
    ],
    "A step of 5 % among 20 runs that scatter by 0.6 %": [
        partial(few_runs, scatter) for scatter in HALF
    ],
    "The smallest step that the report says it would find": [
        partial(smallest, scatter, runs)
        for scatter in (*HALF, FEW[0], FEW[3])
        for runs in (25, 100)
    ],
    "A change of 5 spreads in all series, little by little": [
        partial(creeps, HALF[2], length) for length in (1, 20, 60)
    ],
    "The state of the link": [links],
}
