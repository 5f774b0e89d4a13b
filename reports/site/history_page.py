"""The page of a machine and benchmark over time: what changed, and each size."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import timezone
from operator import attrgetter

import numpy as np
import pandas as pd

from reports.kit.chart import LEAST_MARKS, ChangeMark, Chart, Curve, spark
from reports.kit.page import Banner, Cell, Page, Row, Section
from reports.site import shared
from reports.store.grouped import grouped
from reports.store.program import REPORTS, RUN
from reports.store.result import time_of
from reports.tables.figure import roles_of
from reports.tables.sentences import command_of, counted, number, start_time
from reports.trends.changes import LEAST_BASE, MIN_RUNS, LevelChange
from reports.trends.history import History, closing
from reports.trends.series import Event, Series

WORST_FIRST = ("worse", "suspect", "better", "noisy", "too early", "steady")
MOST_PANELS, MOST_EVENTS, MOST_CHANGES = 60, 40, 8  # on a page
MOST_POINTS = 400  # of a line; of more runs a point is the median of several


def part_of(history: History, key: tuple[str, str]) -> History:
    """The history of one machine and benchmark."""
    return replace(
        history,
        runs={run_id: run for run_id, run in history.runs.items() if shared.KEY(run) == key},
        series=[each for each in history.series if shared.KEY(each) == key],
        events=[event for event in history.events if shared.KEY(event.series) == key],
    )


def standing(history: History) -> list[Event]:
    """The changes that no later one has replaced, the worse ones first, then the newest."""
    events = [
        event
        for event in history.events
        if any(series.last_alarm is step for series, step in event.changes)
    ]
    events.sort(key=attrgetter("run"), reverse=True)
    return sorted(events, key=attrgetter("word"), reverse=True)


def banner_of(history: History) -> Banner:
    """Did anything get worse, where, since when, how sure?"""
    words = Counter(series.word for series in history.series)
    last = [*history.runs.values()][-1]
    newest = f"The newest of {counted(len(history.runs), 'run')}: {start_time(last)}."
    counts = ", ".join(f"{word} {count}" for word, count in words.items())
    counts = f"Series: {counts or 'none'}."

    if events := standing(history):
        event, word = events[0], events[0].word
        n = sum(each.word == word for each in events)
        title = f"{counted(n, 'change')} for the {word}"
        place = " ".join(part if isinstance(part, str) else part[0] for part in where(event))
        return Banner(title, f"{event.headline}.", [place, f"{counts} {newest}"], word)

    for event in history.events:
        if event.is_suspect:
            return Banner("Suspect", f"{event.headline}.", [counts, newest])

    word = max(words, key=lambda each: words[each], default="too early")
    sentence, facts = f"No case changed over {counted(len(history.runs), 'run')}.", [counts, newest]
    if word == "too early":
        sentence = (
            f"A case shows large changes from {LEAST_BASE + 1} runs on, small ones from {MIN_RUNS}."
        )
        facts.append(f"To add one: {command_of(last, '--seed')}")

    return Banner(word.capitalize(), sentence, facts)


def leading(event: Event) -> tuple[Series, LevelChange]:
    """The largest change of a case of ours, if one changed."""
    ours = [change for change in event.changes if not change[0].case.library]
    return [*ours, *event.changes][0]


def sides_of(event: Event) -> list[str]:
    """The runs between which the change lies."""
    series, step = leading(event)
    return [series.run_ids[at] for at in (step.low - 1, step.high)]


def where(event: Event) -> list[str | tuple[str, str]]:
    """The place of a change, and the runs between which it lies."""
    series, _ = leading(event)
    last, first = (
        (f"{time_of(run):%Y-%m-%d %H:%M}", shared.file_name("run", run)) for run in sides_of(event)
    )
    place = f"{series.benchmark} on {series.machine}"
    place += f", node {series.node}" if series.node else ""
    return [f"{place}; 95 % sure: between", last, "and", first, "UTC."]


def history_page(history: History) -> Page:
    """The changes, a chart for each size, and all series."""
    drawn = (each for each in history.series if len(each.run_ids) >= LEAST_MARKS)
    panels = grouped(drawn, attrgetter("node", "panel"))
    shown = sorted(panels, key=lambda key: min(map(_rank, panels[key])))[:MOST_PANELS]
    charts = [
        panel_chart(f"{panel}, {node}" if node else panel, own)
        for (node, panel), own in panels.items()
        if (node, panel) in shown
    ]

    notes = [f"{line.rstrip('.')}." for line in closing(history)]
    if len(panels) > MOST_PANELS or len(history.events) > MOST_EVENTS:
        notes.append(
            f"Shown are {len(charts)} of {len(panels)} charts and the first {MOST_EVENTS} of "
            f"{len(history.events)} changes; `{RUN}{REPORTS} history --json` has all."
        )

    current = standing(history)
    rest = [event for event in history.events if event not in current]
    worst = sorted(history.series, key=_rank)
    return Page(
        "History",
        banner_of(history),
        [
            *map(event_section, [*current, *rest][:MOST_EVENTS]),
            Section("Each size over time", charts=charts),
            Section("How this was judged", notes, folded=True),
            Section("All series", rows=list(map(_row, worst)), folded=bool(charts)),
        ],
    )


def _rank(series: Series) -> int:
    return WORST_FIRST.index(series.word)


def event_section(event: Event) -> Section:
    """A change: the runs on both sides, its largest case over time, and the cases with it."""
    series, _ = leading(event)
    said: list[Cell] = [where(event), *event.sentences[1:]]
    if (hidden := len(event.changes) - MOST_CHANGES) > 0:
        said.append(f"{counted(hidden, 'more case')} changed here.")

    return Section(
        event.headline,
        said,
        charts=[panel_chart(series.label, [series])],
        rows=[each.row(step) for each, step in event.changes[:MOST_CHANGES]],
    )


def panel_chart(title: str, members: Sequence[Series]) -> Chart:
    """Series of one panel over their runs. The library, `auto` and the fastest are shown at first;
    of many runs the median of several is a point, with their least and largest cost."""
    fastest = min(members, key=lambda each: (bool(each.case.library), each.costs_us[-1]))
    shown = [
        each for each in members if each is fastest or each.case.algorithm in ("library", "auto")
    ]
    members = sorted(members, key=lambda each: each not in shown)
    columns = {at: pd.Series(each.costs_us, list(each.run_ids)) for at, each in enumerate(members)}
    frame = pd.DataFrame(columns).sort_index()  # by time, with which a run id begins
    runs = [*frame.index]
    group = 1 + (len(runs) - 1) // MOST_POINTS
    groups = frame.groupby(np.arange(len(runs)) // group)
    points = np.stack([groups.median(), groups.min(), groups.max()])
    # A clock that was wrong must not turn a line back.
    seconds = np.maximum.accumulate([*map(_seconds, runs[::group])]).tolist()
    roles = roles_of([each.case.algorithm for each in members])
    lines = [
        Curve(each.name, role, points[:, :, at], each in shown)
        for at, (each, role) in enumerate(zip(members, roles, strict=True))
    ]
    steps = [
        ChangeMark(
            [_seconds(fastest.run_ids[at]) for at in (step.first, step.low, step.high)],
            step.word,
            f"{step.word} {np.expm1(step.log_ratio[0]):+.1%}",
        )
        for step in fastest.steps
    ]
    links = [shared.file_name("run", run) for run in runs[::group]]
    return Chart(title, seconds, lines, "us", "time", steps, links)


def _seconds(run_id: str) -> float:
    time = time_of(run_id)
    assert time  # a run without a time is in no history
    return time.replace(tzinfo=timezone.utc).timestamp()


def _row(series: Series) -> Row:
    return {
        "case": series.label,
        "verdict": series.word,
        "over time": spark(series.costs_us, series.steps),
        "last, us": number(float(series.costs_us[-1])),
        "runs": str(len(series.costs_us)),
        "node": series.node or "-",
    }
