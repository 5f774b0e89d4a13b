"""The percentile of one launch's steps, for verdicts on many launches. `tails` shows percentiles of
a case, with intervals."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import ceil
from operator import attrgetter

import numpy as np
from scipy.special import betainc

from wiretax.common.grouped import grouped
from wiretax.record.case import Key, key_of
from wiretax.record.histogram import Tally, tally
from wiretax.record.schema import Result

JUDGED_BEYOND = 2  # steps of a launch beyond its percentile, on average


def quantile_name(quantile: float) -> str:
    """`P99` of 0.99."""
    return f"P{100 * quantile:.6g}"


def least_steps(quantile: float) -> int:
    """How many steps a launch takes for a verdict on this quantile, from 0.5 to 1."""
    return ceil(round(JUDGED_BEYOND / (1 - quantile), 6))


def launch_quantile_us(steps: Tally, quantile: float, n: int | None = None) -> float:
    """The quantile of these steps in us, by Harrell and Davis (Biometrika 69, 1982): what it is on
    average in samples of `n` of them, by default as many as there are. Where about 1 % of the
    steps are slow, the 99th of 100 jumps between launches, and this one is steady. It depends
    little on the number of steps if all launches have one `n`."""
    n = n or steps.n
    reached = np.cumsum(np.append(0, steps.of_bins)) / steps.n
    weights = np.diff(betainc((n + 1) * quantile, (n + 1) * (1 - quantile), reached))
    return float(weights @ np.clip(steps.middles_us, steps.least_us, steps.most_us))


def launch_steps(result: Result, without: Sequence[str] = ()) -> Iterator[tuple[Key, Tally]]:
    """The key and the steps of each case of a run that stores them, if it was not wrong and any of
    them took time, of all its blocks in one row. A key leaves out the fields `without`: of two
    cases that have one key then, the one with more steps comes last, and counts."""
    blocks, found = grouped(result.blocks, attrgetter("case")), list[tuple[Key, Tally]]()
    for case in result.cases:
        steps = tally(blocks.get(case.case, ())) if case.status == "ok" else None
        if steps and steps.most_us:
            of_launch = replace(steps, counts=steps.of_bins[None], launches=steps.launches[:1])
            found.append((key_of(result.run.cases[case.case], without), of_launch))
    yield from sorted(found, key=lambda each: each[1].n)
