"""The picture of `fit`: measured times and fitted lines. The page of a run shows it too."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from reports.store.result import ResultError
from reports.tables.figure import dress, figure, fold, legend_below, styles_of
from reports.tables.sentences import algorithm_of
from reports.trends.alpha_beta import Fit, by_title, curves_us, interval, walsh_means


def plot(fits: Sequence[Fit], target: Path) -> None:
    """Draws time in us against size into an .svg or .png file, or a stream. Raises ResultError for
    another suffix, without a line, and if the file cannot be written."""
    groups = by_title(fits)
    if not groups:
        raise ResultError("nothing to draw: no case has the three sizes that a line takes")

    keys = list(dict.fromkeys((algorithm_of(fit), fit.variant) for fit in fits))
    styles = dict(zip(keys, styles_of(keys), strict=True))

    with figure(target, len(groups), 1, (7.5, 1 + 5.5 * len(groups))) as (made, axes):
        handles = {}
        for panel, (title, group) in zip(axes.flat, groups.items(), strict=True):
            for fit in group:
                style = styles[algorithm_of(fit), fit.variant]
                handles[fit.name] = panel.plot([], [], **style)[0]
                at = np.geomspace(fit.sizes_bytes[0], fit.sizes_bytes[-1], 256)
                lines_us = np.median(curves_us(fit, at), axis=0)
                panel.plot(at, lines_us, **style | {"marker": ""})
                times_us = np.array(fit.times_us)
                launches = len(times_us) if fit.interval else 0
                median, low, high = interval(walsh_means(times_us.T), launches)
                panel.errorbar(
                    fit.sizes_bytes,
                    median,
                    yerr=[median - low, high - median] if fit.interval else None,
                    **style | {"linestyle": "none", "elinewidth": 1, "markersize": 5},
                )
            panel.set_title(fold(title.replace("; ", "\n"), 90), fontsize=10, loc="left")
            panel.set_ylabel("time, us")
            dress(panel, sorted({size for fit in group for size in fit.sizes_bytes}))
        legend_below(made, [*handles.values()], [*handles])
        made.suptitle("Medians with 95 % intervals, and lines alpha + size / beta")
