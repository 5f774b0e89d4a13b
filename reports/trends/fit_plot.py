"""Draws fits, a panel for each title; the command `fit` and the dashboard use it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from reports.store.result import ResultError
from reports.tables.figure import Style, dress, figure, kind_of, styles_of
from reports.trends.fit import curves_us
from reports.trends.fit_records import Fit, by_title
from reports.trends.lines import interval, walsh_means

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot(fits: Sequence[Fit], target: Path | IO[str]) -> None:
    """Draws time in us against size into an .svg or .png file, or a stream.

    Raises ResultError for another suffix, without a line, and if the file cannot be written."""
    kind_of(target)
    groups = by_title([fit for fit in fits if fit.regimes])
    if not groups:
        raise ResultError("nothing to draw: no case has the three sizes that a line takes")
    algorithms = list(dict.fromkeys(fit.algorithm for _, group in groups for fit in group))
    styles = dict(zip(algorithms, styles_of(algorithms), strict=True))
    columns, rows = min(2, len(groups)), -(-len(groups) // 2)
    size = (7.5 * columns, 1 + 5.5 * rows)
    with figure(target, rows, columns, size) as (drawing, axes):
        for unused in axes.flat[len(groups):]:
            unused.set_axis_off()
        handles = {}
        for panel, (title, group) in zip(axes.flat, groups, strict=False):
            for fit in group:
                _draw(panel, fit, styles[fit.algorithm])
            panel.set_title(title.replace("; ", "\n"), fontsize=10, loc="left")
            panel.set_ylabel("time, us")
            dress(panel, sorted({size for fit in group for size in fit.sizes_bytes}))
            for handle, name in zip(*panel.get_legend_handles_labels(), strict=True):
                handles[name] = handle
        drawing.legend(handles.values(), handles, loc="outside lower center", ncols=5,
                       frameon=False)
        drawing.suptitle("Medians with 95 % intervals; lines alpha + size / beta, a bar where one "
                         "gives way to another")


def _draw(panel: Axes, fit: Fit, style: Style) -> None:
    """The medians and lines of one fit; a registered variant has hollow marks and a thin line."""
    is_plain = fit.variant in ("copied", "plain")
    line = {"color": style["color"], "zorder": style["zorder"]}
    times_us = np.array(fit.times_us)
    median, low, high = interval(walsh_means(times_us.T), len(times_us) * bool(fit.interval))
    bars = [np.maximum(median - low, 0), high - median] if fit.interval else None
    panel.errorbar(fit.sizes_bytes, median, yerr=bars, linestyle="none", elinewidth=1,
                   label=fit.name, marker=style["marker"], markersize=5,
                   markerfacecolor=style["color"] if is_plain else "white", **line)
    for regime in fit.regimes:
        at = np.geomspace(regime.from_bytes, regime.to_bytes, 64)
        panel.plot(at, np.median(curves_us(fit, at), axis=0),
                   linewidth=1.5 if is_plain else 0.9, **line)
    for before, after in pairwise(fit.regimes):
        at = np.geomspace(before.to_bytes, after.from_bytes, 3)
        panel.plot(at, np.median(curves_us(fit, at), axis=0), linewidth=0.9, linestyle=":",
                   marker="|", markevery=[1], markersize=14, markeredgewidth=1.6, **line)
