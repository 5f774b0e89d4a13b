"""Finds the changes in a history, and what else changed at the same run.

The command, the picture and the dashboard show the events; `changes` has the statistics.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from msgspec import json

from reports.store.schema import Run
from reports.tables.sentences import number
from reports.trends.changes import MIN_RUNS, Step, find_steps
from reports.trends.history import History, Series

LONGEST_VALUE = 48
MEDIAN_RUNS = 8
NEAR_RUNS = 2  # steps of several series at most this far apart are one event


@dataclass
class Change:
    """A step of a series before its run `first` (an index), with the 95 % interval `low` to `high`.

    `ratio` is the cost after over the cost before, with its 95 % interval."""

    series: Series
    first: int
    low: int
    high: int
    ratio: tuple[float, float, float]

    @property
    def word(self) -> str:
        return "worse" if self.ratio[0] > 1 else "better"

    @property
    def figures(self) -> tuple[str, str, str]:
        """The median cost, us, of up to eight runs before and after; the change, with interval."""
        values = self.series.values
        before = number(float(np.median(values[: self.first][-MEDIAN_RUNS:])))
        after = number(float(np.median(values[self.first :][:MEDIAN_RUNS])))
        estimate, low, high = (ratio - 1 for ratio in self.ratio)
        return before, after, f"{estimate:+.1%} [{low:+.1%} {high:+.1%}]"


@dataclass
class Event:
    """Changes at one run of a machine and benchmark, the largest first.

    `run` is the first run after the changes; `low` and `high` bound it at 95 %. `recorded` has
    sentences on what else changed there."""

    machine_id: str
    benchmark: str
    run: str
    low: str
    high: str
    changes: list[Change]
    recorded: list[str]


def find_events(history: History) -> list[Event]:
    """The alarms, the event with the most change in all first; 5 % of histories without a change
    have one. Series over the same runs are tested together."""
    panels: dict[tuple[str, ...], list[Series]] = defaultdict(list)
    for series in history.series:
        if len(series.run_ids) >= MIN_RUNS:
            panels[(series.machine_id, series.benchmark, *series.run_ids)].append(series)
    n_series = sum(map(len, panels.values()))
    events = [event for panel in panels.values() for event in _events_of(history, panel, n_series)]
    return sorted(events, key=lambda event: -sum(map(_magnitude, event.changes)))


def _magnitude(change: Change) -> float:
    return abs(float(np.log(change.ratio[0])))


def _events_of(history: History, panel: Sequence[Series], n_series: int) -> list[Event]:
    machine_id, benchmark, run_ids = panel[0].machine_id, panel[0].benchmark, panel[0].run_ids
    steps = find_steps(np.log([series.values for series in panel]), n_series)
    common = Counter(step.first for step in steps)

    def place_of(step: Step) -> int:
        near = [place for place in common if abs(place - step.first) <= NEAR_RUNS]
        return max(near, key=lambda place: (common[place], place == step.first))

    at: dict[int, list[Change]] = defaultdict(list)
    for step in steps:
        estimate, low_ratio, high_ratio = np.exp(step.size)
        at[place_of(step)].append(Change(panel[step.series], step.first, step.low, step.high,
                                         (estimate, low_ratio, high_ratio)))
    events = []
    for place, changes in at.items():
        low = int(np.median([change.low for change in changes]))
        high = int(np.median([change.high for change in changes]))
        recorded = _recorded([history.runs[run_id] for run_id in run_ids], place,
                             range(min(low, place), max(high, place) + 1))
        events.append(Event(machine_id, benchmark, run_ids[place], run_ids[low - 1], run_ids[high],
                            sorted(changes, key=_magnitude, reverse=True), recorded))
    return events


def _recorded(runs: Sequence[Run], place: int, near: range) -> list[str]:
    """The recorded facts that changed at one of the runs `near` and rarely change elsewhere, so
    without the load; the nearest to `place` first."""
    facts = [_facts(run) for run in runs]
    sentences = []
    for at in sorted(near, key=lambda at: abs(at - place)):
        suffix = "" if at == place else f" (at {runs[at].run_id})"
        names = facts[at - 1].keys() | facts[at].keys()
        for name in sorted(names, key=lambda name: (name != "software_id", name)):
            values = [fact.get(name, "nothing") for fact in facts]
            n_changes = sum(before != after for before, after in pairwise(values))
            if values[at - 1] != values[at] and n_changes <= 1 + len(values) // 10:
                sentences.append(f"{name}: {values[at - 1]} -> {values[at]}{suffix}")
    return sentences


def _facts(run: Run) -> dict[str, str]:
    facts = {name: fact.get("value") if isinstance(fact, dict) else fact
             for name, fact in run.environment.items()}
    facts |= {"software_id": run.software_id, "version": run.version, "argv": " ".join(run.argv),
              "slowed_percent": run.world.get("slowed_percent")}
    texts = {name: value if isinstance(value, str) else json.encode(value).decode()
             for name, value in facts.items()}
    return {name: text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 3] + "..."
            for name, text in texts.items()}


def word_of(series: Series, events: Sequence[Event]) -> str:
    """`worse` or `better` by the series' last change, `no change`, or `too few runs`."""
    changes = [change for event in events for change in event.changes if change.series is series]
    if changes:
        return max(changes, key=lambda change: change.first).word
    return "no change" if len(series.run_ids) >= MIN_RUNS else "too few runs"
