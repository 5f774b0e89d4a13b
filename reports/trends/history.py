"""`history`: reads the runs of a folder as `series`; prints and draws the events in which they
change."""

import argparse
import sys
import textwrap
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise, starmap
from operator import ne
from pathlib import Path
from typing import Any

import numpy as np

from reports.store.case import MIN_STATE_BLOCKS, Key
from reports.store.manifest import MANIFEST
from reports.store.observations import (
    MOST_STEAL,
    Contents,
    Entry,
    alike_of,
    costs_of,
    environment_of,
    read_store,
)
from reports.store.report_json import write_json
from reports.store.result import ImportedRunError, NewerSchemaError, ResultError
from reports.store.schema import Run
from reports.store.untrusted import printable
from reports.tables.sentences import WIDTH, some, wrapped
from reports.trends.changes import LEAST_BASE, Step, judge
from reports.trends.history_figure import plot
from reports.trends.series import Event, Series, n_unjudged, series_of

# Why `read` refused a file.
REFUSED = {
    ImportedRunError: "imported from a log",
    NewerSchemaError: "of a newer schema",
    ResultError: "not a run that can be read",
}
NEAR_RUNS = 2  # steps of several series at most this far apart are one event
LeftOut = defaultdict[str, list[str]]  # names of files by the reason
Changes = list[tuple[Series, Step]]


@dataclass
class History:
    """The runs of a folder by run id, in order of time; sentences on what is left out; the share of
    the CPU time that was withheld from disturbed runs; the events, largest first; by machine and
    benchmark, the cases with too few blocks in every run."""

    runs: dict[str, Run]
    skipped: list[str]
    disturbed: dict[str, float] = field(default_factory=dict)
    series: list[Series] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    unjudged: Counter[tuple[str, str]] = field(default_factory=Counter)


def load(folder: Path | str) -> History:
    """The history of the runs below `folder`. Links are not followed; unusable files are named.
    Raises ResultError if `folder` is not a folder or has no usable run."""
    return history_of(read_store(Path(folder)))


def history_of(contents: Contents) -> History:
    """The history of these runs. Raises ResultError without a usable run."""
    left_out: LeftOut = defaultdict(list)
    for path, problem in contents.problems:
        left_out[problem].append(printable(path.name))
    for path, error in contents.refused:
        left_out[REFUSED.get(type(error), REFUSED[ResultError])].append(printable(path.name))
    for entry in contents.entries:
        if entry.left_out:
            left_out[entry.left_out].append(printable(entry.path.name))
    entries = [entry for entry in contents.entries if not entry.left_out]
    skipped = [
        f"left out, {reason}: {len(names)} ({some(names)})" for reason, names in left_out.items()
    ]
    if not entries:
        raise ResultError("; ".join([f"{contents.folder} has no usable run", *skipped]))
    disturbed = {entry.run.run_id: entry.disturbance for entry in entries if entry.disturbance}
    history = History({entry.run.run_id: entry.run for entry in entries}, skipped, disturbed)
    groups: dict[tuple[Any, ...], list[Entry]] = defaultdict(list)
    nodes: dict[str, set[str]] = defaultdict(set)  # labels by machine; former versions stored none
    own_nodes = {entry: entry.run.node or "" for entry in entries}
    for entry in entries:
        if own_nodes[entry]:
            nodes[entry.run.machine_id].add(own_nodes[entry])
    is_side = {
        place: (place.parent / MANIFEST).is_file()
        for place in {entry.path.parent for entry in entries}
    }
    for entry in entries:
        side, run = entry.path.parent, entry.run
        variant = printable(side.name) if is_side[side] else ""
        labels = nodes[run.machine_id]
        node = own_nodes[entry] or (min(labels) if len(labels) == 1 else "")
        groups[(variant, node, *alike_of(entry))].append(entry)
    names: dict[tuple[Key, ...], list[str]] = {}
    n_few = n_results = 0
    for (variant, node, *_), of_group in groups.items():
        costs = costs_of(of_group)
        history.series += series_of(of_group, costs, variant, node or None, names)
        if n := n_unjudged(costs):
            run = of_group[0].run
            history.unjudged[run.machine_id, run.benchmark] += n
        n_few += int((costs.is_measured & np.isnan(costs.us).all(axis=-1)).sum())
        n_results += int(costs.is_measured.sum())
    if n_few:
        skipped.append(
            f"left out, with fewer than {MIN_STATE_BLOCKS} blocks in one state of the "
            f"link: {n_few} of {n_results} results"
        )
    _add_events(history, {entry.run.run_id: entry for entry in entries})
    return history


def _add_events(history: History, entries: dict[str, Entry]) -> None:
    """Series over the same runs are tested together; their steps close together are one event."""
    panels: dict[tuple[Any, ...], list[Series]] = defaultdict(list)
    for series in history.series:
        if len(series.costs_us) > LEAST_BASE:
            panels[(series.machine_id, series.node, series.benchmark, *series.run_ids)].append(
                series
            )
    n_series, pending = sum(map(len, panels.values())), list[tuple[int, int, Changes]]()
    for panel in panels.values():
        costs_us = np.array([series.costs_us for series in panel])
        for series, judged in zip(panel, judge(np.log(costs_us), n_series), strict=True):
            series.steps, series.quiet = judged
            series.mark_disturbed(history.disturbed)
        changes = [(series, step) for series in panel for step in series.steps]
        common = Counter(step.first for _, step in changes)
        at: dict[int, Changes] = defaultdict(list)
        for series, step in changes:
            near = [place for place in common if abs(place - step.first) <= NEAR_RUNS]
            place = max(near, key=lambda place: (common[place], place == step.first))
            at[place].append((series, step))
        pending += [(len(panel), place, changes) for place, changes in at.items()]
    ids = {run_id for *_, changes in pending for run_id in changes[0][0].run_ids}
    environments = {run_id: environment_of(entries[run_id]) for run_id in ids}
    facts: dict[int, dict[str, list[str]]] = {}
    for n_of_panel, place, changes in pending:
        run_ids = changes[0][0].run_ids
        runs = [history.runs[run_id] for run_id in run_ids]
        if id(run_ids) not in facts:
            facts[id(run_ids)] = _facts(runs, environments)
        event = _event(runs, facts[id(run_ids)], place, changes, n_of_panel)
        event.sentences += _disturbed_sentence(history, event, place)
        history.events.append(event)
    history.events.sort(key=lambda event: (not event.is_alarm, -event.total))


def _facts(runs: Sequence[Run], environments: dict[str, dict[str, Any]]) -> dict[str, list[str]]:
    """The recorded facts of these runs as text, by name: a text for each run."""
    of_runs: list[dict[str, Any]] = [
        {
            "software_id": run.software_id,
            "version": run.version,
            "argv": " ".join(run.argv),
            **environments[run.run_id],
        }
        for run in runs
    ]
    names = dict.fromkeys(name for facts in of_runs for name in facts)
    return {name: [_fact(facts.get(name)) for facts in of_runs] for name in names}


def _fact(fact: Any) -> str:
    value = fact.get("value") if isinstance(fact, dict) else fact
    return "nothing" if fact is None else str(value)


def _disturbed_sentence(history: History, event: Event, place: int) -> list[str]:
    """A sentence on the disturbed runs next to an event, with their largest share."""
    series, step = event.changes[0]
    stop = min([other.first for other in series.steps if other.first > step.first], default=None)
    near = [run for run in series.run_ids[max(place - 1, 0) : stop] if run in history.disturbed]
    if not near:
        return []
    most = max(history.disturbed[run] for run in near)
    text = (
        f"Disturbed there: {some(near)}: the hypervisor withheld up to {most:.0%} of the CPU time"
    )
    return [text + ("." if event.is_alarm else ", so this is no alarm by itself.")]


def _event(
    runs: Sequence[Run], facts: dict[str, list[str]], place: int, changes: Changes, n_series: int
) -> Event:
    """The event, with sentences on the recorded facts that changed near `place`, the nearest first,
    and that rarely change elsewhere, so without the load."""
    ends = np.median([(step.low, step.high) for _, step in changes], axis=0)
    low, high = ends.astype(int).tolist()
    rare = [
        texts
        for texts in facts.items()
        if sum(starmap(ne, pairwise(texts[1]))) <= 1 + len(runs) // 10
    ]
    sentences, changed = list[str](), list[str]()
    for at in sorted(range(min(low, place), max(high, place) + 1), key=lambda at: abs(at - place)):
        suffix = f" (at {runs[at].run_id})" if at != place else ""
        for name, texts in rare:
            if texts[at - 1] != texts[at]:
                changed.append(name)
                before, after = texts[at - 1 : at + 1]
                sentences.append(f"Changed there: {name}: {before:.48} -> {after:.48}{suffix}")
    return Event(
        runs[0].machine_id,
        runs[0].benchmark,
        runs[place].run_id,
        sorted(changes, key=lambda change: -abs(change[1].log_ratio[0])),
        n_series,
        [
            f"It lies between {runs[low - 1].run_id} and {runs[high].run_id} (95 %).",
            *(sentences or ["Nothing recorded changed there."]),
        ],
        list(dict.fromkeys(changed)),
        changes[0][0].node,
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", type=Path, help="runs at any depth")
    parser.add_argument("--since", metavar="RUN", help="only changes at this run id or later")
    parser.add_argument("--plot", metavar="OUT", type=Path, help="draw changes; .svg or .png")
    parser.epilog = (
        "With --since or --json the exit status is 1 if a series is worse, otherwise "
        f"0; it is 2 if RUN is unknown or DIR has no usable run. {parser.epilog}"
    )


def history(arguments: argparse.Namespace) -> int:
    """Prints the events, each with at most eight series, in at most 80 columns, or all as JSON.
    Returns 1 if a series is worse, for --since and --json, otherwise 0. Raises ResultError for a
    folder without runs, for an unknown run, and if the picture cannot be drawn."""
    history = load(arguments.folder)
    if since := arguments.since:
        if since not in history.runs:
            raise ResultError(f"--since {since}: no usable run here has this id")
        later = [*history.runs][[*history.runs].index(since) :]
        history.events = [event for event in history.events if event.run in later]
        last = {
            series
            for event in history.events
            for series, step in event.changes
            if step == series.last_step
        }
        history.series = [series for series in history.series if series in last]
    if arguments.plot and history.events:
        plot(history.events, arguments.plot)
    elif arguments.plot:
        print(f"reports: nothing changed, so {arguments.plot} is not drawn", file=sys.stderr)
    if arguments.json:
        events = [
            {
                "run": event.run,
                "machine_id": event.machine_id,
                "node": event.node,
                "benchmark": event.benchmark,
                "headline": event.headline,
                "alarm": event.is_alarm,
                "cases": [series.label for series, _ in event.changes],
                "sentences": event.sentences,
            }
            for event in history.events
        ]
        write_json(
            "history",
            runs=len(history.runs),
            left_out=history.skipped,
            disturbed=history.disturbed,
            events=events,
            series=[series.record() for series in history.series],
        )
    else:
        print("\n".join(text_of(history)))
    is_worse = any(series.word == "worse" for series in history.series)
    return int(is_worse and bool(arguments.since or arguments.json))


def headline(history: History) -> str:
    """`1 change on 2026-11-17: all 198 series worse, median +5.0 %, software_id changed`, or the
    number of changes and the largest."""
    events = [event for event in history.events if event.is_alarm]
    if not events:
        return f"no change over {len(history.runs)} runs"
    if len(events) == 1:
        return f"1 change on {events[0].headline}"
    return f"{len(events)} changes, the largest on {events[0].headline}"


def closing(history: History) -> list[str]:
    """Sentences on the error rate, the disturbed runs and what is left out."""
    texts = ["Of months without a change or a disturbed run at most 5 % have an alarm."]
    if history.disturbed:
        texts.append(
            f"disturbed, above {MOST_STEAL:.0%} of the CPU time withheld by the hypervisor: "
            f"{len(history.disturbed)} ({some([*history.disturbed])}); no alarm rests on them alone"
        )
    return [*texts, *history.skipped]


def text_of(history: History) -> list[str]:
    machines = {run.machine_id for run in history.runs.values()}
    words = Counter(series.word for series in history.series)
    counts = ", ".join(f"{n} {word}" for word, n in words.most_common())
    first, *closing_lines = closing(history)
    lines = wrapped(
        [
            headline(history),
            f"runs {len(history.runs)}, machines {len(machines)}, last "
            f"run {[*history.runs][-1]}; series: {counts or 'none changed'}. {first}",
            *closing_lines,
        ]
    )
    for event in history.events:
        place = f"Machine {event.machine}, {event.benchmark}, first at {event.run}."
        lines += ["", *wrapped([event.headline, place, *event.sentences])]
        for series, step in event.changes[:8]:
            row = "  {2:>7} -> {3:>7} us {4:>24}  {1:<9} {0}".format(*series.row(step).values())
            lines += textwrap.wrap(row, WIDTH, subsequent_indent=" " * 6)
    return lines
