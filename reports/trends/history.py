"""`history`: reads the runs of a folder as `series`; prints and draws the events in which they
change."""

import argparse
import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import chain, compress, dropwhile
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from reports.tables.figure import figure, fold
from reports.tables.sentences import (
    counted,
    describe,
    lay_out,
    left_out_lines,
    machine_name,
    plain_table,
    recorded_facts,
    some,
    without_version,
)
from reports.trends.changes import Judgement, judge
from reports.trends.events import Change, Event, event_at, events_of
from reports.trends.links import by_state, cost_beside, link_of
from reports.trends.panels import Panel, panel_of, tested_together
from reports.trends.series import Series
from reports.trends.tail_changes import QUANTILES, confirmed, runs_to_tell
from wiretax.common.grouped import grouped
from wiretax.common.program import answer, complain
from wiretax.common.untrusted import printable
from wiretax.record.folder import COPY, INCOMPLETE, WRONG, Contents, read_store
from wiretax.record.observations import MIN_BLOCKS, MOST_STEAL, Entry, alike_of, world_of
from wiretax.record.result import ResultError, by_time, time_of
from wiretax.record.schema import CaseHeader, Run
from wiretax.record.tails import PERCENTILES, steps_needed

# Up to this correlation of neighbouring runs, and from so many series on that are tested together:
# the share of months without a change that have an alarm at the most (docs/calibration.md).
RATES = (0.4, 6, 0.05), (0.4, 1, 0.06), (0.7, 24, 0.05), (0.7, 6, 0.10), (0.7, 1, 0.20)
# Of a percentile; also where the share of slow steps has this correlation from night to night.
TAIL_RATES = ((0.4, 1, 0.15),)
KEY = attrgetter("machine_id", "benchmark")  # of a run or a series
# The picture: its panels.
PANEL_IN = 4.5, 2.4
MOST_PANELS = 6
MOST_ROWS = 8  # of an event's table
LABEL_SHARE = 0.1  # of its height, a line of words


@dataclass
class History:
    """The runs of a folder by run id, in order of time, and what is found in their median costs, or
    in a `quantile` of their steps."""

    runs: dict[str, Run]
    skipped: list[str]  # sentences on what is left out
    disturbed: dict[str, float]  # of disturbed runs, the share of the CPU time that was withheld
    wrong: dict[Entry, list[CaseHeader]]  # as `standing_wrong` finds them
    failed: list[list[Entry]]  # as `newest_failed` finds them
    series: list[Series] = field(default_factory=list)
    links: list[Series] = field(default_factory=list)  # round trips of links that changed
    events: list[Event] = field(default_factory=list)  # those of links first, then the largest
    judged: list[Judgement] = field(default_factory=list)  # of series that were tested together
    quantile: str = ""  # one of QUANTILES
    since: str = ""  # the run or day from which on changes count
    earlier: int = 0  # changes for the worse before it that still stand
    tails: list[Event] = field(default_factory=list)  # of the P99, beside medians

    @property
    def rho(self) -> float | None:
        """The largest correlation of neighbouring runs; None if no series is long enough."""
        return max((each.rho for each in self.judged), default=None)

    @property
    def fewest(self) -> int:
        """The fewest series that were tested together."""
        return min((len(each.steps) for each in self.judged), default=0)

    @property
    def standing(self) -> list[Event]:
        """The changes that no later one has replaced, the worse ones first, then the newest."""
        events = [
            event
            for event in self.events
            if any(change.series.last_alarm is change.step for change in event.changes)
        ]
        return sorted(events, key=attrgetter("word", "run"), reverse=True)


def variant_of(contents: Contents, entry: Entry) -> str:
    """The variant of a campaign that a run is of, or ""."""
    side = entry.path.parent
    return printable(side.name) if side.parent in contents.campaigns else ""


def standing_wrong(contents: Contents) -> dict[Entry, list[CaseHeader]]:
    """The runs with wrong results, oldest first, and their cases that no later complete run of the
    same variant, node, machine, world and benchmark found right. Copies do not count."""
    found, right = dict[Entry, list[CaseHeader]](), set[Any]()
    since = dropwhile(lambda each: each.left_out != WRONG, contents.entries)
    for entry in reversed([each for each in since if each.left_out != COPY]):
        run = entry.run
        place = variant_of(contents, entry), run.node, run.machine_id, world_of(run), run.benchmark
        keys = [(*place, *key[:-1], without_version(key[-1])) for key in entry.plan.keys]
        if wrong := [
            case
            for key, case, status in zip(keys, run.cases, entry.statuses, strict=True)
            if status == "wrong" and key not in right
        ]:
            found[entry] = wrong
        if entry.complete:
            right.update(compress(keys, entry.right))

    return dict(reversed(found.items()))


def newest_failed(contents: Contents) -> list[list[Entry]]:
    """Of each variant, machine and benchmark the newest runs, if they ended incomplete: those since
    the last one that is complete or wrong, which has its own alarm."""
    newest = dict[Any, list[Entry]]()
    for entry in contents.entries:
        own = newest.setdefault((variant_of(contents, entry), *KEY(entry.run)), [])
        if entry.left_out == INCOMPLETE and not entry.running:
            own.append(entry)
        elif entry.left_out in ("", WRONG):
            own.clear()

    return sorted(filter(None, newest.values()), key=lambda own: by_time(own[-1].run.run_id))


def failed_text(own: Sequence[Entry]) -> str:
    """`serving on machine ci: the newest 6 runs, since 2026-11-20, failed; cause of the last: 60 of
    100 requests failed`."""
    first, end = own[0].run, own[-1].end
    return (
        f"{first.benchmark} on {machine_name(first)}: the newest {counted(len(own), 'run')}, since "
        f"{first.run_id[:10]}, failed; cause of the last: "
        f"{(end and end.reason) or 'it was cut off'}"
    )


def history_of(contents: Contents, quantile: str = "") -> History:
    """The history of these runs, of which none may be usable: of median costs, or of a `quantile`,
    one of QUANTILES."""
    left_out = [(entry.path, entry.left_out) for entry in contents.entries]
    skipped = left_out_lines([*contents.left_out, *left_out])
    entries = {entry.run.run_id: entry for entry in contents.entries if not entry.left_out}
    history = History(
        {run_id: entry.run for run_id, entry in entries.items()},
        skipped,
        {run_id: entry.disturbance for run_id, entry in entries.items() if entry.disturbance},
        standing_wrong(contents),
        newest_failed(contents),
        quantile=quantile,
    )

    panels = list[Panel]()
    facts_of = cache(lambda run_id: recorded_facts(history.runs[run_id]))
    for (variant, node, *_), group in grouped(
        entries.values(),
        lambda entry: (variant_of(contents, entry), entry.run.node, *alike_of(entry)),
    ).items():
        link = link_of(group, variant)
        groups, notes = by_state(group, link)
        skipped += [f"{node}: {note}" if node else note for note in notes]
        panels += [panel_of(own, variant, words, quantile) for words, own in groups.items()]
        if series := link.series:
            series.mark_disturbed(history.disturbed)
            history.links.append(series)
            for step in series.steps:
                at, changes = step.first, [Change(series, step)]
                event = event_at(at, (at, at), series.run_ids, changes, 1, facts_of)
                event.facts[:0] = cost_beside(group, *event.sides)
                history.events.append(event)

    history.series = [series for panel in panels for series in panel.series]
    n_results = sum(entry.statuses.count("ok") for entry in entries.values())
    if n_few := n_results - sum(len(entry.observed) for entry in entries.values()):
        skipped.append(
            f"left out, with fewer than {MIN_BLOCKS} blocks: {n_few} of {n_results} results"
        )
    if quantile:
        skipped += without_quantile(entries.values(), quantile)

    add_events(history, panels, facts_of)
    return history


def without_quantile(entries: Collection[Entry], quantile: str) -> list[str]:
    """A sentence on the results that have no such percentile, if there are any."""
    name = QUANTILES[quantile]
    lack = sum(int(np.isnan(entry.observed[name]).sum()) for entry in entries)
    if not lack:
        return []
    n_results = sum(len(entry.observed) for entry in entries)
    least = steps_needed(PERCENTILES[name])
    return [
        f"left out, without a P{quantile} (older versions, or fewer than {least:,} steps): {lack} "
        f"of {n_results} results"
    ]


def add_events(
    history: History, panels: Sequence[Panel], facts_of: Callable[[str], dict[str, str]]
) -> None:
    """Judges the series, those over about the same runs together, and adds the events."""
    together = [part for panel in panels for part in tested_together(panel)]
    n_series = sum(len(part.series) for part in together)
    for part in together:
        judged = judge(part.log_costs, n_series)
        if history.quantile:
            judged = confirmed(judged, part.log_costs, n_series)
        history.judged.append(judged)
        history.events += events_of(part, judged, history.disturbed, facts_of)

    history.events.sort(key=lambda event: (not event.is_alarm, not event.is_of_link, -event.weight))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", type=Path, help="runs at any depth")
    parser.add_argument(
        "--since", metavar="RUN", help="only changes from this run id, or this day (2026-11-20), on"
    )
    parser.add_argument("--plot", metavar="OUT", type=Path, help="draw changes; .svg or .png")
    parser.add_argument(
        "--quantile",
        choices=QUANTILES,
        default="",
        help="changes of this percentile of the steps of each run, in place of the median cost",
    )
    parser.epilog = (
        "With --since or --json the exit status is 1 if a series is worse or no correct run has "
        "followed wrong results, 3 if the newest runs are incomplete, otherwise 0; it is 2 if RUN "
        f"is unknown or DIR has no usable run. {parser.epilog}"
    )


def history(arguments: argparse.Namespace) -> int:
    """Prints the events, each with at most eight series, in at most 80 columns, or all as JSON.
    Returns 1 if a series is worse or wrong results stand, or else 3 if newest runs are incomplete,
    for --since and --json, otherwise 0. Raises ResultError for a folder without runs or without the
    quantile, for an unknown run, and if the picture cannot be drawn."""
    quantile = arguments.quantile
    history = history_of(read_store(arguments.folder), quantile)
    if not history.runs or (quantile and not history.series):
        problem = f"{arguments.folder} has no usable run"
        if history.runs:
            problem = f"{arguments.folder} has no run with a P{quantile}"
        raise ResultError("; ".join([problem, *history.skipped]))
    later = runs_since(history, arguments.since)
    if arguments.since:
        history.since = arguments.since
        keep_since(history, later)
    status = status_of(history, later)

    if arguments.plot and history.events:
        plot(history, arguments.plot)
    elif arguments.plot:
        complain(f"nothing changed, so {arguments.plot} is not drawn")

    events = [
        {
            "run": event.run,
            "machine_id": event.series.machine_id,
            "node": event.series.node,
            "benchmark": event.series.benchmark,
            "headline": event.finding,
            "alarm": event.is_alarm,
            "cases": [change.series.label for change in event.changes],
            "sentences": event.sentences,
        }
        for event in history.events
    ]
    answer(
        arguments,
        text_of(history, 0 if arguments.since else status),
        runs=len(history.runs),
        wrong=[entry.run.run_id for entry in history.wrong],
        incomplete=[entry.run.run_id for entry in chain(*history.failed)],
        left_out=history.skipped,
        disturbed=history.disturbed,
        events=events,
        series=[series.record() for series in [*history.links, *history.series]],
        quantile=PERCENTILES[QUANTILES[quantile]] if quantile else None,
    )
    return status if arguments.since or arguments.json else 0


def runs_since(history: History, since: str | None) -> set[str]:
    """The ids of the runs from this run or day on, or of all, also of unusable ones. Raises
    ResultError if `since` is neither."""
    unusable = chain(history.wrong, *history.failed)
    known = {*history.runs, *(entry.run.run_id for entry in unusable)}
    if not since or since in known:
        return {run_id for run_id in known if run_id >= (since or "")}

    later = {run_id for run_id in known if run_id >= since}
    if not later or not re.fullmatch(r"\d{4}-\d\d-\d\d", since):
        raise ResultError(
            f"--since {since}: name the id of a usable run here, or a day that is not after "
            "all of them, such as 2026-11-20"
        )
    return later


def keep_since(history: History, later: Collection[str]) -> None:
    """Leaves out of a history what did not happen in the runs `later`."""
    is_worse = [event for event in history.standing if event.is_alarm and event.word == "worse"]
    history.earlier = sum(event.run not in later for event in is_worse)
    history.events = [event for event in history.events if event.run in later]
    history.series = [each for each in history.series if each.since(each.last_step) in later]
    history.links = [each for each in history.links if each.since(each.last_step) in later]
    history.failed = [own for own in history.failed if own[-1].run.run_id in later]
    history.wrong = {
        entry: cases for entry, cases in history.wrong.items() if entry.run.run_id in later
    }


def status_of(history: History, later: Collection[str]) -> int:
    """The exit status for a pipeline that asks what happened in the runs `later`."""
    if history.wrong:
        return 1
    for series in [*history.links, *history.series]:
        alarm = series.last_alarm
        if alarm and alarm.word == "worse" and series.since(alarm) in later:
            return 1
    return 3 if history.failed else 0


def headline(history: History) -> str:
    """`1 change: All 198 cases take 5.0% longer since 17 Nov 2026`, or the number of changes and
    the largest."""
    events = [event for event in history.events if event.is_alarm]
    if not events:
        suspects = [f", but: {event.finding}" for event in history.events if event.is_suspect]
        runs = counted(len(history.runs), "complete run" if history.failed else "run")
        of_tail = f" of P{history.quantile}" if history.quantile else ""
        if history.earlier:
            older = f"changes for the worse before {history.since}: {history.earlier}"
            return f"no newer change{of_tail} over {runs}; {older}{''.join(suspects)}"
        return f"no change{of_tail} over {runs}{''.join(suspects)}"

    which = ""
    if events[1:]:
        which = ", of the link" if events[0].is_of_link else ", the largest"
    return f"{counted(len(events), 'change')}{which}: {events[0].finding}"


def closing(history: History) -> list[str]:
    """Sentences on the error rate, the disturbed runs and what is left out."""
    texts = list[str]()
    if history.rho is not None:
        known = TAIL_RATES if history.quantile else RATES
        texts = [rates(history.rho, history.fewest, known), seen(history)]
    if history.disturbed:
        texts.append(
            f"disturbed, above {MOST_STEAL:.0%} of the CPU time withheld by the hypervisor: "
            f"{len(history.disturbed)} ({some([*history.disturbed])}); no alarm rests on them alone"
        )

    return [*texts, *history.skipped]


def rates(rho: float, series: int, known: Sequence[tuple[float, int, float]] = RATES) -> str:
    """The rate of false alarms at this correlation of neighbouring runs, of so many series that are
    tested together at the least, by the `known` ones."""
    text = f"Neighbouring runs have a correlation of {rho:.2f}"
    for most, fewest, alarms in known:
        if rho <= most and series >= fewest:
            return f"{text}: at most {alarms:.0%} of months without a change have an alarm."

    return f"{text}, above {known[-1][0]:g}: no error rates were measured there."


def seen(history: History) -> str:
    """The smallest changes that this history would show."""
    if history.quantile:
        return seen_tail(history)
    own = np.median(np.concatenate([each.smallest for each in history.judged]))
    if own == np.inf:
        return "With so few runs only large steps are found."
    common = [each.common for each in history.judged if np.isfinite(each.common)]
    texts = [f"of {np.expm1(max(common)):.1%} in all cases"] if common else []
    texts.append(f"of {np.expm1(own):.1%} in one case alone (the median case)")
    return f"Steps {' and '.join(texts)} are found within eight runs, about four times in five."


def seen_tail(history: History) -> str:
    """How long a change of the quantile must last."""
    longest = max((len(each.run_ids) for each in history.series), default=len(history.runs))
    age = runs_to_tell(longest, sum(len(each.steps) for each in history.judged))
    if not age:
        return f"So few runs show no change of P{history.quantile}."
    return (
        f"A change of P{history.quantile} is reported once a rank-sum test confirms it, after "
        f"{age} runs at the earliest."
    )


def seen_change(history: History) -> float:
    """The change of a case alone that is found within eight runs in four of five times, the median
    over the cases, a share; infinite if there are too few runs."""
    return float(np.expm1(np.median([series.smallest for series in history.series])))


def text_of(history: History, status: int) -> str:
    """The findings, and a table for each event; at the end the `status` with which a pipeline would
    end, if this one hides it."""
    bold = []
    if history.wrong:
        last, cases = [*history.wrong.items()][-1]
        bold.append(
            f"WRONG RESULTS: {counted(len(history.wrong), 'run')} that no correct run has "
            f"followed, the last {last.run.run_id}: {some(list(map(describe, cases)))}"
        )
    bold += [f"INCOMPLETE: {failed_text(own)}" for own in history.failed]
    machines = {run.machine_id for run in history.runs.values()}
    words = Counter(series.word for series in history.series)
    counts = ", ".join(f"{n} {word}" for word, n in words.most_common())
    state = (
        f"runs {len(history.runs)}, machines {len(machines)}, last run {[*history.runs][-1]}; "
        f"series: {counts or 'none changed'}."
    )
    tables = []
    for event in history.events:
        place = f"{event.series.place}, first at {event.run}."
        rows = [change.series.row(change.step) for change in event.changes[:MOST_ROWS]]
        shown = []
        if len(event.changes) > MOST_ROWS:
            shown = [f"The first {MOST_ROWS} of {len(event.changes)} cases; --json has all."]
        said = "\n".join([event.finding, place, *event.sentences, *shown])
        tables.append((said, plain_table(rows[0], rows)))

    hidden = []
    if status:
        what = "something got worse" if status == 1 else "the newest runs failed"
        hidden.append(
            f"The exit status is 0 although {what}: --since and --json, for pipelines, end with "
            f"{status}."
        )
    return lay_out([*bold, headline(history)], [state, *closing(history)], tables, hidden)


def plot(history: History, target: Path) -> None:
    """Draws the first series of each event into a file. Raises ResultError if the file cannot be
    written."""
    changed = list(dict.fromkeys(event.series for event in history.events))
    shown = changed[:MOST_PANELS]
    footer = (
        f"a series of each change, {len(shown)} of {len(changed)}; {changed[0].place}; "
        "a dot a run, lines: medians between changes; bands: 95 % intervals of a change's place"
    )
    with figure(target, len(shown), PANEL_IN, headline(history), footer) as panels:
        for axes, series in zip(panels, shown, strict=True):
            draw_series(axes, series)


def draw_series(axes: Any, series: Series) -> None:
    """A mark for each run, the median between changes, and each change with its word."""
    costs_us, run_ids = series.costs_us, series.run_ids
    role = "library" if series.case.library else "ours"
    axes.plot(costs_us, "o", markersize=3, color=role, alpha=0.5, markeredgewidth=0)
    axes.plot(series.levels, drawstyle="steps-mid", color=role)

    for row, step in enumerate(series.steps):
        at = step.first - 0.5
        is_right = at > len(costs_us) / 2
        axes.axvspan(step.low - 0.5, step.high - 0.5, color=step.word, alpha=0.18, linewidth=0)
        axes.axvline(at, color=step.word)
        axes.text(
            at - 0.5 if is_right else at + 0.5,
            1 - LABEL_SHARE * row,
            f"{step.word} {np.expm1(step.log_ratio[0]):+.1%}",
            transform=axes.get_xaxis_transform(),
            color=step.word,
            weight="bold",
            ha="right" if is_right else "left",
            va="top",
        )

    axes.margins(y=LABEL_SHARE * (1 + len(series.steps)))  # room for the words
    ticks = np.linspace(0, len(costs_us) - 1, 3, dtype=int)
    axes.set_xticks(ticks, [f"{time_of(run_ids[tick]):%Y-%m-%d}" for tick in ticks])
    axes.set_title(fold(f"{series.title}, us", 0.9 * PANEL_IN[0]))
