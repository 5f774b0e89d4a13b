"""The page of a machine and benchmark over time: what changed, and each size."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import timezone
from operator import attrgetter
from shlex import quote

import numpy as np
import pandas as pd
from markupsafe import Markup

from reports.kit.chart import LEAST_MARKS, ChangeMark, Chart, Curve, signs, spark
from reports.kit.page import Banner, Cell, Page, Row, Section
from reports.site import shared
from reports.store.grouped import grouped
from reports.store.observations import Entry
from reports.store.program import BENCH, REPORTS, RUN
from reports.store.result import by_time, time_of
from reports.tables.figure import roles_of
from reports.tables.sentences import command_of, counted, machine_name, number
from reports.trends.changes import LEAST_BASE, MIN_RUNS, LevelChange
from reports.trends.history import History, closing, seen_change
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
    counts = ", ".join(f"{count} {word}" for word, count in words.items())
    facts: list[Cell] = [
        [
            f"Cases: {counts or 'none'}. The newest of {counted(len(history.runs), 'run')}:",
            newest(history),
        ]
    ]
    if events := standing(history):
        event, word = events[0], events[0].word
        n = sum(each.word == word for each in events)
        facts.insert(0, where(event))
        if event.commits:
            command = quote(command_of(last, "--seed", "--out"))
            sides = "--revision base={0} --base {2} --revision head={1} --head {2}"
            facts.insert(1, f"Check: {RUN}{BENCH}gate {sides.format(*event.commits, command)}")
        return Banner(f"{counted(n, 'change')} for the {word}", f"{event.finding}.", facts, word)

    facts.insert(0, f"{last.benchmark} on {machine_name(last)}.")
    for event in history.events:
        if event.is_suspect:
            return Banner("Suspect", f"{event.headline}.", facts)

    word = max(words, key=lambda each: words[each], default="too early")
    sentence = f"No case changed over {counted(len(history.runs), 'run')}."
    if word == "too early":
        sentence = (
            f"A case shows large changes from {LEAST_BASE + 1} runs on, small ones from {MIN_RUNS}."
        )
        facts.append(
            f"{len(history.runs)} of {LEAST_BASE + 1} runs until a change can be told. "
            f"To add one: {command_of(last, '--seed')}"
        )
    else:
        change = seen_change(history)
        facts.append(f"Half of the cases would show a change of {change:.1%} within eight runs.")

    return Banner(word.capitalize(), sentence, facts)


def newest(history: History) -> Markup:
    """When the newest run was, with the age from which that is silence, three usual gaps."""
    seconds = list(map(_seconds, history.runs))
    gap_days = float(np.median(np.diff(seconds))) / 86400 if len(seconds) > 1 else 1
    time = f"{time_of([*history.runs][-1]):%Y-%m-%dT%H:%M}"
    days = max(2, round(3 * gap_days))
    text = f"{time.replace('T', ' ')} UTC"
    return Markup(f'<time datetime="{time}Z" data-days="{days}">{text}</time>')


def beside(
    history: History, entries: Sequence[Entry], run_id: str
) -> tuple[list[tuple[str, str]], list[Cell], bool]:
    """Links from the page of a run to its neighbours, how it stands against the level of up to
    eight runs before, and whether it is after a change for the worse."""
    run_ids = [entry.run.run_id for entry in entries]
    at = run_ids.index(run_id)
    file = shared.history_file(*shared.KEY(entries[at].run))
    near = [
        (name, shared.file_name("run", other))
        for name, others in (("Previous run", run_ids[:at][-1:]), ("Next run", run_ids[at + 1 :]))
        for other in others[:1]
    ]
    shares = {series.label: series.beside_level(run_id) for series in history.series}
    changes = {label: share for label, share in shares.items() if share is not None}
    past = [event for event in standing(history) if by_time(run_id) >= by_time(event.run)]
    said: list[Cell] = [[event.word, (event.finding, file)] for event in past]
    if changes:
        most = max(changes, key=lambda label: abs(changes[label]))
        said.append(
            f"Beside the runs before, the median case takes {np.median([*changes.values()]):+.1%}, "
            f"{most} {changes[most]:+.1%}."
        )

    return [("History", file), *near], said, any(event.word == "worse" for event in past)


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
    charts.sort(key=lambda chart: WORST_FIRST.index(chart.word))

    notes = [f"{line.rstrip('.')}." for line in closing(history)]
    if len(panels) > MOST_PANELS or len(history.events) > MOST_EVENTS:
        notes.append(
            f"Shown are {len(charts)} of {len(panels)} charts and the first {MOST_EVENTS} of "
            f"{len(history.events)} changes; `{RUN}{REPORTS} history --json` has all."
        )

    current = standing(history)
    rest = [event for event in history.events if event not in current]
    worst = sorted(history.series, key=_rank)
    last = [*history.runs.values()][-1]
    return Page(
        f"History: {last.benchmark} on {machine_name(last)}",
        banner_of(history),
        [
            *(event_section(each, history) for each in [*current, *rest][:MOST_EVENTS]),
            Section("Each size over time", charts=charts),
            Section("How this was judged", notes, folded=True),
            Section("All series", rows=list(map(_row, worst)), folded=bool(charts)),
        ],
    )


def _rank(series: Series) -> int:
    return WORST_FIRST.index(series.word)


def event_section(event: Event, history: History) -> Section:
    """A change: the runs on both sides, its largest case over time, and the cases with it."""
    series, _ = leading(event)
    said: list[Cell] = [where(event), *event.sentences[1:]]
    if (hidden := len(event.changes) - MOST_CHANGES) > 0:
        said.append(f"{counted(hidden, 'more case')} changed here.")

    place = f": {event.machine}" if len({*map(shared.KEY, history.series)}) > 1 else ""
    return Section(
        event.finding + place,
        said,
        charts=[panel_chart(series.label, [series])],
        rows=[each.row(step) for each, step in event.changes[:MOST_CHANGES]],
    )


def panel_chart(title: str, members: Sequence[Series]) -> Chart:
    """Series of one panel over their runs. The library, `auto`, the fastest and those that changed
    are shown at first; of many runs the median of several is a point, with their least and largest
    cost. Of changes at one run the largest is marked."""
    fastest = min(members, key=lambda each: (bool(each.case.library), each.costs_us[-1]))
    shown = [
        each
        for each in members
        if each is fastest or each.case.algorithm in ("library", "auto") or each.last_step
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
        Curve(
            each.name,
            role,
            points[:, :, at],
            each in shown,
            [
                (_seconds(each.run_ids[start]), _seconds(each.run_ids[stop - 1]), level_us)
                for start, stop, level_us in each.levels
            ],
        )
        for at, (each, role) in enumerate(zip(members, roles, strict=True))
    ]
    found = [(each, step) for each in shown for step in each.steps]
    found.sort(key=lambda change: abs(change[1].log_ratio[0]))  # the largest is the last
    changes = {each.run_ids[step.first]: (each, step) for each, step in found}

    steps = [
        ChangeMark(
            [_seconds(each.run_ids[at]) for at in (step.first, step.low, step.high)],
            step.word,
            signs(
                f"{each.name if len(shown) > 1 else ''} {step.word} "
                f"{np.expm1(step.log_ratio[0]):+.1%}"
            ).strip(),
        )
        for each, step in changes.values()
    ]
    links = [shared.file_name("run", run) for run in runs[::group]]
    ends = f"least, most of {group} runs"
    word = min(members, key=_rank).word
    return Chart(title, seconds, lines, "us", "time", steps, links, ends=ends, word=word)


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
