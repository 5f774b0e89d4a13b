"""The tail of a case: percentiles of its steps, and the share of its slow ones, each with its
interval."""

from collections.abc import Sequence
from functools import lru_cache
from math import ceil
from typing import Any

import numpy as np

from wiretax.record.effective_steps import (
    OUTSIDE,
    Floats,
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
# All fields of a case that tell its steps.
STEP_FIELDS = "n_steps", *PERCENTILES, "step_worst_us", "slow_share"
LEAST_BEYOND = 10  # steps beyond a percentile, for it to be shown
LEAST_APART = 6  # blocks with steps beyond it: the bursts of fewer do not tell how many more come
SLOW_RATIO = 2  # of a slow step to the P50, at the least
LEAST_SLOW_SHARE = 1 / 1000  # of calls, they hit 15 % of the tokens of 160 calls


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
    its ends are None unless `has_interval`, and below one effective step beyond the percentile. The
    upper end is None below `effective_needed` too, and where fewer than LEAST_APART blocks have the
    steps beyond it.

    The interval is Woodruff's (JASA 47, 1952): the share of steps below a time varies as that of
    `effective` independent ones, so the bounds of their ranks bound the percentile. The fewest
    effective steps of any time in the interval count, as Francisco and Fuller (Annals of Statistics
    19, 1991) test each time by its own variance: bursts weigh more the higher the time."""
    if steps.n < steps_needed(share):
        return None
    estimate = Estimate(value=round(steps.quantile_us(share), 6))
    if not has_interval(steps):
        return estimate

    reached, counts = _reached(steps, outside)
    low = high = share
    n, fewest = np.inf, float(steps.n)
    while fewest < n:
        n = fewest
        if n * (1 - share) < 1:
            return estimate
        low, high = rank_bounds(n, share, outside)
        first, last = np.searchsorted(reached, [low, high])
        fewest = min(n, float(counts[max(first - 1, 0) : last + 1].min()))

    low_us, high_us = steps.quantile_us(low), steps.quantile_us(high)
    edges_us = steps.edges_us
    bin_ratio = float(edges_us[-1] / edges_us[-2])
    if high_us < low_us * bin_ratio:  # within a bin nothing is known
        first, last = np.searchsorted(edges_us, [low_us, high_us], side="right")
        low_us = max(edges_us[first - 1], steps.least_us)
        high_us = min(edges_us[min(last, len(edges_us) - 1)], steps.most_us)

    estimate.ci_low = round(float(low_us), 6)
    n_apart = np.count_nonzero(steps.above(estimate.value / bin_ratio))
    if int(n) >= effective_needed(share, outside) and n_apart >= LEAST_APART:
        estimate.ci_high = round(float(high_us), 6)
    return estimate


@lru_cache(maxsize=1)  # a page draws 40 percentiles of a case
def _reached(steps: Tally, outside: float) -> tuple[Floats, Floats]:
    """The share of the steps below each bin's end, and how many effective steps tell it."""
    below = np.cumsum(steps.counts, axis=1).astype(float)
    return below.sum(axis=0) / steps.n, effective(steps, below, outside)


def share_above(steps: Tally, limit_us: float) -> Estimate:
    """The share of the steps that take longer than a limit, with its 95 % interval, whose ends are
    None as those of a `percentile`. No step above it has no design effect: the largest beyond the
    P90 counts."""
    above = steps.above(limit_us)
    estimate = Estimate(value=float(above.sum() / steps.n))
    if not has_interval(steps):
        return estimate

    n = float(effective(steps, above[:, None])[0])
    if not above.any():
        reached, counts = _reached(steps, OUTSIDE)
        n = float(counts[reached >= 0.9].min())
    low, high = share_bounds(n, estimate.value)
    estimate.ci_low = low
    if np.count_nonzero(above) >= LEAST_APART or not above.any():
        estimate.ci_high = high
    return estimate
