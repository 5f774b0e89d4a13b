"""The tail of a case: percentiles of its steps, and the share of its slow ones, each with its
interval."""

from collections.abc import Sequence
from math import ceil
from typing import Any

from wiretax.record.histogram import Tally, tally
from wiretax.record.schema import Block, Estimate

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
        if steps.n >= steps_needed(share):
            fields[name] = percentile(steps, share)
    fields["slow_share"] = share_above(steps, SLOW_RATIO * steps.quantile_us(0.5))
    return fields


def percentile(steps: Tally, share: float) -> Estimate:
    """The percentile of these steps in us."""
    return Estimate(value=round(steps.quantile_us(share), 6))


def share_above(steps: Tally, limit_us: float) -> Estimate:
    """The share of the steps that take longer than a limit."""
    return Estimate(value=float(steps.above(limit_us).sum() / steps.n))
