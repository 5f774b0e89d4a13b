"""Which series of runs that were measured alike are tested together, and what stands in for a run
that lacks some of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from reports.trends.changes import LEAST_BASE, LevelChange
from reports.trends.series import Series
from reports.verdicts.verdict import Floats

LEAST_COMMON = 0.5  # of the runs of two series, for one panel


def panels_of(
    series: Sequence[Series], order: Mapping[str, int]
) -> Iterator[tuple[list[Series], list[str]]]:
    """The series that are long enough, by panel, and the runs of each panel in their `order`. A
    panel has the longest series that is left and those with about the same runs, so that a run
    without some cases does not part them."""
    rest = [each for each in series if len(each.run_ids) > LEAST_BASE]
    while rest:
        longest = {*max(rest, key=lambda each: len(each.run_ids)).run_ids}
        panel = [
            each
            for each in rest
            if len(longest & {*each.run_ids}) >= LEAST_COMMON * len(longest | {*each.run_ids})
        ]
        rest = [each for each in rest if each not in panel]
        yield (
            panel,
            sorted({*longest}.union(*(each.run_ids for each in panel)), key=order.__getitem__),
        )


def log_costs_of(panel: Sequence[Series], run_ids: Sequence[str]) -> Floats:
    """The logarithms of the costs of the series in these runs, (series, runs). A missing one is
    what the others of the run say, and its series' deviation from them before and after."""
    places = {run_id: place for place, run_id in enumerate(run_ids)}
    logs = np.full((len(panel), len(run_ids)), np.nan)
    for row, series in zip(logs, panel, strict=True):
        row[[places[run_id] for run_id in series.run_ids]] = np.log(series.costs_us)
    return filled(logs)


def filled(values: Floats) -> Floats:
    """Values in which NaN is the median deviation of its run plus the deviation of its series from
    that, between the runs before and after. Each series and each run has a value."""
    missing = np.isnan(values)
    if not missing.any():
        return values

    levels = np.nanmedian(values, axis=1, keepdims=True)
    of_runs = np.nanmedian(values - levels, axis=0)
    beside = values - levels - of_runs
    runs = np.arange(values.shape[1])
    for row, is_missing in zip(beside, missing, strict=True):
        row[is_missing] = np.interp(runs[is_missing], runs[~is_missing], row[~is_missing])
    return np.asarray(np.where(missing, levels + of_runs + beside, values))


def in_own_runs(
    steps: Sequence[LevelChange], series: Series, run_ids: Sequence[str]
) -> list[tuple[int, LevelChange]]:
    """The steps that a panel's runs show, which the series itself has runs before and after: the
    place of each there, and the step with places among its own runs."""
    has = np.isin(run_ids, series.run_ids)
    before = np.concatenate([[0], np.cumsum(has)]).tolist()  # runs of its own before each
    last = len(series.run_ids) - 1
    own = []
    for step in steps:
        first, low, high = (before[place] for place in (step.first, step.low, step.high))
        if 0 < first <= last:
            ends = max(low, 1), min(high, last)
            own.append((step.first, replace(step, first=first, low=ends[0], high=ends[1])))
    return own
