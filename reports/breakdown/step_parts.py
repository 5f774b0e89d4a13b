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
from wiretax.record.stats import MIN_INTERVAL_VALUES, Interval, student_quantile

PARTS = "compute", "overlap", "transport", "waiting", "idle"
LEAST_STEPS = MIN_INTERVAL_VALUES  # of an interval


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
    LEAST_STEPS lack. Neighbours may be correlated, as in an AR(1): n values weigh as many
    independent ones as n (1 - rho) / (1 + rho)."""
    middle, n = float(np.mean(values)), len(values)
    if n < LEAST_STEPS:
        return middle, None, None
    rho = neighbours_correlation(values - middle)
    effective = max(2.0, n * (1 - rho) / (1 + rho))
    half = float(student_quantile(effective - 1) * np.std(values, ddof=1) / np.sqrt(effective))
    return middle, middle - half, middle + half


def neighbours_correlation(deviations: Floats) -> float:
    """From 0 to 0.95, of deviations from their mean. Other than `autocorrelation` it needs no
    logarithms, which the waiting of a step has none of if it is 0, and corrects for what few values
    hide in the same way."""
    n, square = len(deviations), float(np.sum(deviations**2))
    if not square:
        return 0.0
    lagged = float(np.sum(deviations[1:] * deviations[:-1])) / square
    rho = (lagged + 1 / n) / (1 - 4 / n)
    return float(np.clip(rho + rho**4 / n, 0, 0.95))


def parts_of(
    timelines: Sequence[Timeline], steps: Sequence[Steps], kinds: Sequence[Kind]
) -> StepParts:
    """The parts of all ranks' steps; `steps` are of each rank, as many in all."""
    by_rank = [
        spans_of(timeline, own, kinds, rank).by_step()
        for rank, (timeline, own) in enumerate(zip(timelines, steps, strict=True))
    ]
    return StepParts({part: np.array([us[part] for us in by_rank]) for part in PARTS})


def hidden_at_most_us(
    timelines: Sequence[Timeline], steps: Sequence[Steps], kinds: Sequence[Kind]
) -> Interval:
    """What a step would save if each call ran beside the compute after it: of each call at most its
    own time without other work, and at most the compute until the next call or the step's end. The
    mean over ranks and steps, with its 95 % interval over steps."""
    saved = [
        spans_of(timeline, own, kinds, rank).hidden_us()
        for rank, (timeline, own) in enumerate(zip(timelines, steps, strict=True))
    ]
    return mean_interval(np.mean(saved, axis=0))


@dataclass
class Spans:
    """The time of a rank between neighbouring changes of what its device runs. All arrays have the
    shape (spans,): the step of each, whether it is of a part, and the calls begun before it."""

    lasts_us: Floats
    step: Integers
    call: Integers
    n_steps: int
    is_in: dict[str, Booleans]

    def by_step(self) -> dict[str, Floats]:
        """By part the time in us of each step, (steps,)."""
        return {
            part: np.bincount(self.step, self.lasts_us * own, self.n_steps).astype(np.float64)
            for part, own in self.is_in.items()
        }

    def hidden_us(self) -> Floats:
        """(steps,): the least of call and compute from the begin of a call to that of the next,
        summed over the calls of a step."""
        _, place, piece = np.unique(
            np.stack([self.step, self.call]), axis=1, return_index=True, return_inverse=True
        )
        alone = self.is_in["transport"] | self.is_in["waiting"]
        call_us = np.bincount(piece.ravel(), self.lasts_us * alone)
        compute_us = np.bincount(piece.ravel(), self.lasts_us * self.is_in["compute"])
        least_us = np.minimum(call_us, compute_us)
        return np.bincount(self.step[place], least_us, self.n_steps).astype(np.float64)


def spans_of(timeline: Timeline, steps: Steps, kinds: Sequence[Kind], rank: int) -> Spans:
    """What the device of a rank runs at each moment of its steps. A call waits first, and moves
    data at its end; one that does not match moves data all the time."""
    moves_us = timeline.starts_us.copy()
    for kind in kinds:
        moves_us[kind.events[rank]] = timeline.ends_us[kind.events[rank]] - kind.transport_us
    is_call = timeline.is_call
    computes = timeline.starts_us[~is_call], timeline.ends_us[~is_call]
    communicates = timeline.starts_us[is_call], timeline.ends_us[is_call]
    moving = moves_us[is_call], timeline.ends_us[is_call]
    edges_us = [steps.starts_us, steps.ends_us]
    times = np.unique(np.concatenate([*edges_us, *computes, *communicates, moving[0]]))
    busy, call, moves = (running(times, *spans) for spans in (computes, communicates, moving))
    is_in = {
        "compute": busy & ~call,
        "transport": ~busy & moves,
        "waiting": ~busy & call & ~moves,
        "overlap": busy & call,
        "idle": ~busy & ~call,
    }
    step = np.searchsorted(steps.starts_us, times[:-1], side="right") - 1
    inside = (step >= 0) & (times[:-1] < np.append(steps.ends_us, -np.inf)[step])
    return Spans(
        np.diff(times)[inside],
        step[inside],
        np.searchsorted(communicates[0], times[:-1][inside], side="right"),
        len(steps.names),
        {part: own[inside] for part, own in is_in.items()},
    )


def running(times: Floats, starts: Floats, ends: Floats) -> Booleans:
    """Whether any of the spans covers each interval between neighbouring times."""
    change = np.zeros(len(times) + 1)
    np.add.at(change, np.searchsorted(times, starts), 1)
    np.add.at(change, np.searchsorted(times, ends), -1)
    return np.asarray(np.cumsum(change)[: len(times) - 1] > 0)
