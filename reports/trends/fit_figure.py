"""The picture of `fit`: measured times and fitted lines."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reports.store.result import ResultError
from reports.tables.figure import dress, figure, label_ends, roles_of, shown_keys
from reports.tables.headline import lines_text
from reports.tables.sentences import algorithm_of, counted
from reports.trends.alpha_beta import Fit, by_title, curves_us, interval, walsh_means

PANEL_IN = 5.5, 3.6


def plot(fits: Sequence[Fit], target: Path) -> None:
    """Draws the library, `auto` and the best of ours into an .svg or .png file. Raises
    ResultError for another suffix, without a line, and if the file cannot be written."""
    groups = by_title(fits)
    if not groups:
        raise ResultError("nothing to draw: no case has the three sizes that a line takes")

    run_ids = sorted({run_id for fit in fits for run_id in fit.run_ids})
    footer = (
        f"dots: medians{' with 95 % intervals' * any(fit.interval for fit in fits)}; lines: alpha "
        f"+ size / beta; {counted(len(run_ids), 'launch')} up to {run_ids[-1][:10]} on machine "
        f"{fits[0].machine_id}"
    )
    with figure(target, len(groups), PANEL_IN, lines_text(fits), footer) as panels:
        for axes, (title, group) in zip(panels, groups.items(), strict=True):
            axes.set_title("Time in us: " + title.replace("; ", "\n"), fontsize=9)
            _draw(axes, group)


def _draw(axes: Any, group: Sequence[Fit]) -> None:
    """The shown fits of one panel: time in us against size."""
    by_key = {(algorithm_of(fit), fit.variant): fit for fit in group}
    costs_us = {
        key: dict(zip(fit.sizes_bytes, np.median(fit.times_us, axis=0).tolist(), strict=True))
        for key, fit in by_key.items()
    }
    shown = shown_keys(costs_us, ())
    for key, role in zip(shown, roles_of([algorithm for algorithm, _ in shown]), strict=True):
        fit = by_key[key]
        at = np.geomspace(fit.sizes_bytes[0], fit.sizes_bytes[-1], 256)
        axes.plot(at, np.median(curves_us(fit, at), axis=0), color=role, label=fit.name)
        times_us = np.array(fit.times_us)
        launches = len(times_us) if fit.interval else 0
        median, low, high = interval(walsh_means(times_us.T), launches)
        reach = [median - low, high - median] if launches else None
        axes.errorbar(fit.sizes_bytes, median, yerr=reach, fmt="o", color=role, markersize=4)

    dress(axes, sorted({size for fit in group for size in fit.sizes_bytes}))
    label_ends(axes)
