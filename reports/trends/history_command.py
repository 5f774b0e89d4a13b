"""`history`: prints which cases changed over a folder of runs, at which run, and what else changed;
draws the series that changed, a panel each, as the dashboard does."""

import argparse
import textwrap
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import IO, Any

import numpy as np

from reports.store.result import ResultError, time_of
from reports.tables.figure import figure
from reports.tables.sentences import WIDTH, wrapped
from reports.trends.changes import MIN_RUNS
from reports.trends.history import Event, Series, load

MOST_LISTED = 8  # series of an event
WORDS = ("worse", "better", "no change", "too few runs")
MOST_PANELS, COLUMNS = 12, 3
LABEL_LINES = 8  # that the labels of changes take in turn
COLOURS = {"worse": "#D55E00", "better": "#0072B2"}  # Okabe and Ito's palette


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", type=Path,
                        help="a folder of runs, with those below it")
    parser.add_argument("--plot", metavar="OUT", type=Path,
                        help="draw the series that changed; .svg or .png")


def history(arguments: argparse.Namespace) -> int:
    """Prints the alarms, and the number of series with each word, in at most 80 columns; returns 0.
    Raises ResultError for a folder without runs, and if the picture cannot be drawn."""
    history = load(arguments.folder)
    if arguments.plot:
        plot(history.events, arguments.plot)
    runs, machines = list(history.runs), {run.machine_id for run in history.runs.values()}
    lines = wrapped([f"runs {len(runs)}, machines {len(machines)}, series {len(history.series)}; "
                     f"last run {runs[-1]}", *history.skipped])
    for event in history.events:
        words = Counter(step.word for _, step in event.changes)
        counts = ", ".join(f"{n} series {word}" for word, n in words.most_common())
        lines += ["", *wrapped([f"{counts}: machine {event.machine_id}, {event.benchmark}, "
                                f"first at {event.run}", *event.sentences])]
        rows = [series.row(step) for series, step in event.changes[:MOST_LISTED]]
        for cells in [list(rows[0]), *(row.values() for row in rows)]:
            row = "  {2:>10} {3:>10} {4:>24}  {1:<8}{0}".format(*cells)
            lines += textwrap.wrap(row, WIDTH, subsequent_indent=" " * 6)
        if len(event.changes) > MOST_LISTED:
            lines.append(f"  and {len(event.changes) - MOST_LISTED} more series")
    words = Counter(series.word for series in history.series)
    closing = (", ".join(f"{word} {words[word]}" for word in WORDS) + f" (less than {MIN_RUNS}); "
               "where nothing changes, 5 % of such histories have an alarm")
    print("\n".join([*lines, "", *wrapped([closing])]))
    return 0


def plot(events: Sequence[Event], target: Path | IO[str]) -> None:
    """Draws the first twelve series that changed, the largest change of each event in turn; into a
    stream as SVG. Raises ResultError without a series, and if the file cannot be written."""
    by_rank = zip_longest(*([series for series, _ in event.changes] for event in events))
    changed = list(dict.fromkeys(series for rank in by_rank for series in rank if series))
    if not changed:
        raise ResultError("no series changed: there is nothing to draw")
    shown = changed[:MOST_PANELS]
    columns = min(len(shown), COLUMNS)
    rows = -(-len(shown) // columns)
    with figure(target, rows, columns, (4.6 * columns, 0.6 + 2.7 * rows)) as (made, axes):
        for panel, series in zip(axes.flat, shown, strict=False):
            draw(panel, series)
        for panel in axes.flat[len(shown) :]:
            panel.set_visible(False)
        made.suptitle(f"{len(shown)} of {len(changed)} series that changed", fontsize=11)
        made.supylabel("cost, us", fontsize=9)


def draw(axes: Any, series: Series) -> None:
    """One panel: a mark for each run, the median between changes, and each change with its word."""
    values, run_ids = np.array(list(series.costs_us.values())), list(series.costs_us)
    steps = sorted(series.steps, key=lambda step: step.first)
    axes.plot(values, "o", markersize=2.6, color="#555555")
    for start, stop in pairwise([0, *(step.first for step in steps), len(values)]):
        level = np.median(values[start:stop])
        axes.plot([start - 0.5, stop - 0.5], [level, level], color="black", linewidth=1.5)
    low, high = np.percentile(values, [1, 99])
    axes.set_ylim(low - 0.15 * (high - low), high + 0.35 * (high - low))
    ticks, last = [0], len(values) - 1
    for number, step in enumerate(steps):
        colour, place = COLOURS[step.word], step.first - 0.5
        is_late = step.first > 0.6 * len(values)  # then its label stands to its left
        axes.axvspan(step.low - 0.5, step.high - 0.5, color=colour, alpha=0.15, linewidth=0)
        axes.axvline(place, color=colour, linewidth=1.2,
                     linestyle="-" if step.word == "worse" else "--")
        axes.annotate(f"{step.word} {np.expm1(step.size[0]):+.1%}",
                      (place, 0.99 - 0.08 * (number % LABEL_LINES)), color=colour, fontsize=8,
                      xycoords=axes.get_xaxis_transform(), textcoords="offset points",
                      xytext=(-4 if is_late else 4, 0), ha="right" if is_late else "left", va="top")
        if min(step.first - ticks[-1], last - step.first) > len(values) / 5:
            ticks.append(step.first)
    ticks.append(last)
    axes.set_xticks(ticks, [f"{time_of(run_ids[tick]):%Y-%m-%d}" for tick in ticks], fontsize=8)
    axes.tick_params(axis="y", labelsize=8)
    axes.set_title(textwrap.fill(series.label, 44), fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
