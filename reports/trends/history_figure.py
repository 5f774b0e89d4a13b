"""The picture of `history`: the runs of the series that changed."""

from collections.abc import Sequence
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reports.store.result import time_of
from reports.tables.figure import LABEL_PITCH, figure, fold
from reports.tables.sentences import counted

if TYPE_CHECKING:
    from reports.trends.series import Event, Series

PANEL_IN = 4.5, 2.4
MOST_PANELS = 6
WORDS_SHARE = 0.36  # of the width of a panel


def plot(events: "Sequence[Event]", target: Path) -> None:
    """Draws the first series that changed, the largest change of each event in turn, into a
    file. Raises ResultError if the file cannot be written."""
    by_rank = zip_longest(*([series for series, _ in event.changes] for event in events))
    changed = list(dict.fromkeys(series for rank in by_rank for series in rank if series))
    shown = changed[:MOST_PANELS]
    title = events[0].headline
    if len(events) > 1:
        title += f"; {counted(len(events) - 1, 'more event')}"
    footer = (
        f"{len(shown)} of {len(changed)} series that changed; {events[0].series.benchmark} "
        f"on {events[0].machine}; a dot a run, lines: medians between changes; bands: 95 % "
        "intervals of a change's place"
    )
    with figure(target, len(shown), PANEL_IN, title, footer) as panels:
        for axes, series in zip(panels, shown, strict=True):
            _draw(axes, series)


def _draw(axes: Any, series: "Series") -> None:
    """A mark for each run, the median between changes, and each change with its word."""
    costs_us, run_ids = series.costs_us, series.run_ids
    role = "library" if series.case.library else "ours"
    axes.plot(costs_us, "o", markersize=3, color=role, alpha=0.5, markeredgewidth=0)
    places = [0, *(step.first for step in series.steps), len(costs_us)]

    for start, stop in pairwise(places):
        axes.hlines(np.median(costs_us[start:stop]), start - 0.5, stop - 0.5, color=role)

    for row, step in enumerate(series.steps):
        at = step.first - 0.5
        is_right = at > (1 - WORDS_SHARE) * len(costs_us)
        axes.axvspan(step.low - 0.5, step.high - 0.5, color=step.word, alpha=0.18, linewidth=0)
        axes.axvline(at, color=step.word)
        axes.annotate(
            f"{step.word} {np.expm1(step.log_ratio[0]):+.1%}",
            (at, 1),
            (-4 if is_right else 4, -2 - LABEL_PITCH * row),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            color=step.word,
            weight="bold",
            bbox={"color": "page", "pad": 1},
            ha="right" if is_right else "left",
            va="top",
        )

    low, high = axes.get_ylim()
    axes.set_ylim(low, high + (0.1 + 0.1 * len(series.steps)) * (high - low))  # room for the words
    ticks = np.linspace(0, len(costs_us) - 1, 3, dtype=int)
    axes.set_xticks(ticks, [f"{time_of(run_ids[tick]):%Y-%m-%d}" for tick in ticks])
    axes.set_title(fold(f"{series.label}, us", 0.9 * PANEL_IN[0]))
