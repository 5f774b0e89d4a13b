"""The parts of a step, which add up to it: what the device of a rank does at each moment.

| part | the device runs |
|---|---|
| compute | kernels or copies, and no collective |
| overlap | a collective beside other work |
| transport | nothing but collectives, while one moves data |
| waiting | nothing but collectives, while all of them wait for a later rank |
| idle | nothing: the host launches too late, or has no work |"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reports.breakdown.calls import Kind
from reports.breakdown.cut_steps import Steps
from reports.breakdown.timeline import Booleans, Floats, Integers, Timeline
from wiretax.record.stats import Interval, autocorrelation, student_quantile

PARTS = "compute", "transport", "waiting", "overlap", "idle"
LEAST_STEPS = 5  # of an interval


@dataclass
class StepParts:
    """The time of each part in us by rank and step, (ranks, steps), by the names of PARTS."""

    us: dict[str, Floats]

    @property
    def n_steps(self) -> int:
        return int(self.us["compute"].shape[1])

    def mean(self, part: str) -> Interval:
        """Of a step, over ranks and steps, with its 95 % interval over steps."""
        return mean_interval(self.us[part].mean(axis=0))

    def whole(self) -> Interval:
        """A whole step, over ranks and steps."""
        return mean_interval(np.sum([*self.us.values()], axis=0).mean(axis=0))


def mean_interval(values: Floats) -> Interval:
    """The mean of values in order of time, and Student's 95 % interval, which fewer than
    LEAST_STEPS lack. Neighbours may be correlated, as in an AR(1)."""
    middle, n = float(np.mean(values)), len(values)
    if n < LEAST_STEPS:
        return middle, None, None
    rho = autocorrelation([values]) if np.all(values > 0) else 0.0
    effective = max(2.0, n * (1 - rho) / (1 + rho))
    half = float(student_quantile(effective - 1) * np.std(values, ddof=1) / np.sqrt(effective))
    return middle, middle - half, middle + half


def parts_of(
    timelines: Sequence[Timeline], steps: Sequence[Steps], kinds: Sequence[Kind]
) -> StepParts:
    """The parts of all ranks' steps; `steps` are of each rank, as many in all."""
    by_rank = [
        parts_of_rank(timeline, own, [(kind.events[rank], kind.transport_us) for kind in kinds])
        for rank, (timeline, own) in enumerate(zip(timelines, steps, strict=True))
    ]
    return StepParts({part: np.array([us[part] for us in by_rank]) for part in PARTS})


def parts_of_rank(
    timeline: Timeline, steps: Steps, calls: Sequence[tuple[Integers, Floats]]
) -> dict[str, Floats]:
    """Of one rank; `calls` are of each kind the places and the transport. A call waits first, and
    moves data at its end."""
    moves_us = timeline.starts_us.copy()
    for events, transport_us in calls:
        moves_us[events] = timeline.ends_us[events] - transport_us
    is_call = timeline.is_call
    computes = timeline.starts_us[~is_call], timeline.ends_us[~is_call]
    communicates = timeline.starts_us[is_call], timeline.ends_us[is_call]
    moving = moves_us[is_call], timeline.ends_us[is_call]
    times = np.unique(np.concatenate([steps.edges_us, *computes, *communicates, moving[0]]))
    busy, call, moves = (running(times, *spans) for spans in (computes, communicates, moving))
    state = {
        "compute": busy & ~call,
        "overlap": busy & call,
        "transport": ~busy & moves,
        "waiting": ~busy & call & ~moves,
        "idle": ~busy & ~call,
    }
    of_step = np.searchsorted(steps.edges_us, times[:-1], side="right") - 1
    inside = (of_step >= 0) & (of_step < len(steps.edges_us) - 1)
    lasts = np.diff(times)
    n = len(steps.edges_us) - 1

    def by_step(is_in: Booleans) -> Floats:
        return np.bincount(of_step[inside], (lasts * is_in)[inside], n).astype(np.float64)

    return {part: by_step(state[part]) for part in PARTS}


def running(times: Floats, starts: Floats, ends: Floats) -> Booleans:
    """Whether any of the spans covers each interval between neighbouring times."""
    change = np.zeros(len(times) + 1)
    np.add.at(change, np.searchsorted(times, starts), 1)
    np.add.at(change, np.searchsorted(times, ends), -1)
    return np.asarray(np.cumsum(change)[: len(times) - 1] > 0)
