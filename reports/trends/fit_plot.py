"""Fits as a picture: medians of the launches with their intervals, and the lines through them; a panel a view."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, pairwise
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from reports.store.result import ResultError
from reports.tables.figure import COLOURS, DASHES, MARKERS, Style, dress, figure, kind_of, style_of
from reports.trends.fit import Fit, by_view, curves_us
from reports.trends.lines import interval, walsh_means

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot(fits: Sequence[Fit], path: Path | IO[str]) -> None:
    """Draws time in us against size into an .svg or .png file, or a stream. Raises ResultError for another suffix,
    nothing to draw, or a file that cannot be written."""
    kind_of(path)
    views = by_view([fit for fit in fits if fit.regimes])
    if not views:
        raise ResultError("nothing to draw: no case has the three sizes that a line takes")
    styles = cycle(zip(COLOURS, MARKERS, DASHES, strict=True))
    names = list(dict.fromkeys(fit.algorithm for _, of_view in views for fit in of_view))
    of = {name: style_of(name, 1, styles) for name in names}
    columns, rows = min(2, len(views)), -(-len(views) // 2)
    with figure(path, rows, columns, (7.5 * columns, 1 + 5.5 * rows)) as (made, axes):
        for unused in axes.flat[len(views):]:
            unused.set_axis_off()
        for place, (view, of_view) in zip(axes.flat, views, strict=False):
            for fit in of_view:
                _draw(place, fit, of[fit.algorithm])
            place.set_title(view.replace("; ", "\n"), fontsize=10, loc="left")
            place.set_ylabel("time, us")
            dress(place, sorted({size for fit in of_view for size in fit.sizes_bytes}))
        handles = {name: handle for place in axes.flat for handle, name in zip(*place.get_legend_handles_labels(),
                                                                             strict=True)}
        made.legend(handles.values(), handles, loc="outside lower center", ncols=5, frameon=False)
        made.suptitle("Medians with 95 % intervals; lines alpha + size / beta, a bar where one gives way to another")


def _draw(place: Axes, fit: Fit, style: Style) -> None:
    """The registered variant's marks are hollow, and its line is thin."""
    is_plain = fit.variant in ("copied", "plain")
    mark = {"color": style["color"], "zorder": style["zorder"], "marker": style["marker"] or "h", "markersize": 5,
            "markerfacecolor": style["color"] if is_plain else "white"}
    times_us = np.array(fit.times_us)
    middle, low, high = interval(walsh_means(times_us.T), len(times_us) * bool(fit.interval))
    bars = [np.maximum(middle - low, 0), high - middle] if fit.interval else None
    place.errorbar(fit.sizes_bytes, middle, yerr=bars, linestyle="none", elinewidth=1, label=fit.name, **mark)
    for regime in fit.regimes:
        at = np.geomspace(regime.from_bytes, regime.to_bytes, 64)
        place.plot(at, np.median(curves_us(fit, at), axis=0), color=style["color"], linewidth=1.5 if is_plain else 0.9,
                   zorder=style["zorder"])
    for before, after in pairwise(fit.regimes):
        at = np.geomspace(before.to_bytes, after.from_bytes, 3)
        place.plot(at, np.median(curves_us(fit, at), axis=0), color=style["color"], linewidth=0.9, linestyle=":",
                   marker="|", markevery=[1], markersize=14, markeredgewidth=1.6, zorder=style["zorder"])
