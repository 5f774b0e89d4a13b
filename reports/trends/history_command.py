"""`history`: prints which cases changed over a folder of runs, at which run, and what else changed.
"""

from __future__ import annotations

import argparse
import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from reports.tables.console import WIDTH, wrapped
from reports.trends.changes import MIN_RUNS
from reports.trends.events import Change, Event, find_events, word_of
from reports.trends.history import History, load

MOST_LISTED = 8  # series of an event
WORDS = ("worse", "better", "no change", "too few runs")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `history`."""
    parser.add_argument("folder", metavar="DIR", type=Path,
                        help="a folder of runs, with those below it")
    parser.add_argument("--plot", metavar="OUT", type=Path,
                        help="draw the series that changed; .svg or .png")


def history(arguments: argparse.Namespace) -> int:
    """Prints the alarms and returns 0. Raises ResultError for a folder without runs, and if the
    picture cannot be drawn."""
    loaded = load(arguments.folder)
    events = find_events(loaded)
    if arguments.plot:
        from reports.trends.history_plot import plot

        plot(events, arguments.plot)
    print(text(loaded, events), end="")
    return 0


def text(history: History, events: Sequence[Event]) -> str:
    """The alarms, and the number of series with each word, in at most 80 columns."""
    n_machines = len({run.machine_id for run in history.runs.values()})
    *_, last_run = history.runs
    opening = (f"{_count(len(history.runs), 'run')} of {_count(n_machines, 'machine')}, "
               f"{len(history.series)} series; when last run: {last_run}")
    counts = Counter(word_of(series, events) for series in history.series)
    closing = ", ".join(f"{word} {counts[word]}" for word in WORDS)
    closing += f" (less than {MIN_RUNS})" * (counts["too few runs"] > 0)
    closing += "; where nothing changes, 5 % of such histories have an alarm"
    lines = wrapped([opening, *history.skipped])
    for event in events:
        lines += ["", *_alarm(event)]
    return "\n".join([*lines, "", *wrapped([closing])]) + "\n"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _alarm(event: Event) -> list[str]:
    words = Counter(change.word for change in event.changes)
    counts = ", ".join(f"{n} series {word}" for word, n in words.most_common())
    recorded = [f"changed there: {sentence}" for sentence in event.recorded]
    lines = wrapped([f"{counts}: machine {event.machine_id}, {event.benchmark}, "
                     f"first at {event.run}", f"between {event.low} and {event.high} (95 %)",
                     *(recorded or ["nothing recorded changed there"])])
    lines.append(f"  {'before us':>10} {'after us':>10} {'change [95 %]':>24}  {'word':<7}case")
    for change in event.changes[:MOST_LISTED]:
        lines += _row(change)
    if len(event.changes) > MOST_LISTED:
        lines.append(f"  and {len(event.changes) - MOST_LISTED} more series")
    return lines


def _row(change: Change) -> list[str]:
    """Figures and case; a case's name that does not fit on the line follows below, uncut."""
    before, after, size = change.figures
    line = f"  {before:>10} {after:>10} {size:>24}  {change.word:<7}"
    label, indent = change.series.label, " " * 6
    if len(line + label) <= WIDTH:
        return [line + label]
    below = textwrap.wrap(label, WIDTH, initial_indent=indent, subsequent_indent=indent)
    return [line.rstrip(), *below]
