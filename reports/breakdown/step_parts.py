"""The parts of a step, which add up to it: what the device of a rank does at each moment.

| part | the device runs |
|---|---|
| compute | kernels or copies, and no collective |
| overlap | a collective beside other work |
| transport | nothing but collectives, while one moves data |
| waiting | nothing but collectives, while all of them wait for a later rank |
| idle | nothing: the host launches too late, or has no work |"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reports.breakdown.calls import Kind
from reports.breakdown.cut_steps import Steps
from reports.breakdown.timeline import Booleans, Floats, Integers, Timeline
from wiretax.record.stats import MIN_INTERVAL_VALUES, Interval, student_quantile

PARTS = "compute", "overlap", "transport", "waiting", "idle"
LEAST_STEPS = 5  # of an interval
# Few steps with a trend weigh no less: at rho 0.6 six hold the mean as often as with 2, within 2
# points, and the widest tenth of the intervals is 4.5 times narrower.
LEAST_EFFECTIVE = 3.0


@dataclass
class StepParts:
    """The time of each part in us by rank and step, (ranks, steps), by the names of PARTS; a part
    that nobody can tell is missing.
    `hidden_us`, alike, is what a step saves at most if each call runs beside the compute after it:
    of a call at most its own time without other work, and at most the compute until the next call
    or the step's end."""

    us: dict[str, Floats]
    hidden_us: Floats | None = None

    @property
    def n_steps(self) -> int:
        return int(self.us["compute"].shape[1])

    def mean(self, part: str) -> Interval:
        """Of a step, over ranks and steps, with its 95 % interval over steps."""
        return mean_interval(self.us[part].mean(axis=0))

    def whole(self) -> Interval:
        """A whole step, over ranks and steps."""
        return mean_interval(np.sum([*self.us.values()], axis=0).mean(axis=0))

    def hidden_at_most(self) -> Interval | None:
        """Of `hidden_us`, over ranks and steps."""
        return None if self.hidden_us is None else mean_interval(self.hidden_us.mean(axis=0))


def mean_interval(values: Floats) -> Interval:
    """The mean of values in order of time, and Student's 95 % interval, which fewer than
    LEAST_STEPS lack. Neighbours may be correlated, as in an AR(1): n values weigh as many
    independent ones as n (1 - rho) / (1 + rho)."""
    middle, n = float(np.mean(values)), len(values)
    if n < LEAST_STEPS:
        return middle, None, None
    rho = neighbours_correlation(values - middle)
    effective = max(LEAST_EFFECTIVE, n * (1 - rho) / (1 + rho))
    half = float(student_quantile(effective - 1) * np.std(values, ddof=1) / np.sqrt(effective))
    least = min(0.0, float(np.min(values)))  # no time is below 0
    return middle, max(least, middle - half), middle + half


def neighbours_correlation(deviations: Floats) -> float:
    """From 0 to 0.95, of deviations from their mean, corrected for what few values hide as in
    `autocorrelation`; that one takes logarithms, which a step without waiting has none of. Fewer
    than six tell nothing of it."""
    n, square = len(deviations), float(np.sum(deviations**2))
    if n < MIN_INTERVAL_VALUES or not square:
        return 0.0
    lagged = float(np.sum(deviations[1:] * deviations[:-1])) / square
    rho = (lagged + 1 / n) / (1 - 4 / n)
    return float(np.clip(rho + rho**4 / n, 0, 0.95))


def parts_of(
    timelines: Sequence[Timeline], steps: Sequence[Steps], kinds: Sequence[Kind]
) -> StepParts:
    """The parts of all ranks' steps; `steps` are of each rank, as many in all."""
    by_rank = [
        parts_of_rank(timeline, own, [(kind.events[rank], kind.transport_us) for kind in kinds])
        for rank, (timeline, own) in enumerate(zip(timelines, steps, strict=True))
    ]
    us = {part: np.array([us[part] for us, _ in by_rank]) for part in PARTS}
    return StepParts(us, np.array([hidden_us for _, hidden_us in by_rank]))


def parts_of_rank(
    timeline: Timeline, steps: Steps, calls: Sequence[tuple[Integers, Floats]]
) -> tuple[dict[str, Floats], Floats]:
    """The parts and `hidden_us` of one rank; `calls` are of each kind the places and the transport.
    A call waits first, and moves data at its end; one that does not match moves data all along."""
    moves_us = timeline.starts_us.copy()
    for events, transport_us in calls:
        moves_us[events] = timeline.ends_us[events] - transport_us
    is_call, n_steps = timeline.is_call, len(steps.names)
    computes = timeline.starts_us[~is_call], timeline.ends_us[~is_call]
    communicates = timeline.starts_us[is_call], timeline.ends_us[is_call]
    moving = moves_us[is_call], timeline.ends_us[is_call]
    edges_us = steps.starts_us, steps.ends_us
    times = np.unique(np.concatenate([*edges_us, *computes, *communicates, moving[0]]))
    of_step = np.searchsorted(steps.starts_us, times[:-1], side="right") - 1
    inside = (of_step >= 0) & (times[:-1] < steps.ends_us[of_step])
    of_step, lasts_us = of_step[inside], np.diff(times)[inside]
    busy, call, moves = (running(times, *each)[inside] for each in (computes, communicates, moving))
    state = {
        "compute": busy & ~call,
        "transport": ~busy & moves,
        "waiting": ~busy & call & ~moves,
        "overlap": busy & call,
        "idle": ~busy & ~call,
    }

    def summed(places: Integers, is_in: Booleans, n: int) -> Floats:
        return np.bincount(places, lasts_us * is_in, n).astype(np.float64)

    # From the begin of a call, or of a step, to the next one's; either raises the number by one.
    stretch = of_step + np.searchsorted(communicates[0], times[:-1][inside], side="right")
    n_stretches = n_steps + len(communicates[0]) + 1
    alone_us = summed(stretch, ~busy & call, n_stretches)
    saved_us = np.minimum(alone_us, summed(stretch, state["compute"], n_stretches))
    step_of = np.zeros(n_stretches, int)
    step_of[stretch] = of_step
    hidden_us = np.bincount(step_of, saved_us, n_steps).astype(np.float64)
    return {part: summed(of_step, state[part], n_steps) for part in PARTS}, hidden_us


def running(times: Floats, starts: Floats, ends: Floats) -> Booleans:
    """Whether any of the spans covers each interval between neighbouring times."""
    begun = np.bincount(np.searchsorted(times, starts), minlength=len(times))
    ended = np.bincount(np.searchsorted(times, ends), minlength=len(times))
    return np.asarray(np.cumsum(begun - ended)[:-1] > 0)


def interval_fields(spans: Mapping[str, Interval]) -> dict[str, Any]:
    """For JSON: each figure by its name, and in `intervals` the ends of all."""
    middles: dict[str, Any] = {name: us[0] for name, us in spans.items()}
    return middles | {"intervals": {name: us[1:] for name, us in spans.items()}}
