"""Percentiles of single all-reduces, each until its result is consumed, over launches.

A percentile takes the steps of a candidate's own runs: neither a data sheet nor a published mean
tells one."""

from reports.advice.reduce_times import LEAST_LAUNCHES, AllReduceLaunches
from reports.tables.sentences import counted
from wiretax.record.histogram import add, tally
from wiretax.record.schema import Estimate
from wiretax.record.tails import PERCENTILES, percentile, steps_needed

# The fields of a case that have them, by their names: P50 to P99.9.
FIELDS = {f"P{100 * share:g}": field for field, share in PERCENTILES.items()}


def needed(name: str) -> str:
    """How many calls this percentile takes."""
    return f"{name} takes {steps_needed(PERCENTILES[FIELDS[name]]):,} calls"


def call_percentile(
    launches: AllReduceLaunches, size_bytes: int, name: str
) -> tuple[Estimate | None, str, int]:
    """This percentile of the calls of all launches that kept their steps, with its interval from
    five such launches on; its origin, or how many steps it takes; and the number of launches. All
    blocks count, in any state of the link."""
    share = PERCENTILES[FIELDS[name]]
    calls = launches.calls
    found = [
        steps
        for place, number in calls.loc[calls.size_bytes == size_bytes, ["run", "case"]].to_numpy()
        if (steps := tally([each for each in launches.stored[place].blocks if each.case == number]))
    ]
    if not found:
        return None, f"{needed(name)}, and no run of it kept how long each took", 0

    steps = add(found)
    if steps.n < steps_needed(share):
        return None, f"{needed(name)}, and its runs have {steps.n:,}", len(found)
    estimate = percentile(steps, share)
    origin = f"measured, {steps.n:,} single calls in {counted(len(found), 'launch')}"
    if len(found) < LEAST_LAUNCHES:
        estimate = Estimate(value=estimate.value)
    return estimate, origin, len(found)
