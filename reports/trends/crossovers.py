"""Finds the sizes at which one algorithm overtakes another, from their fits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations, pairwise

import numpy as np

from reports.trends.fit import curves_us
from reports.trends.fit_records import Conditions, Crossover, Estimate, Fit
from reports.trends.lines import interval, walsh_means
from reports.verdicts.verdict import Floats

STEPS_AN_OCTAVE = 8  # of size, at which two algorithms are compared
FINE_STEPS = 64  # within a crossover
CONDITIONS = [name for name in Conditions.__struct_fields__
              if name not in ("run_ids", "interval")]


def find_crossovers(fits: Sequence[Fit]) -> list[Crossover]:
    """The crossovers between the library and each of our algorithms, and between any two of ours of
    one variant, without `auto`, which runs one of them. Pairs without a crossover have a record
    too."""
    crossovers = []
    for first, second in combinations([fit for fit in fits if fit.regimes], 2):
        if _are_rivals(first, second):
            is_swapped = second.library is not None
            crossovers += _crossovers(*((second, first) if is_swapped else (first, second)))
    return crossovers


def _are_rivals(first: Fit, second: Fit) -> bool:
    if any(getattr(first, name) != getattr(second, name) for name in CONDITIONS):
        return False
    if first.library is None and second.library is None:
        return ("auto" not in (first.algorithm, second.algorithm)
                and (first.variant, first.memory) == (second.variant, second.memory))
    return first.library is None or second.library is None


def _crossovers(first: Fit, second: Fit) -> list[Crossover]:
    """Each launch has a difference of the two at any size. The interval over launches says which is
    certainly faster there; a crossover is a change from one certain order to the other."""
    low = max(first.sizes_bytes[0], second.sizes_bytes[0])
    high = min(first.sizes_bytes[-1], second.sizes_bytes[-1])
    run_ids = [run_id for run_id in dict.fromkeys(first.run_ids) if run_id in second.run_ids]
    if low >= high or not run_ids:
        return []
    has_interval = first.interval is not None and second.interval is not None
    rows = [[row for row, run_id in enumerate(fit.run_ids) if run_id in run_ids]
            for fit in (first, second)]
    count = min(map(len, rows))

    def difference(first_us: Floats, second_us: Floats) -> Floats:
        """(estimate, low, high) of the difference over the sum, (3, sizes)."""
        ours_us, theirs_us = first_us[rows[0][:count]], second_us[rows[1][:count]]
        shares = ((ours_us - theirs_us) / (ours_us + theirs_us)).T
        return np.array(interval(walsh_means(shares), count * has_interval))

    grid = np.geomspace(low, high, 2 + round(STEPS_AN_OCTAVE * math.log2(high / low)))
    order = _order(difference(curves_us(first, grid), curves_us(second, grid)))
    if common := sorted({*first.sizes_bytes} & {*second.sizes_bytes}):
        times_us = [np.array(fit.times_us)[:, [fit.sizes_bytes.index(size) for size in common]]
                    for fit in (first, second)]
        _drop_unmeasured(order, grid, _order(difference(*times_us)), np.array(common))
    faster = {1: second.name, -1: first.name, 0: None}
    head = {name: getattr(first, name) for name in CONDITIONS} | {
        "run_ids": run_ids, "interval": first.interval if has_interval else None,
        "first": first.name, "second": second.name, "from_bytes": low, "to_bytes": high}
    crossovers = []
    for i, j in pairwise(np.flatnonzero(order).tolist()):
        if order[i] != order[j]:
            sizes = np.geomspace(grid[i], grid[j], FINE_STEPS)
            ends = difference(curves_us(first, sizes), curves_us(second, sizes))
            size_bytes = _zero(sizes, ends if order[i] > 0 else -ends[[0, 2, 1]])
            crossovers.append(Crossover(**head, faster_below=faster[order[i]],
                                        faster_above=faster[order[j]], size_bytes=size_bytes))
    return crossovers or [Crossover(**head, faster_below=faster[order[0]],
                                    faster_above=faster[order[-1]])]


def _order(ends: Floats) -> Floats:
    """1 where the first is certainly slower, -1 where it is certainly faster, otherwise 0."""
    _, low, high = ends
    return np.asarray((low > 0).astype(float) - (high < 0))


def _drop_unmeasured(order: Floats, grid: Floats, measured: Floats, sizes: Floats) -> None:
    """Sets the order to 0 on each stretch of the grid in which no measured size confirms it."""
    nearest = np.argmin(np.abs(np.log(grid[:, None] / sizes)), axis=1)
    certain = np.flatnonzero(order)
    for stretch in np.split(certain, np.flatnonzero(np.diff(order[certain])) + 1):
        if not np.any(measured[nearest[stretch]] == order[stretch]):
            order[stretch] = 0


def _zero(sizes: Floats, ends: Floats) -> Estimate:
    """The sizes at which the estimate and both ends, (3, sizes), fall through 0."""
    zeros = []
    for values in ends:
        at = int(np.argmax(values[1:] <= 0))
        before, after = values[at], values[at + 1]
        share = before / (before - after) if before > 0 >= after else 0.0
        zeros.append(float(sizes[at] * (sizes[at + 1] / sizes[at]) ** share))
    return Estimate(value=zeros[0], low=zeros[1], high=zeros[2])
