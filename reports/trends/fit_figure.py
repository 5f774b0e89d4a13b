"""The picture of `fit`: measured times, the lines of the two regimes, n_1/2 and crossovers."""

from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from reports.tables.figure import dress, figure, label_ends, roles_of
from reports.tables.sentences import counted, number, tick_text
from reports.trends.alpha_beta import Fit, Regime, lines_through
from reports.trends.crossovers import Crossover
from wiretax.common.grouped import grouped
from wiretax.record.stats import Interval

PANEL_IN = 6.2, 3.8
MOST_LINES = 6  # of a panel
UNNAMED = "_"  # label_ends writes no label beside such a line


def draw(fits: Sequence[Fit], crossovers: Sequence[Crossover], target: Path) -> None:
    """Draws a panel for each title into an .svg or .png file. Raises ResultError for another suffix
    or a file that cannot be written."""
    groups = grouped(fits, attrgetter("title"))
    run_ids = sorted({run_id for fit in fits for run_id in fit.run_ids})
    footer = (
        "dots: medians over launches; lines: alpha + size / beta; diamonds: n_1/2, where it is "
        "among the sizes of its line; bands: a crossover's 95 % interval; "
        f"{counted(len(run_ids), 'launch')} up to {run_ids[-1][:10]} on machine "
        f"{fits[0].machine_id}"
    )
    with figure(target, len(groups), PANEL_IN, finding(fits, crossovers), footer) as panels:
        for axes, (title, group) in zip(panels, groups.items(), strict=True):
            axes.set_title(f"Time in us: {title}", fontsize=9)
            own = [each for each in crossovers if each.title == title]
            draw_panel(axes, shown_fits(group), own)


def finding(fits: Sequence[Fit], crossovers: Sequence[Crossover]) -> str:
    """The first crossover, or the first algorithm's line."""
    for each in crossovers:
        if each.size_bytes:
            below, above = each.faster_below or "", each.faster_above or ""
            return f"{above} overtakes {below} at {tick_text(round(each.size_bytes[0]))}"
    regime = fits[0].regimes[-1]
    if regime.beta_gb_s is None:
        return f"{fits[0].name}: beta is not resolved"
    return f"{fits[0].name}: beta is {number(regime.beta_gb_s[0])} GB/s"


def shown_fits(fits: Sequence[Fit]) -> list[Fit]:
    """The library and `auto`, then what is fastest at the largest size, in few lines."""

    def place(fit: Fit) -> tuple[bool, float]:
        return fit.algorithm not in ("library", "auto"), np.median(fit.times_us, axis=0)[-1]

    return sorted(fits, key=place)[:MOST_LINES]


def draw_panel(axes: Any, fits: Sequence[Fit], crossovers: Sequence[Crossover]) -> None:
    names = {fit.name for fit in fits}
    for each in crossovers:
        if each.size_bytes and {each.first, each.second} <= names:
            at_bytes, *ends = each.size_bytes
            axes.axvline(at_bytes, color="quiet", linewidth=0.8, linestyle=":", label=UNNAMED)
            if None not in ends:
                axes.axvspan(*ends, color="quiet", alpha=0.15, linewidth=0)

    for fit, role in zip(fits, roles_of([fit.algorithm for fit in fits]), strict=True):
        sizes, median_us = np.array(fit.sizes_bytes), np.median(fit.times_us, axis=0)
        axes.plot(sizes, median_us, "o", color=role, markersize=3.5, label=UNNAMED)
        at, line_us = list[float](), list[float]()
        for regime in fit.regimes:
            own = (sizes >= regime.from_bytes) & (sizes <= regime.to_bytes)
            [alpha_us], [slope] = lines_through(sizes[own], median_us[None, own])
            along = np.geomspace(regime.from_bytes, regime.to_bytes, 64)
            gap = [np.nan] if at else []
            at += [*gap, *along]
            line_us += [*gap, *(alpha_us + slope * along)]
            draw_half(axes, regime, role)
        axes.plot(at, line_us, color=role, linewidth=1.4, label=fit.name)

    dress(axes, sorted({size for fit in fits for size in fit.sizes_bytes}))
    label_ends(axes, 24)


def draw_half(axes: Any, regime: Regime, role: str) -> None:
    """n_1/2 on its line: there a call takes twice alpha."""
    half: Interval | None = regime.half_bytes
    if half and regime.alpha_us and not regime.is_half_extrapolated:
        time_us = 2 * regime.alpha_us[0]
        axes.plot([half[0]], [time_us], "D", color=role, markersize=6, label=UNNAMED)
        if half[1] is not None:
            axes.plot(half[1:], [time_us] * 2, color=role, linewidth=2.5, label=UNNAMED)
