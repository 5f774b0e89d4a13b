"""Where one algorithm overtakes another: at which size their times are equal, from launches that
measured both. Between two measured sizes a launch's times lie on a straight line, as alpha and beta
say; nothing is said beyond the measured sizes."""

from collections.abc import Sequence
from itertools import combinations, pairwise
from operator import attrgetter

import msgspec
import numpy as np

from reports.tables.rows import STABLE
from reports.trends.alpha_beta import Fit, lines_through
from reports.verdicts.verdict import Floats, Integers, evidence
from wiretax.common.grouped import grouped
from wiretax.record.stats import Interval

CHOOSES = "auto", STABLE  # one of the others, which is fitted too
FINE_STEPS = 64  # sizes within which a crossover is placed


class Crossover(msgspec.Struct, kw_only=True):
    """Two fits of one title, at the sizes that both have. Where `size_bytes` has a figure,
    `faster_above` overtakes `faster_below` there; a pair has a record for each such size, or one
    without. Then the names are alike: this one is faster at all sizes but `open_bytes`, where
    neither is; or None, if that is at all sizes."""

    title: str
    first: str
    second: str
    from_bytes: int
    to_bytes: int
    open_bytes: list[int]
    faster_below: str | None
    faster_above: str | None
    size_bytes: Interval | None


def crossovers_of(fits: Sequence[Fit]) -> list[Crossover]:
    """The crossovers of the library and others' algorithms with each other and with each of ours,
    and of ours of one variant, without what chooses one of them."""
    found = []
    for group in grouped(fits, attrgetter("title")).values():
        for first, second in combinations(group, 2):
            is_alike = (first.variant, first.memory) == (second.variant, second.memory)
            chooses = first.algorithm in CHOOSES or second.algorithm in CHOOSES
            if first.library or second.library or (is_alike and not chooses):
                found += _of_pair(first, second)
    return found


def _of_pair(first: Fit, second: Fit) -> list[Crossover]:
    """An order at a size counts if the times show it and the fitted lines, too: of many sizes of
    equal algorithms some seem to differ, one way and the other."""
    sizes = np.intersect1d(first.sizes_bytes, second.sizes_bytes)
    run_ids = [run_id for run_id in first.run_ids if run_id in second.run_ids]
    if not len(sizes) or not run_ids:
        return []

    longer_us = _times_us(first, run_ids, sizes) - _times_us(second, run_ids, sizes)
    by_lines_us = _by_lines_us(first, run_ids, sizes) - _by_lines_us(second, run_ids, sizes)
    order = _order(longer_us)
    order[order != _order(by_lines_us)] = 0

    def record(below: int, above: int, size_bytes: Interval | None) -> Crossover:
        faster = {1: second.name, -1: first.name, 0: None}
        return Crossover(
            title=first.title,
            first=first.name,
            second=second.name,
            from_bytes=int(sizes[0]),
            to_bytes=int(sizes[-1]),
            open_bytes=sizes[order == 0].tolist(),
            faster_below=faster[below],
            faster_above=faster[above],
            size_bytes=size_bytes,
        )

    clear = np.flatnonzero(order).tolist()
    changes = [(i, j) for i, j in pairwise(clear) if order[i] != order[j]]
    crossovers = []
    for i, j in changes:
        between = np.geomspace(sizes[i], sizes[j], FINE_STEPS)
        falling_us = order[i] * np.array([np.interp(between, sizes, own) for own in longer_us])
        crossovers.append(record(order[i], order[j], _zero_of(between, falling_us)))
    only = order[clear[0]] if clear else 0
    return crossovers or [record(only, only, None)]


def _times_us(fit: Fit, run_ids: Sequence[str], sizes: Integers) -> Floats:
    """The times of these launches at these sizes, (launches, sizes)."""
    rows = [fit.run_ids.index(run_id) for run_id in run_ids]
    return np.array(fit.times_us)[rows][:, np.isin(fit.sizes_bytes, sizes)]


def _by_lines_us(fit: Fit, run_ids: Sequence[str], sizes: Integers) -> Floats:
    """The same times on the launches' lines of their regimes."""
    measured, parts = np.array(fit.sizes_bytes), []
    for regime in fit.regimes:
        own = measured[(measured >= regime.from_bytes) & (measured <= regime.to_bytes)]
        alphas_us, slopes = lines_through(own, _times_us(fit, run_ids, own))
        parts.append(alphas_us[:, None] + np.outer(slopes, own[np.isin(own, sizes)]))
    return np.hstack(parts)


def _order(longer_us: Floats) -> Integers:
    """1 where the first certainly takes longer, -1 where it takes less, otherwise 0, (sizes,)."""
    cells = evidence(longer_us.T)
    return (cells.log_low > 0).to_numpy(int) - (cells.log_high < 0).to_numpy(int)


def _zero_of(sizes: Floats, falling_us: Floats) -> Interval:
    """The size at which times, (launches, sizes), fall through 0, with the first and the last size
    at which Wilcoxon's test does not exclude 0."""
    cells = evidence(falling_us.T)
    falling = (
        np.minimum.accumulate(cells.log_ratio.to_numpy()),
        np.minimum.accumulate(cells.log_low.to_numpy()),
        np.maximum.accumulate(cells.log_high.to_numpy()[::-1])[::-1],
    )
    value, first, last = (float(np.exp(np.interp(0.0, -each, np.log(sizes)))) for each in falling)
    return value, first, last
