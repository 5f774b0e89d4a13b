"""Percentiles of single all-reduces, each until its result is consumed, over launches.

A percentile takes the steps of a candidate's own runs: neither a data sheet nor a published mean
tells one."""

from dataclasses import replace
from typing import Any

import numpy as np

from reports.advice.reduce_times import LEAST_LAUNCHES, AllReduceLaunches
from reports.tables.sentences import counted
from wiretax.record.effective_steps import effective_needed
from wiretax.record.histogram import Tally, add
from wiretax.record.schema import Estimate
from wiretax.record.tails import PERCENTILES, percentile, steps_needed, steps_of_case

# The fields of a case that have them, by their names: P50 to P99.9.
FIELDS = {f"P{100 * share:g}": field for field, share in PERCENTILES.items()}


def needed(name: str) -> str:
    """How many calls this percentile takes."""
    return f"{name} takes {steps_needed(PERCENTILES[FIELDS[name]]):,} calls"


def call_percentile(
    launches: AllReduceLaunches, size_bytes: int, name: str
) -> tuple[Estimate | None, str, int]:
    """This percentile of the calls of all launches that kept their steps, with its interval from
    five such launches on; its origin, or how many calls it takes; and the number of launches. All
    blocks count, in any state of the link."""
    share, outside = PERCENTILES[FIELDS[name]], (1 - launches.confidence) / 2
    calls = launches.calls
    found = [
        steps
        for place, number in calls.loc[calls.size_bytes == size_bytes, ["run", "case"]].to_numpy()
        if (steps := steps_of_case(launches.stored[place], number))
    ]
    if not found:
        return None, f"{needed(name)}, and no run of it kept how long each took", 0

    steps, n = add(found), counted(len(found), "launch")
    estimate = percentile(_evened(steps), share, outside)
    if estimate is None:
        return None, f"{needed(name)}, and its runs have {steps.n:,}", len(found)
    origin = f"measured, {steps.n:,} single calls in {n}"
    if len(found) < LEAST_LAUNCHES:
        estimate = Estimate(value=estimate.value)
    elif estimate.ci_high is None:
        least = effective_needed(share, outside)
        origin += (
            f", too few or too unlike for an upper end, which takes {least:,} independent ones"
        )
    return estimate, origin, len(found)


def _evened(steps: Tally) -> Tally:
    """The steps with the same weight for each launch: a launch that is slow has fewer calls in its
    time, and would count least."""
    own = np.bincount(steps.launches, steps.counts.sum(axis=1))
    weights = steps.n / len(own) / own
    counts: Any = steps.counts * weights[steps.launches][:, None]  # exact ones are whole numbers
    return replace(steps, counts=counts)
