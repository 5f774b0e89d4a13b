"""The series that changed, a panel each: a mark a run, the level of each stretch, a line and a word at each change."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from reports.store.result import ResultError
from reports.tables.figure import figure, kind_of
from reports.trends.history import Change, Event, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_PANELS, COLUMNS = 12, 3
LONGEST_LABEL = 44
LABEL_WIDTH = 0.25  # of a change's label, as a share of the panel's
COLOURS = {"worse": "#D55E00", "better": "#0072B2"}  # of Okabe and Ito's palette; the word says it too


def plot(events: Sequence[Event], target: Path | IO[str]) -> None:
    """Draws the first twelve series of the events, the largest of each event in turn, into an .svg or .png file, or as
    SVG into a stream. Raises ResultError for another suffix, nothing to draw, or a file that cannot be written."""
    kind = kind_of(target)
    most = max((len(event.changes) for event in events), default=0)
    in_turn = [event.changes[place].series for place in range(most) for event in events if place < len(event.changes)]
    chosen = [one for number, one in enumerate(in_turn) if all(one is not other for other in in_turn[:number])]
    if not chosen:
        raise ResultError("no series changed: there is nothing to draw")
    shown = chosen[:MOST_PANELS]
    columns = min(len(shown), COLUMNS)
    rows = -(-len(shown) // columns)
    said = dict.fromkeys(("Date", "Creator", "Format", "Type")) if kind == "svg" else None
    with figure(target, rows, columns, (4.6 * columns, 0.6 + 2.7 * rows), format=kind, metadata=said) as (made, axes):
        for place, panel in enumerate(axes.flat):
            panel.set_visible(place < len(shown))
            if place < len(shown):
                draw(panel, shown[place], [change for event in events for change in event.changes
                                           if change.series is shown[place]])
        made.suptitle(f"{len(shown)} of the {len(chosen)} series that changed" if len(chosen) > len(shown)
                      else f"{len(chosen)} series that changed", fontsize=11)
        made.supylabel("cost, us", fontsize=9)


def draw(axes: Axes, series: Series, changes: Sequence[Change]) -> None:
    """One series: its runs by their number, its levels, its changes with the run before which they lie."""
    values = np.array(series.values)
    changes = sorted(changes, key=lambda change: change.first)
    axes.plot(values, "o", markersize=2.6, color="#555555")
    for start, stop in pairwise([0, *(change.first for change in changes), len(values)]):
        axes.plot([start - 0.5, stop - 0.5], [np.median(values[start:stop])] * 2, color="black", linewidth=1.5)
    low, high = np.percentile(values, [1, 99])
    axes.set_ylim(low - 0.15 * (high - low), high + 0.35 * (high - low))
    taken: list[float] = []  # of each line of labels, the right end of its last
    for change in changes:
        colour, late = COLOURS[change.word], change.first > 0.6 * len(values)
        left = change.first / len(values) - LABEL_WIDTH * late
        line = next((line for line, end in enumerate(taken) if end <= left), len(taken))
        taken[line:line + 1] = [left + LABEL_WIDTH]
        axes.axvspan(change.low - 0.5, change.high - 0.5, color=colour, alpha=0.15, linewidth=0)
        axes.axvline(change.first - 0.5, color=colour, linewidth=1.2, linestyle="-" if change.word == "worse" else "--")
        axes.annotate(f"{change.word} {change.ratio[0] - 1:+.1%}", (change.first - 0.5, 0.99 - 0.08 * line),
                      xytext=(-4 if late else 4, 0), xycoords=axes.get_xaxis_transform(), va="top", fontsize=8,
                      textcoords="offset points", ha="right" if late else "left", color=colour)
    ticks = sorted({0, *(change.first for change in changes), len(values) - 1})
    ticks = [tick for number, tick in enumerate(ticks) if number in (0, len(ticks) - 1)
             or min(tick - ticks[number - 1], ticks[-1] - tick) > len(values) / 5]
    axes.set_xticks(ticks, [f"{series.times[tick]:%Y-%m-%d}" for tick in ticks], fontsize=8)
    axes.tick_params(axis="y", labelsize=8)
    label = series.label
    axes.set_title(label if len(label) <= LONGEST_LABEL else f"{label[:LONGEST_LABEL - 3]}...", fontsize=9,
                   parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
