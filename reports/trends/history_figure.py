"""The picture of `history`: the runs of the series that changed."""

import textwrap
from collections.abc import Sequence
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reports.store.result import time_of
from reports.tables.figure import COLOURS, figure

if TYPE_CHECKING:
    from reports.trends.series import Event, Series


def plot(events: "Sequence[Event]", target: Path) -> None:
    """Draws the first twelve series that changed, the largest change of each event in turn. Raises
    ResultError if the file cannot be written."""
    by_rank = zip_longest(*([series for series, _ in event.changes] for event in events))
    changed = list(dict.fromkeys(series for rank in by_rank for series in rank if series))
    shown = changed[:12]
    columns, rows = min(len(shown), 3), -(-len(shown) // 3)

    with figure(target, rows, columns, (4.6 * columns, 0.6 + 2.7 * rows)) as (made, axes):
        for panel, series in zip(axes.flat, shown, strict=False):
            draw(panel, series)
        for panel in axes.flat[len(shown) :]:
            panel.set_visible(False)
        made.suptitle(f"{len(shown)} of {len(changed)} series that changed", fontsize=11)
        made.supylabel("cost, us", fontsize=9)


def draw(axes: Any, series: "Series") -> None:
    """One panel: a mark for each run, the median between changes, and each change with its word."""
    costs_us, run_ids = series.costs_us, series.run_ids
    axes.plot(costs_us, "o", markersize=2.6, color="#555555")
    places = [0, *(step.first for step in series.steps), len(costs_us)]

    for start, stop in pairwise(places):
        axes.hlines(np.median(costs_us[start:stop]), start - 0.5, stop - 0.5, color="black")

    for step in series.steps:
        colour, at = COLOURS[step.word == "better"], step.first - 0.5
        axes.axvspan(step.low - 0.5, step.high - 0.5, color=colour, alpha=0.15, linewidth=0)
        axes.axvline(at, color=colour, linestyle="-" if step.word == "worse" else "--")
        text = f"{step.word} {np.expm1(step.log_ratio[0]):+.1%}"
        side = "right" if at > len(costs_us) / 2 else "left"
        axes.text(at, axes.get_ylim()[1], text, color=colour, fontsize=8, ha=side, va="top")

    ticks = np.linspace(0, len(costs_us) - 1, 4, dtype=int)
    axes.set_xticks(ticks, [f"{time_of(run_ids[tick]):%Y-%m-%d}" for tick in ticks], fontsize=8)
    axes.tick_params(axis="y", labelsize=8)
    axes.set_title(textwrap.fill(series.label, 44), fontsize=9)
