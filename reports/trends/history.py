"""`history`: reads the runs of a folder as series, one for each case, machine, benchmark, world,
dispatch and state of the link; prints and draws the events in which they change. The launches of
one side of a campaign ran close together in time: they are one point, their median."""

import argparse
import re
import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd

from reports.store.foreign import printable
from reports.store.manifest import MANIFEST, run_files
from reports.store.report_json import write_json
from reports.store.result import (
    ImportedRunError,
    NewerSchemaError,
    ResultError,
    places,
    read,
    time_of,
)
from reports.store.schema import Result, Run
from reports.tables.rows import MIN_STATE_BLOCKS
from reports.tables.sentences import WIDTH, number, size_text, some, spoken, wrapped
from reports.trends.changes import Step
from reports.trends.history_figure import plot
from reports.trends.latest import LEAST_BASE, judge
from reports.verdicts.sides import COMPARABLE, Key, Launch, case_names, find_costs, key_of

# Why `read` refused a file.
REFUSED = {ImportedRunError: "imported from a log", NewerSchemaError: "of a newer schema",
           ResultError: "not a run that can be read"}
NEAR_RUNS = 2  # steps of several series at most this far apart are one event
LeftOut = defaultdict[str, list[str]]  # names of files by the reason


@dataclass(eq=False)
class Series:
    """One case over runs. `costs_us` are median costs in one state of the link by run_id, in order
    of time; `steps` are the changes between them, and `word` is the verdict."""

    label: str
    machine_id: str
    benchmark: str
    costs_us: dict[str, float]
    steps: list[Step] = field(default_factory=list)
    word: str = "too early"

    @property
    def since(self) -> str | None:
        """The first run after the last change."""
        return [*self.costs_us][self.steps[-1].first] if self.steps else None

    def record(self) -> dict[str, Any]:
        """The series for `--json`; the change is a share of the cost, with its 95 % interval."""
        change = np.expm1(self.steps[-1].size).round(5).tolist() if self.steps else None
        return {"case": self.label, "machine_id": self.machine_id, "benchmark": self.benchmark,
                "verdict": self.word, "since": self.since, "change": change,
                "runs": len(self.costs_us), "last_us": [*self.costs_us.values()][-1]}

    def row(self, step: Step) -> dict[str, str]:
        """A step as cells of a table by column; the costs are medians of up to eight runs."""
        costs_us = list(self.costs_us.values())
        estimate, low, high = np.exp(step.size) - 1
        return {"case": self.label, "verdict": step.word,
                "before, us": number(median(costs_us[: step.first][-8:])),
                "after, us": number(median(costs_us[step.first :][:8])),
                "change [95 %]": f"{estimate:+.1%} [{low:+.1%} {high:+.1%}]"}


@dataclass
class Event:
    """Steps of series of a machine and benchmark, the largest first. `run` is the first run after
    them; `sentences` say how certain that is, and what else changed there."""

    machine_id: str
    benchmark: str
    run: str
    changes: list[tuple[Series, Step]]
    sentences: list[str]


@dataclass
class History:
    """The runs of a folder by run id, in order of time; sentences on what is left out; the events,
    largest first; by machine and benchmark, the cases with too few blocks in every run."""

    runs: dict[str, Run]
    skipped: list[str]
    series: list[Series] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    unjudged: Counter[tuple[str, str]] = field(default_factory=Counter)


def load(folder: Path | str) -> History:
    """The history of the runs below `folder`. Links are not followed; unusable files are named.
    Raises ResultError if `folder` is not a folder or has no usable run."""
    left_out: LeftOut = defaultdict(list)
    results = _usable(list(_readable(Path(folder), left_out)), left_out)
    skipped = [f"left out, {reason}: {len(names)} ({some(names)})"
               for reason, names in left_out.items()]
    if not results:
        raise ResultError("; ".join([f"{folder} has no usable run", *skipped]))
    history = History({result.run.run_id: result.run for result in results}, skipped)
    groups: dict[tuple[str, ...], list[Launch]] = defaultdict(list)
    for result in results:
        side = result.path.parent
        variant = printable(side.name) if (side.parent / MANIFEST).is_file() else ""
        alike = (str(COMPARABLE[name](result)) for name in ("machine", "world", "statistic"))
        groups[(variant, *alike)].append(Launch(result, "first", 0))
    for (variant, *_), launches in groups.items():
        _add_series(history, launches, variant)
    few = [not costs for launch in chain(*groups.values()) for costs in launch.costs.values()]
    if any(few):
        skipped.append(f"left out, with fewer than {MIN_STATE_BLOCKS} blocks in one state of the "
                       f"link: {sum(few)} of {len(few)} results")
    _add_events(history)
    return history


def _readable(folder: Path, left_out: LeftOut) -> Iterator[Result]:
    for path, problem in run_files(folder):
        try:
            if not problem and path.name != MANIFEST:
                yield read(path)
        except ResultError as error:
            problem = REFUSED.get(type(error), REFUSED[ResultError])
        if problem:
            left_out[problem].append(printable(path.name))


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
        reasons = [reason for reason, applies in problems.items() if applies]
        if reasons:
            left_out[reasons[0]].append(printable(result.path.name))
        else:
            usable[run_id] = result
    return list(usable.values())


def _add_series(history: History, launches: Sequence[Launch], variant: str) -> None:
    """Adds the series of launches that were measured alike, of a `variant` of campaigns or, if it
    is empty, outside. The library's version may change within a series."""
    rtt_ns, run = find_costs(launches, ()), launches[0].result.run
    planned = {key_of(case): case for launch in launches for case in launch.result.run.cases}
    # The last value of a key is the library.
    series_keys = {key: (*key[:-1], re.split(r"\s*\d", key[-1] or "")[0]) for key in planned}
    cases = {series_keys[key]: case for key, case in planned.items()}
    names = dict(zip(cases, case_names(list(cases.values())), strict=True))
    points: dict[Path, str] = {}  # the first run of each side of a campaign
    costs_us: dict[tuple[Key, int], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for launch in launches:
        run_id = launch.result.run.run_id
        point = points.setdefault(launch.result.path.parent, run_id) if variant else run_id
        for key, by_state in launch.costs.items():
            for state, cost_us in by_state.items():
                costs_us[series_keys[key], state][point].append(cost_us)
    for key, state in sorted(costs_us, key=lambda item: (cases[item[0]].size_bytes, str(item))):
        link = f"link {rtt_ns[state]:.0f} ns" if len(rtt_ns) > 1 else ""
        words = [size_text(cases[key].size_bytes), names[key], link, variant]
        medians = {point: median(costs) for point, costs in costs_us[key, state].items()}
        history.series.append(
            Series(" ".join(filter(None, words)), run.machine_id, run.benchmark, medians))
    measured = {series_keys[key] for launch in launches for key in launch.costs}
    if unjudged := measured - {key for key, _ in costs_us}:
        history.unjudged[run.machine_id, run.benchmark] += len(unjudged)


def _add_events(history: History) -> None:
    """Series over the same runs are tested together; their steps close together are one event."""
    panels: dict[tuple[str, ...], list[Series]] = defaultdict(list)
    for series in history.series:
        if len(series.costs_us) > LEAST_BASE:
            panels[(series.machine_id, series.benchmark, *series.costs_us)].append(series)
    n_series = sum(map(len, panels.values()))
    for panel in panels.values():
        costs_us = [list(series.costs_us.values()) for series in panel]
        for series, judged in zip(panel, judge(np.log(costs_us), n_series), strict=True):
            series.steps, series.word = judged
        changes = [(series, step) for series in panel for step in series.steps]
        common = Counter(step.first for _, step in changes)
        at: dict[int, list[tuple[Series, Step]]] = defaultdict(list)
        for series, step in changes:
            near = [place for place in common if abs(place - step.first) <= NEAR_RUNS]
            place = max(near, key=lambda place: (common[place], place == step.first))
            at[place].append((series, step))
        runs = [history.runs[run_id] for run_id in panel[0].costs_us]
        history.events += [_event(runs, place, changes) for place, changes in at.items()]
    history.events.sort(key=lambda event: -sum(abs(step.size[0]) for _, step in event.changes))


def _event(runs: Sequence[Run], place: int, changes: list[tuple[Series, Step]]) -> Event:
    """The event, with sentences on the recorded facts that changed near `place`, the nearest first,
    and that rarely change elsewhere, so without the load."""
    ends = np.median([(step.low, step.high) for _, step in changes], axis=0)
    low, high = ends.astype(int).tolist()
    facts = pd.DataFrame([{
        "software_id": run.software_id, "version": run.version, "argv": " ".join(run.argv),
        "slowed_percent": run.world.get("slowed_percent"), **run.environment} for run in runs],
        dtype=object).map(lambda fact: str(fact.get("value") if isinstance(fact, dict) else fact),
                          na_action="ignore").fillna("nothing")
    changed = facts.ne(facts.shift()).iloc[1:]
    rare = [name for name in facts if changed[name].sum() <= 1 + len(runs) // 10]
    sentences = []
    for at in sorted(range(min(low, place), max(high, place) + 1), key=lambda at: abs(at - place)):
        suffix = f" (at {runs[at].run_id})" if at != place else ""
        sentences += [f"Changed there: {name}: {facts[name][at - 1]:.48} -> {facts[name][at]:.48}"
                      f"{suffix}" for name in rare if changed[name][at]]
    return Event(runs[0].machine_id, runs[0].benchmark, runs[place].run_id,
                 sorted(changes, key=lambda change: -abs(change[1].size[0])),
                 [f"It lies between {runs[low - 1].run_id} and {runs[high].run_id} (95 %).",
                  *(sentences or ["Nothing recorded changed there."])])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", type=Path, help="runs at any depth")
    parser.add_argument("--since", metavar="RUN", help="only changes at this run id or later")
    parser.add_argument("--plot", metavar="OUT", type=Path, help="draw changes; .svg or .png")
    parser.epilog = ("With --since or --json the exit status is 1 if a series is worse, otherwise "
                     f"0; it is 2 if RUN is unknown or DIR has no usable run. {parser.epilog}")


def history(arguments: argparse.Namespace) -> int:
    """Prints the events, each with at most eight series, in at most 80 columns, or all as JSON.
    Returns 1 if a series is worse, for --since and --json, otherwise 0. Raises ResultError for a
    folder without runs, for an unknown run, and if the picture cannot be drawn."""
    history = load(arguments.folder)
    if since := arguments.since:
        if since not in history.runs:
            raise ResultError(f"--since {since}: no usable run here has this id")
        later = [*history.runs][[*history.runs].index(since):]
        history.events = [event for event in history.events if event.run in later]
        last = {series for event in history.events for series, step in event.changes
                if step == series.steps[-1]}
        history.series = [series for series in history.series if series in last]
    if arguments.plot:
        plot(history.events, arguments.plot)
    if arguments.json:
        events = [{"run": event.run, "machine_id": event.machine_id, "benchmark": event.benchmark,
                   "cases": [series.label for series, _ in event.changes],
                   "sentences": event.sentences} for event in history.events]
        write_json("history", runs=len(history.runs), left_out=history.skipped, events=events,
                   series=[series.record() for series in history.series])
    else:
        print("\n".join(text_of(history)))
    is_worse = any(series.word == "worse" for series in history.series)
    return int(is_worse and bool(arguments.since or arguments.json))


def headline(history: History) -> str:
    """`1 worse, 0 better of 84 series over 40 runs; most: 16 KiB auto +12.3% from 2026-11-20 on`,
    by the last change of each series."""
    counts = Counter(series.word for series in history.series)
    text = (f"{counts['worse']} worse, {counts['better']} better of {len(history.series)} series "
            f"over {len(history.runs)} runs")
    changed = [series for series in history.series if series.steps]
    if changed:
        most = max(changed, key=lambda series: abs(series.steps[-1].size[0]))
        change = np.expm1(most.steps[-1].size[0])
        text += f"; most: {spoken(most.label)} {change:+.1%} from {str(most.since)[:10]} on"
    return text


def text_of(history: History) -> list[str]:
    machines = {run.machine_id for run in history.runs.values()}
    words = Counter(series.word for series in history.series)
    counts = ", ".join(f"{n} {word}" for word, n in words.most_common())
    lines = wrapped([headline(history), f"runs {len(history.runs)}, machines {len(machines)}, last "
                     f"run {[*history.runs][-1]}; series: {counts or 'none changed'}. Of months "
                     "without a change 5 % have an alarm.", *history.skipped])
    for event in history.events:
        words = Counter(step.word for _, step in event.changes)
        counts = ", ".join(f"{n} series {word}" for word, n in words.most_common())
        lines += ["", *wrapped([f"{counts}: machine {event.machine_id}, {event.benchmark}, "
                                f"first at {event.run}", *event.sentences])]
        for series, step in event.changes[:8]:
            row = "  {2:>7} -> {3:>7} us {4:>24}  {1:<8}{0}".format(*series.row(step).values())
            lines += textwrap.wrap(row, WIDTH, subsequent_indent=" " * 6)
    return lines
