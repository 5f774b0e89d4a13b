"""The series of a history: one for each case, machine, node, benchmark, world and method. The
launches of one side of a campaign ran close together in time: they are one point, their median."""

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np
import pandas as pd

from reports.store.observations import Entry, costs_of, method_of
from reports.store.result import time_of
from reports.store.schema import CaseHeader
from reports.tables.sentences import interval_text, machine_name, number, sized, without_version
from reports.trends.changes import DISTURBED, SUSPECT, LevelChange, levels_between, neighbours
from reports.verdicts.sides import case_names
from reports.verdicts.verdict import Floats


@dataclass(eq=False)
class Series:
    """One case over runs, in order of time: `costs_us` are median costs.
    `steps` are the changes between them; `quiet` is the verdict without any. `node` is the label of
    the host, if the runs have it, `place` names benchmark, machine and node. `case` is the newest
    run's. Series that differ in the algorithm alone share a `panel`, where each has a `name`."""

    label: str
    panel: str
    name: str
    case: CaseHeader
    machine_id: str
    benchmark: str
    node: str | None
    place: str
    run_ids: Sequence[str]
    costs_us: Floats
    steps: list[LevelChange] = field(default_factory=list)
    quiet: str = "too early"

    @property
    def last_step(self) -> LevelChange | None:
        """The last change that does not rest on disturbed runs; it may be a suspect."""
        return next((step for step in reversed(self.steps) if step.doubt != DISTURBED), None)

    @property
    def last_alarm(self) -> LevelChange | None:
        return next((step for step in reversed(self.steps) if not step.doubt), None)

    @property
    def word(self) -> str:
        step = self.last_step
        return step.doubt or step.word if step else self.quiet

    def since(self, step: LevelChange | None) -> str | None:
        """The first run after a change."""
        return self.run_ids[step.first] if step else None

    @property
    def levels(self) -> Floats:
        """Of each run, the median between the changes around it."""
        return levels_between(self.costs_us[None], [[step.first for step in self.steps]]).ravel()

    def beside_level(self, run_id: str) -> float | None:
        """The share by which a run took longer than the median of up to eight runs before it, of
        one level; None without such runs."""
        if run_id not in self.run_ids:
            return None
        at = self.run_ids.index(run_id)
        start = max([0, at - 8, *(step.first for step in self.steps if step.first < at)])
        return float(self.costs_us[at] / np.median(self.costs_us[start:at]) - 1) if at else None

    def mark_disturbed(self, disturbed: Container[str]) -> None:
        """Marks the steps to or from a level with disturbed runs only: they are no alarms."""
        is_disturbed = [run_id in disturbed for run_id in self.run_ids]
        places = neighbours([step.first for step in self.steps], len(is_disturbed))

        for step, (start, first, stop) in zip(self.steps, places, strict=True):
            sides = is_disturbed[start:first], is_disturbed[first:stop]
            if any(map(all, sides)):
                step.doubt = DISTURBED

    def record(self) -> dict[str, Any]:
        """The series for `--json`; the change is a share of the cost, with its 95 % interval."""
        step = self.last_step
        change = np.expm1(step.log_ratio).round(5) if step else None
        return {
            "case": self.label,
            "machine_id": self.machine_id,
            "node": self.node,
            "benchmark": self.benchmark,
            "verdict": step.word if step else self.quiet,
            "alarm": bool(step and not step.doubt),
            "since": self.since(step),
            "change": change,
            "runs": len(self.costs_us),
            "last_us": self.costs_us[-1],
        }

    def row(self, step: LevelChange) -> dict[str, str]:
        """A step as cells of a table by column; the costs are medians of up to eight runs."""
        costs_us = self.costs_us.tolist()
        return {
            "case": self.label,
            "verdict": step.doubt or step.word,
            "before, us": number(median(costs_us[: step.first][-8:])),
            "after, us": number(median(costs_us[step.first :][:8])),
            "change [95 %]": interval_text(tuple(np.expm1(step.log_ratio)), "{:+.1%}".format),
        }


def series_of(entries: Sequence[Entry], variant: str) -> Iterator[Series]:
    """The series of runs that were measured alike on a node, of a `variant` of campaigns or, if it
    is empty, outside. The runs of one side of a campaign are one point, named by the first."""
    run = entries[0].run
    costs_us, planned = costs_of(entries)
    # The library's version, in the last value of a key, may change within a series. Each run has
    # one version, so one cost.
    keys = pd.Series([(*key[:-1], without_version(key[-1])) for key in planned])
    newest = [*dict(zip(keys, planned.values(), strict=True)).values()]
    place = f"{run.benchmark} on {machine_name(run)}" + (f", node {run.node}" if run.node else "")
    firsts = dict[Any, str]()
    points = [
        firsts.setdefault(entry.path.parent if variant else entry, entry.run.run_id)
        for entry in entries
    ]
    costs = pd.DataFrame(costs_us).groupby(points, sort=False).median()
    costs = costs.T.groupby(keys.factorize()[0]).max().T

    for name, case, (_, every_us) in sorted(
        zip(case_names(newest), newest, costs.items(), strict=True),
        key=lambda each: (each[1].size_bytes, each[0]),
    ):
        own_us = every_us.dropna()
        method = run.method.get("harness") or method_of(run)
        in_panel = " ".join(word for word in name.split(" ") if word != case.mode)
        if case.library:
            in_panel = in_panel.replace(case.algorithm, case.library, 1)

        if len(own_us):
            yield Series(
                sized(case, " ".join(filter(None, [name, method, variant]))),
                sized(case, " ".join(filter(None, [case.mode, method, variant]))),
                in_panel,
                case,
                run.machine_id,
                run.benchmark,
                run.node,
                place,
                own_us.index.tolist(),
                own_us.to_numpy(),
            )


@dataclass
class Event:
    """Steps of series of one machine and benchmark, ours before the library's, each the largest
    first, out of `n_series`. `run` is the first run after them, and they lie between the two runs
    `sides` (95 %); `facts` say what else changed there; `commits` are those before and after, if
    they differ."""

    run: str
    sides: tuple[str, str]
    changes: list[tuple[Series, LevelChange]]
    n_series: int
    facts: list[str]
    commits: list[str]

    @property
    def series(self) -> Series:
        """The series with the largest step of ours, if any."""
        return self.changes[0][0]

    @property
    def word(self) -> str:
        """`worse` or `better`, as this step is."""
        return self.changes[0][1].word

    @property
    def sentences(self) -> list[str]:
        """How certain its place is, and what else changed there."""
        return [f"It lies between {' and '.join(self.sides)} (95 %).", *self.facts]

    @property
    def is_alarm(self) -> bool:
        return any(not step.doubt for _, step in self.changes)

    @property
    def is_suspect(self) -> bool:
        return any(step.doubt == SUSPECT for _, step in self.changes)

    @property
    def finding(self) -> str:
        """`1 MiB auto and 2 MiB auto take 8.9% longer since 20 Nov 2026, 1a2b3c4 -> 9f8e7d6`, of
        the cases of ours that changed as the first did, or of the library, and whether both did:
        then it was not the code. At the end why it is no alarm, if it is none."""
        alike = [change for change in self.changes if change[1].word == self.word]
        ours = [change for change in alike if not change[0].case.library]
        changes = ours or alike
        names = [sized(series.case, series.name) for series, _ in changes]
        cases = " and ".join(names)
        if len(self.changes) == self.n_series > 2:
            cases = f"All {len(names)} cases"
        elif names[2:]:
            cases = f"{len(names)} of {self.n_series} cases"
        change = abs(np.expm1(np.median([step.log_ratio[0] for _, step in changes])))
        verb = "take" if names[1:] else "takes"
        more = "longer" if self.word == "worse" else "less"
        text = f"{cases} {verb} {change:.1%} {more} since {time_of(self.run):%-d %b %Y}"
        if self.commits:
            text += f", {' -> '.join(self.commits)}"
        if 0 < len(ours) < len(alike):
            text += "; so does the library"
        if self.is_suspect:
            text += "; a suspect, no alarm until the next run confirms it"
        elif not self.is_alarm:
            text += "; no alarm: its runs were disturbed"
        return text
