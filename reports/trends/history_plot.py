"""Draws the series that changed, a panel each; the command `history` and the dashboard use it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from reports.store.result import ResultError
from reports.tables.figure import figure, kind_of
from reports.trends.events import Change, Event
from reports.trends.history import Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_PANELS, COLUMNS = 12, 3
LONGEST_LABEL = 44
LABEL_WIDTH = 0.25  # of a change's label, as a share of the panel's width
COLOURS = {"worse": "#D55E00", "better": "#0072B2"}  # Okabe and Ito's palette


def plot(events: Sequence[Event], target: Path | IO[str]) -> None:
    """Draws the first twelve series that changed, the largest change of each event in turn, into an
    .svg or .png file or, as SVG, into a stream.

    Raises ResultError for another suffix, without a series, and if the file cannot be written."""
    kind = kind_of(target)
    ranked = [(rank, event.changes[rank].series) for event in events
              for rank in range(len(event.changes))]
    ranked.sort(key=lambda item: item[0])
    changed = list({id(series): series for _, series in ranked}.values())
    if not changed:
        raise ResultError("no series changed: there is nothing to draw")
    shown = changed[:MOST_PANELS]
    columns = min(len(shown), COLUMNS)
    rows = -(-len(shown) // columns)
    # Without the date, so that the same history gives the same SVG.
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type")) if kind == "svg" else None
    with figure(target, rows, columns, (4.6 * columns, 0.6 + 2.7 * rows), format=kind,
                metadata=metadata) as (drawing, axes):
        for panel in axes.flat[len(shown):]:
            panel.set_visible(False)
        for panel, series in zip(axes.flat, shown, strict=False):
            draw(panel, series, [change for event in events for change in event.changes
                                 if change.series is series])
        part = f"{len(shown)} of the " if len(changed) > len(shown) else ""
        drawing.suptitle(f"{part}{len(changed)} series that changed", fontsize=11)
        drawing.supylabel("cost, us", fontsize=9)


def draw(axes: Axes, series: Series, changes: Sequence[Change]) -> None:
    """One panel: a mark for each run, the median between changes, and each change with its word."""
    values = np.array(series.values)
    changes = sorted(changes, key=lambda change: change.first)
    axes.plot(values, "o", markersize=2.6, color="#555555")
    for start, stop in pairwise([0, *(change.first for change in changes), len(values)]):
        level = np.median(values[start:stop])
        axes.plot([start - 0.5, stop - 0.5], [level, level], color="black", linewidth=1.5)
    low, high = np.percentile(values, [1, 99])
    axes.set_ylim(low - 0.15 * (high - low), high + 0.35 * (high - low))
    line_ends: list[float] = []  # the right end of the last label on each line of labels
    for change in changes:
        is_late = change.first > 0.6 * len(values)  # then its label stands to its left
        left = change.first / len(values) - LABEL_WIDTH * is_late
        free = [line for line, end in enumerate(line_ends) if end <= left]
        line = free[0] if free else len(line_ends)
        line_ends[line : line + 1] = [left + LABEL_WIDTH]
        _draw_change(axes, change, is_late, line)
    last = len(values) - 1
    ticks = [0]
    for change in changes:
        if min(change.first - ticks[-1], last - change.first) > len(values) / 5:
            ticks.append(change.first)
    ticks.append(last)
    axes.set_xticks(ticks, [f"{series.times[tick]:%Y-%m-%d}" for tick in ticks], fontsize=8)
    axes.tick_params(axis="y", labelsize=8)
    label = series.label
    if len(label) > LONGEST_LABEL:
        label = f"{label[:LONGEST_LABEL - 3]}..."
    axes.set_title(label, fontsize=9, parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_change(axes: Axes, change: Change, is_late: bool, line: int) -> None:
    colour = COLOURS[change.word]
    axes.axvspan(change.low - 0.5, change.high - 0.5, color=colour, alpha=0.15, linewidth=0)
    axes.axvline(change.first - 0.5, color=colour, linewidth=1.2,
                 linestyle="-" if change.word == "worse" else "--")
    axes.annotate(f"{change.word} {change.ratio[0] - 1:+.1%}",
                  (change.first - 0.5, 0.99 - 0.08 * line), xycoords=axes.get_xaxis_transform(),
                  xytext=(-4 if is_late else 4, 0), textcoords="offset points",
                  ha="right" if is_late else "left", va="top", fontsize=8, color=colour)
