"""The events of a history: the changes of its series at one run."""

import re
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from reports.tables.sentences import interval_text, sized
from reports.trends.changes import SUSPECT, Judgement, LevelChange
from reports.trends.creep import creep_of
from reports.trends.panels import Panel
from reports.trends.series import FLAG, Series
from reports.verdicts.verdict import Floats
from wiretax.record.result import time_of

# Before and after an event: a fact that changes more often than this among them is no cause.
FACT_RUNS, MOST_FACT_CHANGES = 10, 3


class Change(NamedTuple):
    """A step of a series, between runs of its own."""

    series: Series
    step: LevelChange


class Crept(NamedTuple):
    """A change that came little by little: the ids of its first and its last run, and the log ratio
    over all of it with its 95 % interval, (3,)."""

    first: str
    last: str
    log_ratio: Floats


@dataclass
class Event:
    """What changed at one run, in series of one machine and benchmark that were tested together.
    Runs are named by their ids."""

    run: str  # the first one after the change
    sides: tuple[str, str]  # the runs between which the change lies (95 %)
    changes: list[Change]  # ours before the library's, each the largest first
    n_series: int  # that were tested
    facts: list[str]  # sentences on what else changed there
    commits: list[str]  # before and after, if they differ
    crept: Crept | None = None  # if these are the last of several steps of one creep

    @property
    def series(self) -> Series:
        """The series with the largest step of ours, if any."""
        return self.changes[0].series

    @property
    def word(self) -> str:
        """`worse` or `better`, as this step is."""
        return self.changes[0].step.word

    @property
    def sentences(self) -> list[str]:
        """How certain its place is, and what else changed there."""
        sides = " and ".join(self.sides)
        if self.is_of_link:
            return [f"It lies between {sides}.", *self.facts]
        if not self.crept:
            return [f"It lies between {sides} (95 %).", *self.facts]
        whole = interval_text(tuple(np.expm1(self.crept.log_ratio)), "{:+.1%}".format)
        return [
            f"It came little by little from {self.crept.first} to {self.crept.last}: "
            f"{whole} (95 %) in all.",
            f"Its last step lies between {sides} (95 %).",
            *self.facts,
        ]

    @property
    def is_alarm(self) -> bool:
        return any(not step.doubt for _, step in self.changes)

    @property
    def is_suspect(self) -> bool:
        return any(step.doubt == SUSPECT for _, step in self.changes)

    @property
    def weight(self) -> float:
        """The sum of its changes, in logarithms."""
        if self.crept:
            return float(abs(self.crept.log_ratio[0])) * len(self.changes)
        return float(sum(abs(step.log_ratio[0]) for _, step in self.changes))

    @property
    def is_of_link(self) -> bool:
        return self.series.case.collective == FLAG

    @property
    def finding(self) -> str:
        """`1 MiB auto and 2 MiB auto take 8.9% longer since 20 Nov 2026, 1a2b3c4 -> 9f8e7d6`, of
        the cases of ours that changed as the first did, or of the library, and whether both did:
        then it was not the code. At the end why it is no alarm, if it is none."""
        if self.is_of_link:
            return self._with_doubt(self._of_link())
        alike = [change for change in self.changes if change.step.word == self.word]
        ours = [change for change in alike if not change.series.case.library]
        changes = ours or alike
        names = [sized(series.case, series.name) for series, _ in changes]
        cases = " and ".join(names)
        if len(self.changes) == self.n_series > 2:
            cases = f"All {len(names)} cases"
        elif names[2:]:
            cases = f"{len(names)} of {self.n_series} cases"
        verb = "take" if names[1:] else "takes"
        if tail := self.series.tail:
            cases, verb = f"{tail} of {cases.replace('All', 'all')}", "is"
        change = abs(np.expm1(np.median([step.log_ratio[0] for _, step in changes])))
        since = self.run
        if self.crept:
            since = self.crept.first
            change = abs(np.expm1(self.crept.log_ratio[0]))
        less = "shorter" if tail else "less"
        more = "longer" if self.word == "worse" else less
        text = f"{cases} {verb} {change:.1%} {more} since {time_of(since):%-d %b %Y}"
        if self.crept:
            text += ", little by little"
        elif self.commits:
            text += f", {' -> '.join(self.commits)}"
        if 0 < len(ours) < len(alike):
            text += "; so does the library"
        return self._with_doubt(text)

    def _of_link(self) -> str:
        """`The round trip is 204 ns since 20 Nov 2026, was 102 ns`."""
        [(series, step)] = self.changes
        before, after = (f"{1e3 * series.levels[at]:.0f} ns" for at in (step.first - 1, step.first))
        return f"The round trip is {after} since {time_of(self.run):%-d %b %Y}, was {before}"

    def _with_doubt(self, text: str) -> str:
        if self.is_suspect:
            return f"{text}; a suspect, no alarm until the next run confirms it"
        return text if self.is_alarm else f"{text}; no alarm: its runs were disturbed"


def events_of(
    panel: Panel,
    judged: Judgement,
    disturbed: Container[str],
    facts_of: Callable[[str], dict[str, str]],
) -> Iterator[Event]:
    """The events of series that were judged together: the steps at each run, in order of time.
    `disturbed` has the disturbed runs, and `facts_of` says what else is known of a run."""
    run_ids, log_costs = [*panel.costs_us.columns], panel.log_costs
    own_steps = panel.set_steps(judged, disturbed)
    for place in sorted({place for steps in own_steps for place in steps}):
        changes = [
            Change(series, steps[place])
            for series, steps in zip(panel.series, own_steps, strict=True)
            if place in steps
        ]
        changes.sort(key=_order_in_event)
        found = [step for steps in judged.steps for step in steps if step.first == place]
        low, high = np.median([(step.low, step.high) for step in found], axis=0)
        ends = int(low), int(high)
        event = event_at(place, ends, run_ids, changes, len(panel.series), facts_of)

        rows = [panel.series.index(change.series) for change in changes]
        levels = np.median(log_costs[rows], axis=1, keepdims=True)
        middle = np.median(log_costs[rows] - levels, axis=0)
        add_creep(event, middle, judged.steps[rows[0]], run_ids)
        yield event


def _order_in_event(change: Change) -> tuple[bool, float]:
    """Ours before the library's, each the largest first."""
    return bool(change.series.case.library), -abs(change.step.log_ratio[0])


def event_at(
    place: int,
    ends: Sequence[int],
    run_ids: Sequence[str],
    changes: list[Change],
    n_series: int,
    facts_of: Callable[[str], dict[str, str]],
) -> Event:
    """The event of these changes before the run of this place, which lies between two `ends`."""
    low, high = ends
    start = max(low - FACT_RUNS, 0)
    facts = [*map(facts_of, run_ids[start : high + FACT_RUNS])]
    sides = run_ids[low - 1], run_ids[high]
    said = [*changes_of_facts(facts, low - start, high - start)]
    versions = [facts_of(side)["version"] for side in sides]
    commits = [re.sub(r".*\((\w+).*", r"\1", version) for version in versions]
    if len({*commits}) == 1:
        commits = []
    return Event(run_ids[place], sides, changes, n_series, said, commits)


def add_creep(
    event: Event, log_costs: Floats, steps: Sequence[LevelChange], run_ids: Sequence[str]
) -> None:
    """Notes the whole size of a creep, of whose `steps`, all of its largest series, this event is
    the last in one direction. `log_costs` is the median of its series."""
    at = [run_ids[step.first] for step in steps].index(event.run)
    alike = [step.word == event.word for step in steps]
    if not event.is_alarm or any(alike[at + 1 : at + 2]):
        return

    begin = max((place + 1 for place in range(at) if not alike[place]), default=0)
    start = steps[begin - 1].first if begin else 0
    stop = steps[at + 1].first if at + 1 < len(steps) else len(run_ids)
    firsts = [step.first - start for step in steps[begin : at + 1]]
    if creep := creep_of(log_costs[start:stop], firsts):
        first, last = run_ids[start + creep.first], run_ids[start + creep.last]
        event.crept = Crept(first, last, creep.log_ratio)


def changes_of_facts(facts: Sequence[dict[str, str]], low: int, high: int) -> Iterator[str]:
    """A sentence on each fact that changed at a run from `low` to `high`; without facts that often
    change, such as the load."""
    for name in dict.fromkeys(name for of_run in facts for name in of_run):
        texts = [of_run.get(name, "nothing") for of_run in facts]
        at = [place for place in range(1, len(texts)) if texts[place] != texts[place - 1]]
        near = [place for place in at if low <= place <= high]
        if near and len(at) <= MOST_FACT_CHANGES:
            before, after = texts[near[0] - 1 : near[0] + 1]
            yield f"Changed there: {name}: {before:.48} -> {after:.48}"
