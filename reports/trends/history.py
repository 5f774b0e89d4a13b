"""Reads the runs of a folder as series, one for each case, machine and state of the link, and finds
the events in which they change; `changes` has the statistics.

The runs of a series were measured alike: same machine, benchmark, ranks and dispatch. The launches
of one side of a campaign ran close together in time, so together they are one point, their median.
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
from msgspec import json

from reports.store.foreign import printable
from reports.store.manifest import MANIFEST
from reports.store.result import (
    ImportedRunError,
    NewerSchemaError,
    ResultError,
    places,
    read,
    time_of,
)
from reports.store.schema import Case, CaseHeader, Result, Run
from reports.tables.rows import MIN_STATE_BLOCKS
from reports.tables.sentences import number, size_text, some
from reports.trends.changes import MIN_RUNS, Step, find_steps
from reports.verdicts.cells import case_names
from reports.verdicts.comparison import COMPARABLE
from reports.verdicts.sides import Key, Launch, find_costs, key_of

ALIKE = ("machine", "world", "statistic")  # keys of COMPARABLE that the runs of a series share
# Why `read` refused a file.
REFUSED = {ImportedRunError: "imported from a log", NewerSchemaError: "of a newer schema",
           ResultError: "not a run that can be read"}
LONGEST_VALUE = 48
MEDIAN_RUNS = 8
NEAR_RUNS = 2  # steps of several series at most this far apart are one event

LeftOut = defaultdict[str, list[str]]  # names of files by the reason


@dataclass(eq=False)
class Series:
    """One case over runs. `costs_us` are median costs in one state of the link by run_id, in order
    of time; `steps` are the changes between them."""

    label: str
    machine_id: str
    benchmark: str
    costs_us: dict[str, float]
    steps: list[Step] = field(default_factory=list)

    @property
    def word(self) -> str:
        """`worse` or `better` by the last change, `no change`, or `too few runs`."""
        if self.steps:
            return max(self.steps, key=lambda step: step.first).word
        return "no change" if len(self.costs_us) >= MIN_RUNS else "too few runs"

    def row(self, step: Step) -> dict[str, str]:
        """A step as cells of a table by column; the costs are medians of up to eight runs."""
        run_ids, costs_us = list(self.costs_us), list(self.costs_us.values())
        estimate, low, high = np.exp(step.size) - 1
        return {"case": self.label, "verdict": step.word,
                "before, us": number(float(np.median(costs_us[: step.first][-MEDIAN_RUNS:]))),
                "after, us": number(float(np.median(costs_us[step.first :][:MEDIAN_RUNS]))),
                "change [95 %]": f"{estimate:+.1%} [{low:+.1%} {high:+.1%}]",
                "first run after": f"{time_of(run_ids[step.first]):%Y-%m-%d}"}


@dataclass
class Event:
    """Steps of series of a machine and benchmark at one run, the largest first.

    `run` is the first run after the steps; `sentences` say how certain that is, and what else
    changed there."""

    machine_id: str
    benchmark: str
    run: str
    changes: list[tuple[Series, Step]]
    sentences: list[str]


@dataclass
class History:
    """The runs of a folder by run id, in order of time; sentences on what is left out; the series,
    and their events, the one with the most change in all first.

    `unjudged` counts, by machine and benchmark, the cases that have too few blocks in every run."""

    runs: dict[str, Run]
    skipped: list[str]
    series: list[Series] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    unjudged: Counter[tuple[str, str]] = field(default_factory=Counter)


def load(folder: Path | str) -> History:
    """The history of the runs below `folder`. Links are not followed; unusable files are named.

    Raises ResultError if `folder` is not a folder or has no usable run."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ResultError(f"{folder} is not a folder of runs")
    left_out: LeftOut = defaultdict(list)
    results = _usable(list(_readable(folder, left_out)), left_out)
    skipped = [f"left out, {reason}: {len(names)} ({some(names)})"
               for reason, names in left_out.items()]
    if not results:
        raise ResultError("; ".join([f"{folder} has no usable run", *skipped]))
    history = History({result.run.run_id: result.run for result in results}, skipped)
    groups: dict[tuple[str, ...], list[Launch]] = defaultdict(list)
    for result in results:
        alike = _variant(result), *(str(COMPARABLE[name](result)) for name in ALIKE)
        groups[alike].append(Launch(result, "first", 0))
    for launches in groups.values():
        _add_series(history, launches)
    few = [not costs for launch in chain(*groups.values()) for costs in launch.costs.values()]
    if any(few):
        skipped.append(f"left out, with fewer than {MIN_STATE_BLOCKS} blocks in one state of the "
                       f"link: {sum(few)} of {len(few)} results")
    _add_events(history)
    return history


def _readable(folder: Path, left_out: LeftOut) -> Iterator[Result]:
    def closed(error: OSError) -> None:
        left_out["a folder that cannot be read"].append(printable(Path(error.filename).name))

    for parent, folders, files in os.walk(folder, onerror=closed):
        folders[:] = [name for name in folders if not name.endswith((".samples", ".flight"))]
        for name in sorted([*folders, *files]):
            if os.path.islink(Path(parent, name)):
                left_out["a link, which is not followed"].append(printable(name))
            elif name not in folders and name.endswith(".jsonl") and name != MANIFEST:
                try:
                    yield read(Path(parent, name))
                except ResultError as error:
                    reason = REFUSED.get(type(error), REFUSED[ResultError])
                    left_out[reason].append(printable(name))


def _usable(results: Sequence[Result], left_out: LeftOut) -> list[Result]:
    """The complete and correct runs, each once, in order of time."""
    usable: dict[str, Result] = {}
    place = places(result.run for result in results)
    for result in sorted(results, key=lambda result: place[result.run.run_id]):
        run_id = result.run.run_id
        problems = {"with wrong results": any(case.status == "wrong" for case in result.cases),
                    "incomplete": not result.complete,
                    "without a time in its run_id": time_of(run_id) is None,
                    "a run once more": run_id in usable}
        reason = next((reason for reason, applies in problems.items() if applies), None)
        if reason:
            left_out[reason].append(printable(result.path.name))
        else:
            usable[run_id] = result
    return list(usable.values())


def _variant(result: Result) -> str:
    """The side of the campaign that the run belongs to; empty outside of campaigns."""
    side = result.path.parent
    return printable(side.name) if (side.parent / MANIFEST).is_file() else ""


def _series_key(case: Case | CaseHeader) -> Key:
    """The case without the library's version, which may change within a series."""
    return (*key_of(case, ("library",)), re.split(r"\s*\d", case.library or "")[0])


def _add_series(history: History, launches: Sequence[Launch]) -> None:
    """Adds the series of launches that were measured alike."""
    rtt_ns = find_costs(launches, ())
    planned = [case for launch in launches for case in launch.result.run.cases]
    cases = {_series_key(case): case for case in planned}
    series_keys = {key_of(case): _series_key(case) for case in planned}
    run, variant = launches[0].result.run, _variant(launches[0].result)
    points: dict[Path, str] = {}  # the first run of each side of a campaign
    costs_us: dict[tuple[Key, int], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for launch in launches:
        run_id, folder = launch.result.run.run_id, launch.result.path.parent
        point = points.setdefault(folder, run_id) if variant else run_id
        for key, by_state in launch.costs.items():
            for state, cost_us in by_state.items():
                costs_us[series_keys[key], state][point].append(cost_us)
    names = dict(zip(cases, case_names(list(cases.values())), strict=True))
    for key, state in sorted(costs_us, key=lambda item: (cases[item[0]].size_bytes, str(item))):
        link = f"link {rtt_ns[state]:.0f} ns" if len(rtt_ns) > 1 else ""
        words = [size_text(cases[key].size_bytes), names[key], link, variant]
        medians = {point: float(np.median(costs)) for point, costs in costs_us[key, state].items()}
        history.series.append(
            Series(" ".join(filter(None, words)), run.machine_id, run.benchmark, medians))
    measured = {series_keys[key] for launch in launches for key in launch.costs}
    if unjudged := measured - {key for key, _ in costs_us}:
        history.unjudged[run.machine_id, run.benchmark] += len(unjudged)


def _add_events(history: History) -> None:
    """Finds the steps of all series; series over the same runs are tested together."""
    panels: dict[tuple[str, ...], list[Series]] = defaultdict(list)
    for series in history.series:
        if len(series.costs_us) >= MIN_RUNS:
            panels[(series.machine_id, series.benchmark, *series.costs_us)].append(series)
    n_series = sum(map(len, panels.values()))
    for panel in panels.values():
        costs_us = [list(series.costs_us.values()) for series in panel]
        for series, steps in zip(panel, find_steps(np.log(costs_us), n_series), strict=True):
            series.steps = steps
        history.events += _events_of(panel, [history.runs[run_id] for run_id in panel[0].costs_us])
    history.events.sort(key=lambda event: -sum(step.magnitude for _, step in event.changes))


def _events_of(panel: Sequence[Series], runs: Sequence[Run]) -> list[Event]:
    """The events in series over the same runs."""
    common = Counter(step.first for series in panel for step in series.steps)
    at: dict[int, list[tuple[Series, Step]]] = defaultdict(list)
    for series in panel:
        for step in series.steps:
            near = [place for place in common if abs(place - step.first) <= NEAR_RUNS]
            place = max(near, key=lambda place: (common[place], place == step.first))
            at[place].append((series, step))
    events = []
    for place, changes in at.items():
        low, high = (int(np.median([getattr(step, end) for _, step in changes]))
                     for end in ("low", "high"))
        sentences = [f"It lies between {runs[low - 1].run_id} and {runs[high].run_id} (95 %).",
                     *_recorded(runs, place, range(min(low, place), max(high, place) + 1))]
        events.append(Event(runs[0].machine_id, runs[0].benchmark, runs[place].run_id,
                            sorted(changes, key=lambda change: -change[1].magnitude), sentences))
    return events


def _recorded(runs: Sequence[Run], place: int, near: range) -> list[str]:
    """Sentences on the recorded facts that changed at one of the runs `near` and rarely change
    elsewhere, so without the load; the nearest to `place` first."""
    facts = [_facts(run) for run in runs]
    names = sorted(set().union(*facts), key=lambda name: (name != "software_id", name))
    texts = {name: [fact.get(name, "nothing") for fact in facts] for name in names}
    rare = {name: values for name, values in texts.items()
            if sum(before != after for before, after in pairwise(values)) <= 1 + len(runs) // 10}
    sentences = [f"Changed there: {name}: {values[at - 1]} -> {values[at]}"
                 + (f" (at {runs[at].run_id})" if at != place else "")
                 for at in sorted(near, key=lambda at: abs(at - place))
                 for name, values in rare.items() if values[at - 1] != values[at]]
    return sentences or ["Nothing recorded changed there."]


def _facts(run: Run) -> dict[str, str]:
    facts = {name: fact.get("value") if isinstance(fact, dict) else fact
             for name, fact in run.environment.items()}
    facts |= {"software_id": run.software_id, "version": run.version, "argv": " ".join(run.argv),
              "slowed_percent": run.world.get("slowed_percent")}
    texts = {name: value if isinstance(value, str) else json.encode(value).decode()
             for name, value in facts.items()}
    return {name: text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 3] + "..."
            for name, text in texts.items()}
