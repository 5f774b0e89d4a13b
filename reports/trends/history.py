"""`history`: the runs of a folder as series, one for each case, machine and state of the link, and where they change.

What stands side by side in a series was measured alike: same machine, benchmark, ranks, dispatch. The launches of one
side of a campaign stood close together in time, so they are one point, their median. `changes` has the method.
"""

from __future__ import annotations

import argparse
import os
import re
import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np
from msgspec import json

from reports.store.foreign import printable
from reports.store.manifest import MANIFEST
from reports.store.order import places, time_of
from reports.store.result import ImportedRunError, NewerSchemaError, ResultError, read
from reports.store.schema import Case, CaseHeader, Result, Run
from reports.tables.rows import MIN_STATE_BLOCKS
from reports.tables.sentences import number, size_text
from reports.trends.changes import MIN_RUNS, find_steps
from reports.verdicts.comparison import COMPARABLE
from reports.verdicts.sides import Key, Launch, find_costs, key_of
from reports.verdicts.verdict_table import WIDTH, case_names, some, wrapped

ALIKE = ("machine", "world", "statistic")  # the keys of a comparison in which the runs of a series may not differ
MOST_LISTED = 8  # series of an event
LONGEST_VALUE = 48
# What `read` says of a file that is a run and yet none for a series.
REFUSED = {ImportedRunError: "imported from a log", NewerSchemaError: "of a newer schema",
           ResultError: "not a run that can be read"}
MEDIAN_RUNS = 8
NEAR = 2  # runs: steps of several series this close are one event


@dataclass
class Series:
    """One case over runs, in order of time. `values` are its costs in microseconds (`rows.cost_us`, in one state of
    the link), `state` the flag's round trip in that state in ns, None where there is one state alone; `key` is that of
    the case, without the library's version; of a campaign `variant` is the side."""

    label: str
    key: Key
    size_bytes: int
    machine_id: str
    benchmark: str
    variant: str
    state: float | None
    run_ids: list[str]
    times: list[datetime]
    values: list[float]


@dataclass
class History:
    """The series of a folder, the heads of the runs behind them by run id, in order of time, and sentences on what was
    left out; `unjudged` counts the cases without a series by machine and benchmark: none of their runs has enough
    blocks."""

    series: list[Series]
    runs: dict[str, Run]
    skipped: list[str]
    unjudged: Counter[tuple[str, str]]


@dataclass
class Change:
    """A series' step: before which of its runs (`first`, an index), between which it lies with 95 % confidence, and the
    ratio of the cost after to the cost before with its 95 % interval."""

    series: Series
    first: int
    low: int
    high: int
    ratio: tuple[float, float, float]

    @property
    def word(self) -> str:
        """`worse` where the cost rose, else `better`."""
        return "worse" if self.ratio[0] > 1 else "better"

    @property
    def figures(self) -> tuple[str, str, str]:
        """The median cost, us, of up to eight runs before and after, and the change with its interval."""
        values = self.series.values
        parts = values[: self.first][-MEDIAN_RUNS:], values[self.first :][:MEDIAN_RUNS]
        before, after = (number(float(np.median(part))) for part in parts)
        return before, after, "{:+.1%} [{:+.1%} {:+.1%}]".format(*(ratio - 1 for ratio in self.ratio))


@dataclass
class Event:
    """Steps of series of one machine and benchmark at one run, the largest first. `before` is the last run before it
    and `run` the first after; it lies between `low` and `high` with 95 % confidence. `recorded` says what else changed
    there, in sentences; empty where nothing that was recorded did."""

    machine_id: str
    benchmark: str
    before: str
    run: str
    low: str
    high: str
    changes: list[Change]
    recorded: list[str] = field(default_factory=list)


def load(folder: Path | str) -> History:
    """The runs below `folder` as series. What is no usable run is left out and named; links are not followed. Raises
    ResultError where `folder` is none or nothing is left."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ResultError(f"{folder} is {'a file, not' if folder.exists() else 'not'} a folder of runs")
    left_out: dict[str, list[str]] = defaultdict(list)
    points: dict[tuple[str, ...], list[list[Launch]]] = defaultdict(list)
    seen: dict[str, Result] = {}
    of_side: dict[Path, list[Launch]] = {}
    readable = list(_readable(folder, left_out))
    place = places(result.run for _, result in readable)
    for path, result in sorted(readable, key=lambda one: place[one[1].run.run_id]):
        run = result.run
        if unfit := _unfit(result):
            left_out[unfit].append(printable(path.name))
            continue
        if seen.setdefault(run.run_id, result) is not result:
            left_out["a run once more"].append(printable(path.name))
            continue
        is_campaign = (path.parent.parent / MANIFEST).is_file()
        alike = run.benchmark, path.parent.name * is_campaign, *(str(COMPARABLE[name](result)) for name in ALIKE)
        point = of_side.setdefault(path.parent, []) if is_campaign else []
        if not point:
            points[alike].append(point)
        point.append(Launch(result, "first", 0))
    skipped = [f"left out, {why}: {len(names)} ({some(names)})" for why, names in left_out.items()]
    if not seen:
        raise ResultError(f"{folder} has no run to tell a history from" + "".join(f"; {one}" for one in skipped))
    series: list[Series] = []
    unjudged: Counter[tuple[str, str]] = Counter()
    for its in points.values():
        found, unjudged_cases = _series_of(its)
        head = its[0][0].result.run
        series += found
        unjudged[head.machine_id, head.benchmark] += unjudged_cases
    launches = (launch for its in points.values() for point in its for launch in point)
    thin = [not costs for launch in launches for costs in launch.costs.values()]
    if any(thin):
        skipped.append(f"left out, with fewer than {MIN_STATE_BLOCKS} blocks in one state of the link: {sum(thin)} of "
                       f"{len(thin)} results")
    return History(series, {run_id: result.run for run_id, result in seen.items()}, skipped, +unjudged)


def _readable(folder: Path, left_out: dict[str, list[str]]) -> Iterator[tuple[Path, Result]]:
    def closed(error: OSError) -> None:
        left_out["a folder that cannot be read"].append(printable(Path(error.filename).name))

    for place, folders, names in os.walk(folder, onerror=closed):
        folders[:] = [name for name in folders if not name.endswith((".samples", ".flight"))]
        for name in sorted([*names, *(name for name in folders if os.path.islink(os.path.join(place, name)))]):
            path, shown = Path(place) / name, printable(name)
            if os.path.islink(path):
                left_out["a link, which is not followed"].append(shown)
            elif name.endswith(".jsonl") and name != MANIFEST:
                try:
                    yield path, read(path)
                except ResultError as error:
                    left_out[REFUSED.get(type(error), REFUSED[ResultError])].append(shown)


def _unfit(result: Result) -> str | None:
    if any(case.status == "wrong" for case in result.cases):
        return "with wrong results"
    if not result.complete:
        return "incomplete"
    return None if time_of(result.run.run_id) else "without a time in its run_id"


def _lasting(case: Case | CaseHeader) -> Key:
    """The key of a case, of its library the name alone: a new version of it is a change within the series."""
    return (*key_of(case, ("library",)), re.split(r"\s*\d", case.library or "")[0])


def _series_of(points: Sequence[Sequence[Launch]]) -> tuple[list[Series], int]:
    """The series of runs that were measured alike, and how many cases have none: too few blocks in each run."""
    launches = [launch for point in points for launch in point]
    rtt_ns = find_costs(launches, ())
    planned = {_lasting(case): case for launch in launches for case in launch.result.run.cases}
    lasting = {key_of(case): _lasting(case) for launch in launches for case in launch.result.run.cases}
    values: dict[tuple[Key, int], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for at, point in enumerate(points):
        for launch in point:
            for key, costs in launch.costs.items():
                for state, cost_us in costs.items():
                    values[lasting[key], state][at].append(cost_us)
    names = dict(zip(planned, case_names(list(planned.values())), strict=True))
    heads = [point[0].result.run for point in points]
    side = launches[0].result.path.parent
    variant = printable(side.name) if (side.parent / MANIFEST).is_file() else ""
    found = []
    for (key, state), costs_us in sorted(values.items(), key=lambda item: (item[0][0][2], str(item[0]))):
        round_trip = rtt_ns[state] if len(rtt_ns) > 1 else None
        link = f"link {round_trip:.0f} ns" if round_trip else ""
        said = [size_text(planned[key].size_bytes), names[key], link, variant]
        runs = [heads[at] for at in costs_us]
        times = [time for run in runs if (time := time_of(run.run_id))]
        found.append(Series(" ".join(filter(None, said)), key, planned[key].size_bytes, runs[0].machine_id,
                            runs[0].benchmark, variant, round_trip, [run.run_id for run in runs], times,
                            [float(np.median(costs)) for costs in costs_us.values()]))
    measured = {lasting[key] for launch in launches for key in launch.costs}
    return found, len(measured - {key for key, _ in values})


def changes(history: History) -> list[Event]:
    """The alarms: steps that stand out from the noise, where 5 % of histories without any step have one. Those at the
    same run of the same machine and benchmark are one event; that with the most change in all comes first."""
    panels: dict[tuple[str, ...], list[Series]] = defaultdict(list)
    for series in history.series:
        if len(series.run_ids) >= MIN_RUNS:
            panels[(series.machine_id, series.benchmark, *series.run_ids)].append(series)
    tested = sum(map(len, panels.values()))
    events: list[Event] = []
    for (machine_id, benchmark, *run_ids), panel in panels.items():
        steps = find_steps(np.log([series.values for series in panel]), tested)
        common = Counter(step.first for step in steps)
        at: dict[int, list[Change]] = defaultdict(list)
        for step in steps:
            place = max((place for place in common if abs(place - step.first) <= NEAR),
                        key=lambda place: (common[place], place == step.first))
            at[place].append(Change(panel[step.series], step.first, step.low, step.high,
                                    (np.exp(step.size[0]), np.exp(step.size[1]), np.exp(step.size[2]))))
        for place, its in at.items():
            its.sort(key=lambda change: -abs(np.log(change.ratio[0])))
            low, high = (int(np.median([getattr(change, end) for change in its])) for end in ("low", "high"))
            recorded = _recorded(history.runs, run_ids, place, min(low, place), max(high, place))
            events.append(Event(machine_id, benchmark, run_ids[place - 1], run_ids[place], run_ids[low - 1],
                                run_ids[high], its, recorded))
    return sorted(events, key=lambda event: -sum(abs(np.log(change.ratio[0])) for change in event.changes))


def _recorded(runs: dict[str, Run], run_ids: Sequence[str], place: int, low: int, high: int) -> list[str]:
    """What is recorded as changed at one of these runs, and seldom changes else (a load does all the time)."""
    facts = [_facts(runs[run_id]) for run_id in run_ids]
    found = []
    for at in sorted(range(low, high + 1), key=lambda at: abs(at - place)):
        where = "" if at == place else f" (at {run_ids[at]})"
        for name in sorted(facts[at - 1].keys() | facts[at].keys(), key=lambda name: (name != "software_id", name)):
            told = [fact.get(name, "nothing") for fact in facts]
            if told[at - 1] != told[at] and sum(map(str.__ne__, told, told[1:])) <= 1 + len(told) // 10:
                found.append(f"{name}: {told[at - 1]} -> {told[at]}{where}")
    return found


def _facts(run: Run) -> dict[str, str]:
    told = {name: fact.get("value") if isinstance(fact, dict) else fact for name, fact in run.environment.items()}
    told |= {"software_id": run.software_id, "version": run.version, "argv": " ".join(run.argv),
             "slowed_percent": run.world.get("slowed_percent")}
    texts = {name: value if isinstance(value, str) else json.encode(value).decode() for name, value in told.items()}
    return {name: text[: LONGEST_VALUE - 3] + "..." if len(text) > LONGEST_VALUE else text
            for name, text in texts.items()}


def word_of(series: Series, events: Sequence[Event]) -> str:
    """`worse` or `better` by the series' last change, `no change`, or `too few runs`."""
    its = [change for event in events for change in event.changes if change.series is series]
    if its:
        return max(its, key=lambda change: change.first).word
    return "no change" if len(series.run_ids) >= MIN_RUNS else "too few runs"


def text(history: History, events: Sequence[Event]) -> str:
    """The alarms and how many series have which word, in at most 80 columns."""
    machines = len({run.machine_id for run in history.runs.values()})
    runs = len(history.runs)
    lines = wrapped([f"{runs} run{'s' * (runs > 1)} of {machines} machine{'s' * (machines > 1)}, {len(history.series)} "
                     f"series; when last run: {list(history.runs)[-1]}", *history.skipped])
    for event in events:
        words = Counter(change.word for change in event.changes)
        counted = ", ".join(f"{count} series {word}" for word, count in words.most_common())
        recorded = [f"changed there: {said}" for said in event.recorded] or ["nothing recorded changed there"]
        lines += ["", *wrapped([f"{counted}: machine {event.machine_id}, {event.benchmark}, first at {event.run}",
                                f"between {event.low} and {event.high} (95 %)", *recorded])]
        lines.append(f"  {'before us':>10} {'after us':>10} {'change [95 %]':>24}  {'word':<7}case")
        lines += [line for change in event.changes[:MOST_LISTED] for line in _row(change)]
        lines += [f"  and {len(event.changes) - MOST_LISTED} more series"] * (len(event.changes) > MOST_LISTED)
    counts = Counter(word_of(series, events) for series in history.series)
    few = f" (less than {MIN_RUNS})" * (counts["too few runs"] > 0)
    counted = ", ".join(f"{word} {counts[word]}" for word in ("worse", "better", "no change", "too few runs"))
    lines += ["", *wrapped([f"{counted}{few}; where nothing changes, 5 % of such histories have an alarm"])]
    return "\n".join(lines) + "\n"


def _row(change: Change) -> list[str]:
    """Figures and case; a name that has no room beside them stands whole below."""
    before, after, size = change.figures
    line, label = f"  {before:>10} {after:>10} {size:>24}  {change.word:<7}", change.series.label
    if len(line + label) <= WIDTH:
        return [line + label]
    return [line.rstrip(), *textwrap.wrap(label, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `history` takes."""
    parser.add_argument("folder", metavar="DIR", type=Path, help="a folder of runs, with those below it")
    parser.add_argument("--plot", metavar="OUT", type=Path, help="draw the series that changed; .svg or .png")


def history(arguments: argparse.Namespace) -> int:
    """Prints the alarms; the exit status, 0. Raises ResultError for a folder without runs, or what cannot be drawn."""
    found = load(arguments.folder)
    events = changes(found)
    if arguments.plot:
        from reports.trends.history_plot import plot

        plot(events, arguments.plot)
    print(text(found, events), end="")
    return 0
