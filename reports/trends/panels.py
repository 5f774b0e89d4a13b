"""Series of runs that were measured alike, over the runs that any of them has: which of them are
tested together, and what stands in for a run that a series lacks."""

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from reports.tables.sentences import sized, without_version
from reports.trends.changes import LEAST_BASE, Judgement, LevelChange
from reports.trends.series import Series, label_of, place_of, point_of
from reports.trends.steady_percentiles import steady_us
from reports.trends.tail_changes import QUANTILES
from reports.verdicts.sides import case_names
from reports.verdicts.verdict import Floats
from wiretax.record.case import is_own_benchmark
from wiretax.record.observations import COST_US, Entry, costs_of, method_of

LEAST_COMMON = 0.5  # of the runs of two series that are tested together


@dataclass
class Panel:
    """Series and their costs: `costs_us` has a row for each series, and a column for each run that
    any of them has, by its id and in order of time; NaN where a series lacks the run."""

    series: list[Series]
    costs_us: pd.DataFrame

    @property
    def log_costs(self) -> Floats:
        """The logarithms of the costs, (series, runs), with a value for each missing one."""
        return filled(np.log(self.costs_us.to_numpy()))

    def set_steps(
        self, judged: Judgement, disturbed: Container[str]
    ) -> list[dict[int, LevelChange]]:
        """Gives each series what was found in it. Returns the steps of each by their places among
        the runs of the panel."""
        of_series = []
        for row, series in enumerate(self.series):
            steps = self._in_own_runs(row, judged.steps[row])
            series.steps = [*steps.values()]
            series.quiet = judged.words[row]
            series.smallest = float(judged.smallest[row])
            series.mark_disturbed(disturbed)
            of_series.append(steps)

        return of_series

    def _in_own_runs(self, row: int, steps: Sequence[LevelChange]) -> dict[int, LevelChange]:
        """Steps between runs of the panel as steps between those that the series of this row has;
        without those before its first run or after its last."""
        has_run = self.costs_us.iloc[row].notna()
        own_before = [0, *np.cumsum(has_run).tolist()]  # runs of its own before each run
        last = own_before[-1] - 1
        own = {}
        for step in steps:
            first, low, high = (own_before[place] for place in (step.first, step.low, step.high))
            if 0 < first <= last:
                low, high = max(low, 1), min(high, last)
                own[step.first] = replace(step, first=first, low=low, high=high)

        return own


def panel_of(entries: Sequence[Entry], variant: str, link: str = "", quantile: str = "") -> Panel:
    """The series of runs that were measured alike on a node, of a `variant` of campaigns or, if it
    is empty, outside, in a state of the `link` that their labels name; of median costs, or of a
    `quantile`, one of QUANTILES. The runs of one side of a campaign are one point, named by the
    first."""
    figure = partial(steady_us, name=QUANTILES[quantile]) if quantile else COST_US
    costs_us, planned = costs_of(entries, figure=figure)
    firsts = dict[Entry | Path, str]()
    points = [firsts.setdefault(point_of(entry, variant), entry.run.run_id) for entry in entries]
    # The library's version, in the last value of a key, may change within a series. Each run has
    # one version, so one cost.
    keys = pd.Series([(*key[:-1], without_version(key[-1])) for key in planned])
    of_points = pd.DataFrame(costs_us).groupby(points, sort=False).median()
    of_series = of_points.T.groupby(keys.factorize()[0]).max()

    run = entries[0].run
    method = run.method.get("harness") or method_of(run)
    newest = [*dict(zip(keys, planned.values(), strict=True)).values()]
    names = case_names(newest)
    one_work = {f"{case.collective} {case.algorithm} " for case in newest if is_own_benchmark(case)}
    series, rows = [], []

    def order(row: int) -> tuple[int, str]:
        """By size and name; shapes of a program's own work as it printed them."""
        case = newest[row]
        return case.size_bytes, "" if is_own_benchmark(case) else names[row]

    for row in sorted(range(len(newest)), key=order):
        case, own_us = newest[row], of_series.iloc[row].dropna()
        if own_us.empty:
            continue
        in_chart = " ".join(word for word in names[row].split(" ") if word != case.mode)
        if len(one_work) == 1 and is_own_benchmark(case):
            in_chart = in_chart.removeprefix(*one_work)
        if case.library:
            in_chart = in_chart.replace(case.algorithm, case.library, 1)
        rows.append(row)
        series.append(
            Series(
                label=sized(case, label_of(names[row], method, variant, link)),
                chart=sized(case, label_of(case.mode, method, variant, link)),
                name=in_chart,
                case=case,
                machine_id=run.machine_id,
                benchmark=run.benchmark,
                node=run.node,
                place=place_of(run),
                run_ids=own_us.index.tolist(),
                costs_us=own_us.to_numpy(),
                tail=f"P{quantile}" if quantile else "",
            )
        )

    return Panel(series, of_series.iloc[rows])


def tested_together(panel: Panel) -> Iterator[Panel]:
    """The series that are long enough, in panels that are tested each: the longest series that is
    left, and those with about the same runs, so that a run without some cases does not part
    them."""
    has_run = panel.costs_us.notna().to_numpy()
    n_runs = has_run.sum(axis=1)
    rest = np.flatnonzero(n_runs > LEAST_BASE)
    while len(rest):
        longest = has_run[rest[np.argmax(n_runs[rest])]]
        n_common = (has_run[rest] & longest).sum(axis=1)
        n_either = (has_run[rest] | longest).sum(axis=1)
        is_near = n_common >= LEAST_COMMON * n_either
        rows, rest = rest[is_near], rest[~is_near]
        costs_us = panel.costs_us.iloc[rows].dropna(axis="columns", how="all")
        yield Panel([panel.series[row] for row in rows], costs_us)


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
