"""`history`: reads the runs of a folder as `series`; prints and draws the events in which they
change."""

import argparse
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import chain, compress, dropwhile
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from reports.store.folder import COPY, INCOMPLETE, WRONG, Contents, read_store
from reports.store.grouped import grouped
from reports.store.observations import (
    MIN_BLOCKS,
    MOST_STEAL,
    Entry,
    alike_of,
    in_one_state,
    world_of,
)
from reports.store.program import answer, complain
from reports.store.result import ResultError, by_time, time_of
from reports.store.schema import CaseHeader, Run
from reports.store.untrusted import printable
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
from reports.trends.changes import LEAST_BASE, judge
from reports.trends.series import Event, Series, series_of

# Before and after an event: a fact that changes more often than this among them is no cause.
FACT_RUNS, MOST_FACT_CHANGES = 10, 3
# Of 84 series, up to this correlation of neighbouring runs (docs/calibration.md): the share of
# months without a change that have an alarm at the most, and of steps of three spreads in one
# series that are told within eight runs at the least.
RATES = (0.0, 0.03, 0.95), (0.4, 0.03, 0.65), (0.7, 0.09, 0.35)
KEY = attrgetter("machine_id", "benchmark")  # of a run or a series
# The picture: its panels.
PANEL_IN = 4.5, 2.4
MOST_PANELS = 6
LABEL_SHARE = 0.1  # of its height, a line of words


@dataclass
class History:
    """The runs of a folder by run id, in order of time; sentences on what is left out; the share of
    the CPU time that was withheld from disturbed runs; what `standing_wrong` and `newest_failed`
    find; the series, and the events, largest first; the largest correlation of neighbouring runs,
    None if no series is long enough."""

    runs: dict[str, Run]
    skipped: list[str]
    disturbed: dict[str, float]
    wrong: dict[Entry, list[CaseHeader]]
    failed: list[list[Entry]]
    series: list[Series] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    rho: float | None = None

    @property
    def standing(self) -> list[Event]:
        """The changes that no later one has replaced, the worse ones first, then the newest."""
        events = [
            event
            for event in self.events
            if any(series.last_alarm is step for series, step in event.changes)
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
        keys = [(*place, *key[:-1], without_version(key[-1])) for key in entry.keys]
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


def history_of(contents: Contents) -> History:
    """The history of these runs, of which none may be usable."""
    left_out = [(entry.path, entry.left_out) for entry in contents.entries]
    skipped = left_out_lines([*contents.left_out, *left_out])
    entries = {entry.run.run_id: entry for entry in contents.entries if not entry.left_out}
    history = History(
        {run_id: entry.run for run_id, entry in entries.items()},
        skipped,
        {run_id: entry.disturbance for run_id, entry in entries.items() if entry.disturbance},
        standing_wrong(contents),
        newest_failed(contents),
    )

    for (variant, node, *_), group in grouped(
        entries.values(),
        lambda entry: (variant_of(contents, entry), entry.run.node, *alike_of(entry)),
    ).items():
        group, notes = in_one_state(group)
        skipped += [f"{node}: {note}" if node else note for note in notes]
        history.series += series_of(group, variant)

    n_results = sum(entry.statuses.count("ok") for entry in entries.values())
    if n_few := n_results - sum(len(entry.observed) for entry in entries.values()):
        skipped.append(
            f"left out, with fewer than {MIN_BLOCKS} blocks: {n_few} of {n_results} results"
        )

    add_events(history)
    return history


def add_events(history: History) -> None:
    """Series over the same runs are tested together; their steps at one run are one event."""
    long = (series for series in history.series if len(series.costs_us) > LEAST_BASE)
    panels = grouped(long, lambda each: (each.machine_id, each.node, each.benchmark, *each.run_ids))
    n_series = sum(map(len, panels.values()))
    facts_of = cache(lambda run_id: recorded_facts(history.runs[run_id]))
    for panel in panels.values():
        log_costs = np.log([series.costs_us for series in panel])
        verdicts, rho = judge(log_costs, n_series)
        history.rho = max(rho, history.rho or 0.0)
        for series, judged in zip(panel, verdicts, strict=True):
            series.steps, series.quiet = judged
            series.mark_disturbed(history.disturbed)
        steps = ((series, step) for series in panel for step in series.steps)
        for place, own in grouped(steps, lambda change: change[1].first).items():
            own.sort(key=lambda each: (bool(each[0].case.library), -abs(each[1].log_ratio[0])))
            ends = np.median([(step.low, step.high) for _, step in own], axis=0)
            low, high = ends.astype(int).tolist()
            run_ids = panel[0].run_ids
            start = max(low - FACT_RUNS, 0)
            facts = [*map(facts_of, run_ids[start : high + FACT_RUNS])]
            sides = run_ids[low - 1], run_ids[high]
            said = [*changes_of_facts(facts, low - start, high - start)]
            versions = [facts_of(side)["version"] for side in sides]
            commits = [re.sub(r".*\((\w+).*", r"\1", version) for version in versions]
            if len({*commits}) == 1:
                commits = []
            history.events.append(Event(run_ids[place], sides, own, len(panel), said, commits))

    history.events.sort(
        key=lambda event: (
            not event.is_alarm,
            -sum(abs(step.log_ratio[0]) for _, step in event.changes),
        )
    )


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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", type=Path, help="runs at any depth")
    parser.add_argument(
        "--since", metavar="RUN", help="only changes from this run id, or this day (2026-11-20), on"
    )
    parser.add_argument("--plot", metavar="OUT", type=Path, help="draw changes; .svg or .png")
    parser.epilog = (
        "With --since or --json the exit status is 1 if a series is worse or no correct run has "
        "followed wrong results, 3 if the newest runs are incomplete, otherwise 0; it is 2 if RUN "
        f"is unknown or DIR has no usable run. {parser.epilog}"
    )


def history(arguments: argparse.Namespace) -> int:
    """Prints the events, each with at most eight series, in at most 80 columns, or all as JSON.
    Returns 1 if a series is worse or wrong results stand, or else 3 if newest runs are incomplete,
    for --since and --json, otherwise 0. Raises ResultError for a folder without runs, for an
    unknown run, and if the picture cannot be drawn."""
    history = history_of(read_store(arguments.folder))
    if not history.runs:
        problem = f"{arguments.folder} has no usable run"
        raise ResultError("; ".join([problem, *history.skipped]))
    unusable = chain(history.wrong, *history.failed)
    later = known = {*history.runs, *(entry.run.run_id for entry in unusable)}
    if since := arguments.since:
        later = {run_id for run_id in known if run_id >= since}
        is_day = later and re.fullmatch(r"\d{4}-\d\d-\d\d", since)
        if since not in known and not is_day:
            raise ResultError(
                f"--since {since}: name the id of a usable run here, or a day that is not after "
                "all of them, such as 2026-11-20"
            )
        history.events = [event for event in history.events if event.run in later]
        history.series = [each for each in history.series if each.since(each.last_step) in later]
        history.wrong = {
            entry: cases for entry, cases in history.wrong.items() if entry.run.run_id in later
        }
        history.failed = [own for own in history.failed if own[-1].run.run_id in later]

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
            "cases": [series.label for series, _ in event.changes],
            "sentences": event.sentences,
        }
        for event in history.events
    ]
    answer(
        arguments,
        text_of(history),
        runs=len(history.runs),
        wrong=[entry.run.run_id for entry in history.wrong],
        incomplete=[entry.run.run_id for entry in chain(*history.failed)],
        left_out=history.skipped,
        disturbed=history.disturbed,
        events=events,
        series=[series.record() for series in history.series],
    )
    is_bad = history.wrong or any(
        step.word == "worse" and series.since(step) in later
        for series in history.series
        if (step := series.last_alarm)
    )
    if not (arguments.since or arguments.json):
        return 0
    return 1 if is_bad else 3 if history.failed else 0


def headline(history: History) -> str:
    """`1 change: All 198 cases take 5.0% longer since 17 Nov 2026`, or the number of changes and
    the largest."""
    events = [event for event in history.events if event.is_alarm]
    if not events:
        suspects = [f", but: {event.finding}" for event in history.events if event.is_suspect]
        runs = counted(len(history.runs), "complete run" if history.failed else "run")
        return f"no change over {runs}{''.join(suspects)}"

    largest = ", the largest" if events[1:] else ""
    return f"{counted(len(events), 'change')}{largest}: {events[0].finding}"


def closing(history: History) -> list[str]:
    """Sentences on the error rate, the disturbed runs and what is left out."""
    texts = [rates(history.rho)] if history.rho is not None else []
    if history.disturbed:
        texts.append(
            f"disturbed, above {MOST_STEAL:.0%} of the CPU time withheld by the hypervisor: "
            f"{len(history.disturbed)} ({some([*history.disturbed])}); no alarm rests on them alone"
        )

    return [*texts, *history.skipped]


def rates(rho: float) -> str:
    """The error rates at this correlation of neighbouring runs."""
    text = f"Neighbouring runs have a correlation of {rho:.2f}"
    for most, alarms, found in RATES:
        if rho <= most:
            return (
                f"{text}: up to {most:g}, at most {alarms:.0%} of months without a change have an "
                f"alarm, and at least {found:.0%} of steps of 3 spreads in one series are told "
                "within eight runs."
            )

    return f"{text}, above {RATES[-1][0]:g}: no error rates were measured there."


def seen_change(history: History) -> float:
    """The change that would be told within eight runs in half of the cases: three robust spreads,
    from the differences of neighbours, a share."""
    logs = (np.log(series.costs_us) for series in history.series if len(series.costs_us) > 1)
    spreads = [1.05 * np.median(np.abs(np.diff(each))) for each in logs]  # 1.4826 / sqrt(2)
    return float(np.expm1(3 * np.median(spreads)))


def text_of(history: History) -> str:
    """The findings, and a table for each event."""
    bold = [
        f"WRONG RESULTS: {counted(len(history.wrong), 'run')} that no correct run has followed, "
        f"the last {entry.run.run_id}: {some(list(map(describe, cases)))}"
        for entry, cases in [*history.wrong.items()][-1:]
    ]
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
        rows = [series.row(step) for series, step in event.changes[:8]]
        said = "\n".join([event.finding, place, *event.sentences])
        tables.append((said, plain_table(rows[0], rows)))

    return lay_out([*bold, headline(history)], [state, *closing(history)], tables, [])


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
    axes.set_title(fold(f"{series.label}, us", 0.9 * PANEL_IN[0]))
