"""`history`: prints which cases changed over a folder of runs, at which run, and what else changed;
draws the series that changed, a panel each, as the dashboard does."""

from __future__ import annotations

import argparse
import textwrap
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from reports.store.result import ResultError, time_of
from reports.tables.console import WIDTH, wrapped
from reports.tables.figure import figure
from reports.trends.changes import MIN_RUNS, Step
from reports.trends.history import Event, History, Series, load

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_LISTED = 8  # series of an event
ROW = "  {2:>10} {3:>10} {4:>24}  {1:<8}{0}"  # the cells of `Series.row`
WORDS = ("worse", "better", "no change", "too few runs")
MOST_PANELS, COLUMNS = 12, 3
TITLE_COLUMNS = 44
LABEL_LINES = 8  # that the labels of changes take in turn
COLOURS = {"worse": "#D55E00", "better": "#0072B2"}  # Okabe and Ito's palette


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", type=Path,
                        help="a folder of runs, with those below it")
    parser.add_argument("--plot", metavar="OUT", type=Path,
                        help="draw the series that changed; .svg or .png")


def history(arguments: argparse.Namespace) -> int:
    """Prints the alarms and returns 0. Raises ResultError for a folder without runs, and if the
    picture cannot be drawn."""
    loaded = load(arguments.folder)
    if arguments.plot:
        plot(loaded.events, arguments.plot)
    print(text(loaded), end="")
    return 0


def text(history: History) -> str:
    """The alarms, and the number of series with each word, in at most 80 columns."""
    machines = {run.machine_id for run in history.runs.values()}
    opening = (f"runs {len(history.runs)}, machines {len(machines)}, series {len(history.series)}; "
               f"last run {list(history.runs)[-1]}")
    counts = Counter(series.word for series in history.series)
    closing = ", ".join(f"{word} {counts[word]}" for word in WORDS)
    closing += f" (less than {MIN_RUNS})" * (counts["too few runs"] > 0)
    closing += "; where nothing changes, 5 % of such histories have an alarm"
    lines = wrapped([opening, *history.skipped])
    for event in history.events:
        lines += ["", *_alarm(event)]
    return "\n".join([*lines, "", *wrapped([closing])]) + "\n"


def _alarm(event: Event) -> list[str]:
    words = Counter(step.word for _, step in event.changes)
    counts = ", ".join(f"{n} series {word}" for word, n in words.most_common())
    lines = wrapped([f"{counts}: machine {event.machine_id}, {event.benchmark}, "
                     f"first at {event.run}", *event.sentences])
    rows = [series.row(step) for series, step in event.changes[:MOST_LISTED]]
    for cells in [list(rows[0]), *(row.values() for row in rows)]:
        lines += textwrap.wrap(ROW.format(*cells), WIDTH, subsequent_indent=" " * 6)
    if len(event.changes) > MOST_LISTED:
        lines.append(f"  and {len(event.changes) - MOST_LISTED} more series")
    return lines


def plot(events: Sequence[Event], target: Path | IO[str]) -> None:
    """Draws the first twelve series that changed, the largest change of each event in turn, into an
    .svg or .png file or, as SVG, into a stream.

    Raises ResultError for another suffix, without a series, and if the file cannot be written."""
    by_rank = zip_longest(*([series for series, _ in event.changes] for event in events))
    changed = list(dict.fromkeys(series for rank in by_rank for series in rank if series))
    if not changed:
        raise ResultError("no series changed: there is nothing to draw")
    shown = changed[:MOST_PANELS]
    columns = min(len(shown), COLUMNS)
    rows = -(-len(shown) // columns)
    with figure(target, rows, columns, (4.6 * columns, 0.6 + 2.7 * rows)) as (drawing, axes):
        for panel, series in zip_longest(axes.flat, shown):
            if series:
                draw(panel, series)
            else:
                panel.set_visible(False)
        part = f"{len(shown)} of the " if len(changed) > len(shown) else ""
        drawing.suptitle(f"{part}{len(changed)} series that changed", fontsize=11)
        drawing.supylabel("cost, us", fontsize=9)


def draw(axes: Axes, series: Series) -> None:
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
        is_late = step.first > 0.6 * len(values)  # then its label stands to its left
        _draw_step(axes, step, is_late, number % LABEL_LINES)
        if min(step.first - ticks[-1], last - step.first) > len(values) / 5:
            ticks.append(step.first)
    ticks.append(last)
    axes.set_xticks(ticks, [f"{time_of(run_ids[tick]):%Y-%m-%d}" for tick in ticks], fontsize=8)
    axes.tick_params(axis="y", labelsize=8)
    axes.set_title(textwrap.fill(series.label, TITLE_COLUMNS), fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_step(axes: Axes, step: Step, is_late: bool, line: int) -> None:
    colour = COLOURS[step.word]
    axes.axvspan(step.low - 0.5, step.high - 0.5, color=colour, alpha=0.15, linewidth=0)
    axes.axvline(step.first - 0.5, color=colour, linewidth=1.2,
                 linestyle="-" if step.word == "worse" else "--")
    axes.annotate(f"{step.word} {np.expm1(step.size[0]):+.1%}",
                  (step.first - 0.5, 0.99 - 0.08 * line), xycoords=axes.get_xaxis_transform(),
                  xytext=(-4 if is_late else 4, 0), textcoords="offset points",
                  ha="right" if is_late else "left", va="top", fontsize=8, color=colour)
