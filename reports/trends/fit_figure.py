"""The picture of `fit`: measured times and fitted lines. The page of a run shows it too."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np

from reports.store.result import ResultError
from reports.tables.figure import Style, dress, figure, fold, legend_below, styles_of
from reports.trends import alpha_beta
from reports.trends.alpha_beta import Fit, by_title, curves_us


def plot(fits: Sequence[Fit], target: Path | IO[str]) -> None:
    """Draws time in us against size into an .svg or .png file, or a stream. Raises ResultError for
    another suffix, without a line, and if the file cannot be written."""
    groups = by_title([fit for fit in fits if fit.regimes])
    if not groups:
        raise ResultError("nothing to draw: no case has the three sizes that a line takes")
    keys = list(dict.fromkeys((fit.algorithm, fit.variant) for fit in fits if fit.regimes))
    styles = dict(zip(keys, styles_of(keys), strict=True))
    columns, rows = min(2, len(groups)), -(-len(groups) // 2)
    with figure(target, rows, columns, (7.5 * columns, 1 + 5.5 * rows)) as (made, axes):
        handles = {}
        for panel, (title, group) in zip(axes.flat, groups.items(), strict=False):
            for fit in group:
                style = styles[fit.algorithm, fit.variant]
                handles[fit.name] = panel.plot([], [], **style)[0]
                _draw(panel, fit, style)
            panel.set_title(fold(title.replace("; ", "\n"), 90), fontsize=10, loc="left")
            panel.set_ylabel("time, us")
            dress(panel, sorted({size for fit in group for size in fit.sizes_bytes}))
        for panel in axes.flat[len(groups) :]:
            panel.set_axis_off()
        legend_below(made, [*handles.values()], [*handles])
        made.suptitle("Medians with 95 % intervals, lines alpha + size / beta, bars at breaks")


def _draw(panel: Any, fit: Fit, style: Style) -> None:
    """Draws the medians, the lines and the breaks of one fit."""
    line = {"color": style["color"], "zorder": style["zorder"]}
    times_us = np.array(fit.times_us)
    median, low, high = alpha_beta.interval(
        alpha_beta.walsh_means(times_us.T), len(times_us) * bool(fit.interval)
    )
    bars = [median - low, high - median] if fit.interval else None
    panel.errorbar(
        fit.sizes_bytes,
        median,
        yerr=bars,
        linestyle="none",
        elinewidth=1,
        marker=style["marker"],
        markersize=5,
        **line,
    )
    at = np.geomspace(fit.sizes_bytes[0], fit.sizes_bytes[-1], 256)
    panel.plot(
        at,
        np.median(curves_us(fit, at), axis=0),
        linestyle=style["linestyle"],
        linewidth=min(style["linewidth"], 1.8),
        **line,
    )
    breaks = [
        np.sqrt(before.to_bytes * after.from_bytes) for before, after in pairwise(fit.regimes)
    ]
    panel.plot(
        breaks,
        np.median(curves_us(fit, breaks), axis=0),
        "|",
        markersize=14,
        markeredgewidth=1.6,
        **line,
    )
