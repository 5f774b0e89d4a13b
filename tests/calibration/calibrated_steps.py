"""Claims on when `history` raises the alarm for a step in all cases, of runs that scatter by 1 %.
Its first run is a suspect by design: one slow run is no change."""

from functools import partial

from tests.calibration.calibrated_trends import (
    DISTURBED,
    HEAVY,
    NORMAL,
    SHARED,
    Runs,
    is_alarm,
    steps_of,
)
from tests.calibration.synthetic import Figure, Rng, Simulation

FIRST = 40  # the run of the step
# In percent, and the run after the step by which the alarm is raised, and how often.
STEPS = (10.0, 2, 0.95), (5.0, 3, 0.90), (3.0, 3, 0.75)
# If 70 % of the variance is common to all series, or 3 % of the runs are slower.
HARD_STEPS = STEPS[0], (5.0, 3, 0.88), (3.0, 8, 0.75)
Steps = tuple[tuple[float, int, float], ...]


def is_in_time(scatter: Runs, size: float, last: int, rng: Rng) -> bool:
    """Whether half of the series have an alarm by the run `last` after a step of so many spreads,
    looked at after each run."""
    values = scatter.draw(rng)[:, : FIRST + last]
    values[:, FIRST:] += size
    looks = (steps_of(values[:, : FIRST + age]) for age in range(1, last + 1))
    return any(2 * sum(map(is_alarm, steps)) >= len(values) for steps in looks)


def alarms_in_time(scatter: Runs, steps: Steps, rng: Rng, n: int) -> list[Figure]:
    """The share of these steps whose alarm comes in time. Runs a tenth of the replications."""
    return [
        Figure(
            f"{scatter.name}: {size:g} % by run {last}",
            [is_in_time(scatter, size, last, rng) for _ in range(n // 10)],
            least,
        )
        for size, last, least in steps
    ]


CLAIMS: dict[str, list[Simulation]] = {
    "An alarm for a step in all cases, of runs that scatter by 1 %": [
        *(partial(alarms_in_time, scatter, STEPS) for scatter in (NORMAL[0], NORMAL[2], HEAVY)),
        *(partial(alarms_in_time, scatter, HARD_STEPS) for scatter in (*SHARED, DISTURBED[1])),
    ],
}
