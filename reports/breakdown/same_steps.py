"""Which steps of all ranks are the same, though a profiler may begin or end later in one of them.

| names of steps | the same are |
|---|---|
| each occurs once | those of one name |
| they repeat | those whose calls end at the same distances in time, as the calls of all ranks do |
| they repeat, too regular to tell | all, if ranks have as many; else the nearest by the clocks |"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from reports.breakdown.cut_steps import ROUNDED_US, Steps
from reports.breakdown.one_run import NotOneRun
from reports.breakdown.timeline import Floats, Timeline

LEAST_COMMON = 6  # steps whose distances are compared
MOST_COMPARED = 1000
CLEAR = 3.0  # times less than those of any other pairing do they differ


class Pairing(NamedTuple):
    """The other rank's steps are `shift` places further back; `n_steps` have a partner. Their
    marks' distances differ by `differ_us`, and marks are `apart_us` by the clocks."""

    shift: int
    n_steps: int
    differ_us: float
    apart_us: float


NO_PAIRING = Pairing(0, 0, np.inf, np.inf)


def same_steps(
    timelines: Sequence[Timeline], steps: Sequence[Steps], told: list[str]
) -> list[Steps]:
    """The steps that all ranks have; `told` gets a sentence on the others. Raises NotOneRun if
    nothing tells which are the same."""
    names = [each.names for each in steps]
    if all(len({*each}) == len(each) for each in names):
        common = [name for name in names[0] if all(name in each for each in names)]
        places = [[each.index(name) for name in common] for each in names]
    else:
        marks_us = [marks_of(*each) for each in zip(timelines, steps, strict=True)]
        shifts = [
            shift_of(steps[0], each, marks_us[0], us)
            for each, us in zip(steps, marks_us, strict=True)
        ]
        begin = max(0, *(-shift for shift in shifts))
        end = min(len(each) - shift for each, shift in zip(names, shifts, strict=True))
        places = [[*range(begin + shift, end + shift)] for shift in shifts]
    most = max(map(len, names))
    if len(places[0]) == most:
        return [*steps]
    n_left_out = f"{most - len(places[0])} of {most} steps are left out"
    told.append(f"{n_left_out}, as not all traces have them.")
    return [each.only(own) for each, own in zip(steps, places, strict=True)]


def marks_of(timeline: Timeline, steps: Steps) -> Floats:
    """(steps,): when the calls of each step end on average, which they do in all ranks together; a
    step without calls begins then."""
    inside = timeline.is_call & (steps.of_work >= 0)
    n_steps = len(steps.names)
    n_calls = np.bincount(steps.of_work[inside], minlength=n_steps)
    sums_us = np.bincount(steps.of_work[inside], timeline.ends_us[inside], n_steps)
    return np.where(n_calls > 0, sums_us / np.maximum(1, n_calls), steps.starts_us)


def shift_of(first: Steps, other: Steps, first_us: Floats, other_us: Floats) -> int:
    """By how many places the steps of the other rank are further back than the same ones of the
    first. Raises NotOneRun if nothing tells."""
    if first is other:
        return 0
    pairings = [*pairings_of(first, other, first_us, other_us)]
    by_difference = sorted(pairings, key=lambda each: each.differ_us)
    best, second = (each.differ_us for each in [*by_difference, NO_PAIRING, NO_PAIRING][:2])
    if np.isfinite(second) and second > max(CLEAR * best, ROUNDED_US):
        return by_difference[0].shift
    if first.names == other.names:
        return 0
    whole = [each for each in pairings if each.n_steps == min(len(first_us), len(other_us))]
    if len(whole) == 1:
        return whole[0].shift
    nearest = min(pairings, key=lambda each: each.apart_us, default=NO_PAIRING)
    if nearest.n_steps and nearest.apart_us > np.median(first.ends_us - first.starts_us) / 2:
        raise NotOneRun("the traces cannot be compared: nothing tells which steps are the same")
    return nearest.shift if nearest.n_steps else len(other.names)


def pairings_of(
    first: Steps, other: Steps, first_us: Floats, other_us: Floats
) -> Iterator[Pairing]:
    """Those that give half of the shorter one's steps or more a partner, all of equal names."""
    n_first, n_other = len(first_us), len(other_us)
    _, names = np.unique([*first.names, *other.names], return_inverse=True)
    least = max(1, (min(n_first, n_other) + 1) // 2)
    for shift in range(1 - n_first, n_other):
        begin, end = max(0, -shift), min(n_first, n_other - shift)
        own = slice(begin, end)
        others = slice(begin + shift, end + shift)
        if end - begin >= least and np.array_equal(names[own], names[n_first:][others]):
            apart_us = (other_us[others] - first_us[own])[:MOST_COMPARED]
            is_told = len(apart_us) >= LEAST_COMMON
            differ_us = float(np.std(np.diff(apart_us))) if is_told else np.inf
            yield Pairing(shift, end - begin, differ_us, abs(float(np.median(apart_us))))
