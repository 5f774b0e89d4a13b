"""The tail of a case: percentiles of its steps, and the share of its slow ones, each with its
interval."""

from collections.abc import Sequence
from math import ceil
from typing import Any

import numpy as np

from wiretax.record.effective_steps import (
    OUTSIDE,
    effective,
    effective_needed,
    has_interval,
    rank_bounds,
    share_bounds,
)
from wiretax.record.histogram import Tally, tally
from wiretax.record.schema import Block, Case, Estimate, Result

# The percentiles of a case, by the names of their fields.
PERCENTILES = {
    "step_p50_us": 0.5,
    "step_p90_us": 0.9,
    "step_p99_us": 0.99,
    "step_p999_us": 0.999,
}
LEAST_BEYOND = 10  # steps beyond a percentile, for it to be shown
SLOW_RATIO = 2  # of a slow step to the P50, at the least


def steps_needed(share: float) -> int:
    """How many steps a percentile takes to be shown: those that leave LEAST_BEYOND beyond it."""
    return ceil(round(LEAST_BEYOND / (1 - share), 6))


def tail_of(blocks: Sequence[Block]) -> dict[str, Any]:
    """The fields of a case that tell its tail, from all its blocks of one launch; empty without
    stored steps. Raises ValueError for damaged counts."""
    steps = tally(blocks)
    if steps is None:
        return {}

    fields: dict[str, Any] = {"n_steps": steps.n, "step_worst_us": steps.most_us}
    for name, share in PERCENTILES.items():
        fields[name] = percentile(steps, share)
    fields["slow_share"] = share_above(steps, SLOW_RATIO * steps.quantile_us(0.5))
    return fields


def check_tail(case: Case) -> None:
    """Raises ValueError if a percentile of the case is below a lower one, or above the worst."""
    found = [getattr(case, name) for name in PERCENTILES]
    values_us = [each.value for each in found if each]
    if case.step_worst_us is not None:
        values_us.append(case.step_worst_us)
    if values_us != sorted(values_us):
        raise ValueError(f"percentiles of case {case.case} are not in order")


def steps_of_case(result: Result, number: int) -> Tally | None:
    """The steps of the case with this number in a run that `read` has checked; None if a block has
    none."""
    return tally([block for block in result.blocks if block.case == number])


def percentile(steps: Tally, share: float, outside: float = OUTSIDE) -> Estimate | None:
    """A percentile of these steps in us, None below `steps_needed`, with its 95 % interval, or with
    that of 1 - 2 `outside`: of the steps of this launch, or if there are several, of launches. Both
    its ends are None where `has_interval` is not, and the upper one below `effective_needed`.

    The interval is Woodruff's (JASA 47, 1952): the share of steps below a time varies as that of
    `effective` independent ones, so the bounds of their ranks bound the percentile. The fewest
    effective steps of any time in the interval count, as Francisco and Fuller (Annals of Statistics
    19, 1991) test each time by its own variance: bursts weigh more the higher the time."""
    if steps.n < steps_needed(share):
        return None
    estimate = Estimate(value=round(steps.quantile_us(share), 6))
    if not has_interval(steps):
        return estimate

    below = np.cumsum(steps.counts, axis=1).astype(float)
    reached, counts = below.sum(axis=0) / steps.n, effective(steps, below, outside)
    low = high = share
    n, fewest = np.inf, float(steps.n)
    while fewest < n:
        n = fewest
        low, high = rank_bounds(n, share, outside)
        first, last = np.searchsorted(reached, [low, high])
        fewest = min(n, float(counts[max(first - 1, 0) : last + 1].min()))

    estimate.ci_low = round(steps.quantile_us(low), 6)
    if int(n) >= effective_needed(share, outside):
        estimate.ci_high = round(steps.quantile_us(high), 6)
    return estimate


def share_above(steps: Tally, limit_us: float) -> Estimate:
    """The share of the steps that take longer than a limit, with its 95 % interval, as that of a
    `percentile`. No step above it has no design effect: the largest beyond the P90 counts."""
    above = steps.above(limit_us)
    estimate = Estimate(value=float(above.sum() / steps.n))
    if not has_interval(steps):
        return estimate

    n = float(effective(steps, above[:, None])[0])
    if not above.any():
        below = np.cumsum(steps.counts, axis=1).astype(float)
        n = float(effective(steps, below)[below.sum(axis=0) >= 0.9 * steps.n].min())
    estimate.ci_low, estimate.ci_high = share_bounds(n, estimate.value)
    return estimate
