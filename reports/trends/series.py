"""The series of a history: one for each case, machine, node, benchmark, world and method. The
launches of one side of a campaign ran close together in time: they are one point, their median."""

from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np

from reports.tables.sentences import interval_text, machine_name, number
from reports.trends.changes import DISTURBED, LevelChange, levels_between
from reports.trends.step_test import neighbours
from reports.verdicts.verdict import Floats
from wiretax.record.observations import Entry
from wiretax.record.schema import CaseHeader, Run

FLAG = "flag"  # the collective of the link's round trip as a series


@dataclass(eq=False)
class Series:
    """One case over runs, in order of time: `costs_us` are median costs, or the percentile of its
    steps that `tail` names. `steps` are the changes
    between them; `quiet` is the verdict without any, and `smallest` the log ratio of the smallest
    that would be found. `node` is the label of the host, if the runs have it, `place` names
    benchmark, machine and node. `case` is the newest run's. Series that differ in the algorithm
    alone share a `chart`, where each has a `name`."""

    label: str
    chart: str
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
    smallest: float = np.inf
    tail: str = ""

    @property
    def title(self) -> str:
        """The label after what is shown of the case."""
        return f"{self.tail} of {self.label}" if self.tail else self.label

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
        at = self.run_ids.index(run_id) if run_id in self.run_ids else 0
        if at == 0:
            return None
        start = max([0, at - 8, *(step.first for step in self.steps if step.first < at)])
        return float(self.costs_us[at] / np.median(self.costs_us[start:at]) - 1)

    def mark_disturbed(self, disturbed: Container[str]) -> None:
        """Marks the steps to or from a level with disturbed runs only: they are no alarms."""
        is_disturbed = [run_id in disturbed for run_id in self.run_ids]
        places = neighbours([step.first for step in self.steps], len(is_disturbed))

        for step, (start, first, stop) in zip(self.steps, places, strict=True):
            before, after = is_disturbed[start:first], is_disturbed[first:stop]
            if all(before) or all(after):
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


def point_of(entry: Entry, variant: str) -> Any:
    """What the runs of one point share: the side of a campaign, or nothing."""
    return entry.path.parent if variant else entry


def place_of(run: Run) -> str:
    """`allreduce on AMD EPYC (1a2b3c4d), node n1`."""
    place = f"{run.benchmark} on {machine_name(run)}"
    return f"{place}, node {run.node}" if run.node else place


def label_of(*words: str) -> str:
    """The words that are not empty, as one label."""
    return " ".join(filter(None, words))
