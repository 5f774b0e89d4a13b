"""The page of a machine and benchmark over time: what changed, and each size."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from markupsafe import Markup

from reports.kit.chart import LEAST_MARKS, Chart, Curve, signs, spark
from reports.kit.page import Banner, Cell, Page, Row, Section, command_after
from reports.site.run_page import run_page
from reports.site.shared import file_name, history_file
from reports.site.tail_events import tail_text
from reports.tables.figure import roles_of
from reports.tables.sentences import (
    before_command,
    command_of,
    counted,
    machine_name,
    number,
    to_repeat,
)
from reports.trends.changes import LEAST_BASE, MIN_RUNS
from reports.trends.events import Event
from reports.trends.history import KEY, History, closing, failed_text, seen_change
from reports.trends.series import Series
from reports.verdicts.verdict_pages import GateSide, gate_command
from wiretax.common.grouped import grouped
from wiretax.common.program import REPORTS, RUN
from wiretax.record.observations import Entry
from wiretax.record.result import by_time, time_of
from wiretax.record.schema import Run

WORST_FIRST = ("worse", "suspect", "better", "noisy", "too early", "steady")
MOST_PANELS, MOST_EVENTS, MOST_CHANGES = 60, 40, 8  # on a page
MOST_TAILS = 3  # in a sentence each; the page of the history has all
TOO_EARLY = "Too early"
MOST_POINTS = 400  # of a line; of more runs a point is the median of several


def part_of(history: History, key: tuple[str, str]) -> History:
    """The history of one machine and benchmark."""

    def is_own(each: Run | Series) -> bool:
        return bool(KEY(each) == key)

    return replace(
        history,
        runs={run_id: run for run_id, run in history.runs.items() if is_own(run)},
        series=[*filter(is_own, history.series)],
        links=[*filter(is_own, history.links)],
        events=[event for event in history.events if is_own(event.series)],
        tails=[event for event in history.tails if is_own(event.series)],
        failed=[own for own in history.failed if is_own(own[-1].run)],
    )


def banner_of(history: History) -> Banner:
    """Did anything get worse, where, since when, how sure?"""
    words = Counter(series.word for series in history.series)
    last = [*history.runs.values()][-1]
    n_runs = counted(len(history.runs), "complete run")
    counts = ", ".join(f"{count} {word}" for word, count in words.items())
    said = f"The newest of {n_runs}, {last.benchmark} on {machine_name(last)}:"
    facts: list[Cell] = [[f"Cases: {counts or 'none'}. {said}", newest(history)]]
    facts[:0] = [f"{tail_text(event)}." for event in history.tails[:MOST_TAILS]]
    failed = [f"{failed_text(own)}." for own in reversed(history.failed)]
    events = history.standing
    if failed and not any(event.word == "worse" for event in events):
        return Banner("INCOMPLETE", failed[0], [*failed[1:], *facts])
    facts[:0] = failed
    if events:
        event, word = events[0], events[0].word
        if event.commits:
            facts.insert(0, check_of(event, history.runs[event.run]))
        facts.insert(0, where(event))
        n = sum(each.word == word for each in events)
        return Banner(f"{counted(n, 'change')} for the {word}", f"{event.finding}.", facts, word)

    for event in history.events:
        if event.is_suspect:
            return Banner("Suspect", f"{event.finding}.", facts)

    word = max(words, key=words.__getitem__, default="too early").capitalize()
    if word == TOO_EARLY:
        facts.append(command_after(*to_repeat(last, "Next, a run as the last was made", "--seed")))
        return Banner(word, missing(history), facts)

    if np.isfinite(change := seen_change(history)):
        often = "within eight runs, in four of five times"
        facts.append(f"Half of the cases would show a change of {change:.1%} alone {often}.")
    return Banner(word, f"No case changed over {n_runs}.", facts)


def missing(history: History) -> str:
    """How many runs it takes until a change can be found."""
    longest = max((len(each.run_ids) for each in history.series), default=0)
    needed, size = (MIN_RUNS, "small") if longest > LEAST_BASE else (LEAST_BASE + 1, "large")
    return f"{longest} of {needed} runs until a {size} change can be found."


def check_of(event: Event, run: Run) -> Cell:
    """The gate between the commits of a change, by the command of its first run, at the sizes that
    changed."""
    command = command_of(run, "--seed", "--out", "-b", "-e", "--sizes")
    if not (event.series.case.shape or event.is_of_link):
        sizes = [series.case.size_bytes for series, _ in event.changes]
        command += f" -b {min(sizes)} -e {max(sizes)}"
    base, head = (GateSide(commit, command) for commit in event.commits)
    gate = gate_command(base, head, budget="30m")
    return command_after(before_command("Check", gate), gate)


def newest(history: History) -> Markup:
    """When the newest run was, with the age from which that is silence, three usual gaps."""
    seconds = list(map(_seconds, history.runs))
    gap_days = np.median(np.diff(seconds)) / 86400 if len(seconds) > 1 else 1
    time = f"{time_of([*history.runs][-1]):%Y-%m-%dT%H:%M}"
    days = max(2, round(3 * gap_days))
    text = time.replace("T", " ")
    return Markup(f'<time datetime="{time}Z" data-days="{days}">{text} UTC</time>')


def page_beside(history: History, entries: Sequence[Entry], at: int) -> Page:
    """The page of the run `at` this place of a machine and benchmark, with links to its neighbours,
    the changes since which it runs, and how it stands against the level of up to eight before."""
    page, run = run_page(entries[at].path), entries[at].run
    file = history_file(*KEY(run))
    page.near = [("History", file)]
    if at > 0:
        page.near.append(("Previous run", file_name("run", entries[at - 1].run.run_id)))
    if at + 1 < len(entries):
        page.near.append(("Next run", file_name("run", entries[at + 1].run.run_id)))

    changes = [
        share for series in history.series if (share := series.beside_level(run.run_id)) is not None
    ]
    past = [event for event in history.standing if by_time(run.run_id) >= by_time(event.run)]
    said: list[Cell] = [[event.word, (event.finding, file)] for event in past]
    if changes:
        change = np.median(changes)  # the largest of many is noise
        said.append(f"Beside the runs before, the median case takes {change:+.1%}.")

    page.banner.facts = [*said, *page.banner.facts]
    if any(event.word == "worse" for event in past):
        page.banner.role = "worse"
    return page


def where(event: Event) -> Cell:
    """The place of a change, and the runs between which it lies."""
    last, first = ((f"{time_of(run):%Y-%m-%d %H:%M}", file_name("run", run)) for run in event.sides)
    how = "" if event.is_of_link else "95 % sure: "
    return [f"{event.series.place}; {how}between", last, "and", first, "UTC."]


def history_page(history: History) -> Page:
    """The changes, a chart for each size, and all series."""
    drawn = [each for each in history.series if len(each.run_ids) >= LEAST_MARKS]
    panels = grouped(drawn, lambda each: f"{each.chart}, {each.node}" if each.node else each.chart)
    notes = [f"{line.rstrip('.')}." for line in closing(history)]
    current = history.standing
    rest = [event for event in history.events if event not in current]
    events = [*current, *history.tails, *rest][:MOST_EVENTS]

    drawn_alone = {id(event.series) for event in events}
    shown = sorted(panels, key=lambda title: min(map(_rank, panels[title])))[:MOST_PANELS]
    charts = [
        panel_chart(title, panels[title])
        for title in shown
        if len(panels[title]) > 1 or id(panels[title][0]) not in drawn_alone
    ]
    if len(panels) > MOST_PANELS or len(history.events) > MOST_EVENTS:
        hint = f"`{RUN}{REPORTS} history --json` has all"
        notes.append(f"At most {MOST_PANELS} charts and {MOST_EVENTS} changes are shown; {hint}.")

    rows: list[Row] = [
        {
            "case": series.label,
            "verdict": series.word,
            "over time": spark(series.costs_us, series.steps),
            "last, us": number(float(series.costs_us[-1])),
            "runs": str(len(series.costs_us)),
            "node": series.node or "-",
        }
        for series in sorted([*history.links, *history.series], key=_rank)
    ]
    last = [*history.runs.values()][-1]
    return Page(
        f"History: {last.benchmark} on {machine_name(last)}",
        banner_of(history),
        [
            *event_sections(events),
            Section("Each size over time", charts=charts),
            Section("How this was judged", notes, folded=True),
            Section("All series", rows=rows, folded=bool(shown)),
        ],
    )


def _rank(series: Series) -> int:
    return WORST_FIRST.index(series.word)


def event_sections(events: Sequence[Event]) -> list[Section]:
    """A section for each change. A series that changed twice is drawn once, with the first."""
    first_of = {id(event.series): event for event in reversed(events)}
    return [event_section(event, first_of[id(event.series)] is event) for event in events]


def event_section(event: Event, is_drawn: bool) -> Section:
    """A change: the runs on both sides, its largest case over time, and the largest with it."""
    return Section(
        event.finding,
        [where(event), *event.facts],
        charts=[panel_chart(event.series.title, [event.series])] if is_drawn else [],
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

    def frame_of(values: str) -> pd.DataFrame:
        """These values of each series by its run, in order of time, with which a run id begins."""
        columns = {
            at: pd.Series(getattr(each, values), list(each.run_ids))
            for at, each in enumerate(members)
        }
        return pd.DataFrame(columns).sort_index()

    costs_us = frame_of("costs_us")
    runs = [*costs_us.index]
    group = 1 + (len(runs) - 1) // MOST_POINTS
    places = np.arange(len(runs)) // group
    groups = costs_us.groupby(places)
    points = np.stack([groups.median(), groups.min(), groups.max()])
    levels = frame_of("levels").groupby(places).first().to_numpy()
    seconds = [*map(_seconds, runs[::group])]
    roles = roles_of([each.case.algorithm for each in members])
    lines = [
        Curve(each.name, role, points[:, :, at], each in shown, [levels[:, at]])
        for at, (each, role) in enumerate(zip(members, roles, strict=True))
    ]
    found = [(each, step) for each in shown for step in each.steps]
    found.sort(key=lambda change: abs(change[1].log_ratio[0]))  # the largest is the last
    steps = {
        each.run_ids[step.first]: {
            "at": [_seconds(each.run_ids[at]) for at in (step.first, step.low, step.high)],
            "role": step.word,
            "text": signs(f"{each.name} {step.word} {np.expm1(step.log_ratio[0]):+.1%}"),
        }
        for each, step in found
    }
    links = [file_name("run", run) for run in runs[::group]]
    ends = f"least, most of {group} runs"
    word = min(members, key=_rank).word
    return Chart(
        title, seconds, lines, "us", "time", [*steps.values()], links, ends=ends, word=word
    )


def _seconds(run_id: str) -> float:
    time = time_of(run_id)
    assert time  # a run without a time is in no history
    return time.timestamp()
