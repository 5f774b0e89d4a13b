"""Comparisons as a forest plot: a row a cell, its ratio with the 95 % interval on a log axis, the margin as a band, and
the verdict as the marker's shape and in words; a panel a comparison.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from reports.tables.figure import figure, kind_of
from reports.tables.sentences import size_text
from reports.verdicts.comparison import Cell, Comparison
from reports.verdicts.verdict import Verdict
from reports.verdicts.verdict_table import figures, grouped, label, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette, as in a run's picture; a filled shape is a difference.
MARKS = {Verdict.SLOWER: (">", "#D55E00", True), Verdict.FASTER: ("<", "#0072B2", True),
         Verdict.SAME: ("s", "#009E73", False), Verdict.AMBIGUOUS: ("D", "#6F6F6F", False),
         Verdict.UNREPLICATED: ("o", "#6F6F6F", False)}
CUT = (4, 5)  # matplotlib's caretleft and caretright: an interval that goes on beyond the axis
ROW_INCHES, PANEL_INCHES, FRAME_INCHES = 0.21, 5.6, 1.9
NARROWEST, WIDEST = np.log(1.03), np.log(64)  # how far the axis reaches from 1
STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


def plot(comparisons: Sequence[Comparison], target: Path | IO[str]) -> None:
    """Draws into an .svg or .png file, or as SVG into a stream. Raises ResultError for another suffix or a file that
    cannot be written."""
    kind = kind_of(target)
    panels = [(comparison, grouped(comparison)) for comparison, _ in shown(comparisons)]
    names = list(dict.fromkeys(name for _, groups in panels for name in groups))
    rows: list[tuple[str, int]] = []  # a group's name stands above its sizes, as if it were size -1
    for name in names:
        rows += sorted({(name, -1), *((name, cell.case.size_bytes) for _, g in panels for cell in g.get(name, []))})
    size = 1.5 + PANEL_INCHES * len(panels), FRAME_INCHES + ROW_INCHES * len(rows)
    # Without metadata two drawings of the same are the same, and an SVG within a page names no other site.
    said = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with figure(target, 1, len(panels), size, sharey=True, dpi=110, format=kind, metadata=said) as (made, axes):
        ticks = [name if size < 0 else size_text(size) for name, size in rows]
        axes[0, 0].set_yticks(range(len(rows)), ticks, fontsize=9)
        for (_, size_bytes), tick in zip(rows, axes[0, 0].get_yticklabels(), strict=True):
            tick.set_fontweight("bold" if size_bytes < 0 else "normal")
        axes[0, 0].set_ylim(len(rows), -1)
        for panel, (comparison, groups) in zip(axes[0], panels, strict=True):
            limits = _dress(panel, comparison)
            for name, cells in groups.items():
                for cell in cells:
                    _draw(panel, cell, rows.index((name, cell.case.size_bytes)), limits)
        made.supxlabel("variant / baseline (log scale) with its 95 % interval; the band is the margin", fontsize=9)


def _dress(axes: Axes, comparison: Comparison) -> tuple[float, float]:
    """The ends of the axis: all ratios are within, and all but a few very wide intervals, which are cut."""
    ratios, lows, highs = (np.log([end for end in ends if end] or [1.0]) for ends in zip(
        *((cell.ratio, cell.low, cell.high) for cell in comparison.cells), strict=True))
    low = min(ratios.min(), np.percentile(lows, 10), -NARROWEST)
    high = max(ratios.max(), np.percentile(highs, 90), NARROWEST)
    room = 0.06 * (high - low)
    low, high = np.exp([max(low - room, -WIDEST), min(high + room, WIDEST)])
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.axvspan(1 / (1 + comparison.margin), 1 + comparison.margin, color="#DDDDDD", zorder=0, linewidth=0)
    axes.axvline(1, color="black", linewidth=0.9, zorder=1)
    scales = [1 + step * np.arange(-99, 100) for step in STEPS] + [2.0 ** np.arange(-6, 7, step) for step in (1, 2)]
    inside = [scale[(scale >= low) & (scale <= high)] for scale in scales]
    ticks = next((scale for scale in inside if len(scale) <= 7), inside[-1])
    axes.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks], fontsize=9)
    axes.minorticks_off()
    axes.grid(True, axis="x", alpha=0.25)
    axes.tick_params(axis="y", length=0, pad=8)
    axes.spines[["top", "left", "right"]].set_visible(False)
    axes.set_title(f"{label(comparison.variant)}\nagainst {label(comparison.baseline)}", fontsize=10, loc="left")
    return low, high


def _draw(axes: Axes, cell: Cell, row: int, limits: tuple[float, float]) -> None:
    shape, colour, is_filled = MARKS[cell.verdict]
    if cell.low and cell.high:
        axes.plot(np.clip([cell.low, cell.high], *limits), [row, row], color=colour, linewidth=1.4, zorder=2)
        for end, is_cut, arrow in zip(limits, (cell.low < limits[0], cell.high > limits[1]), CUT, strict=True):
            if is_cut:
                axes.plot(end, row, marker=arrow, color=colour, markersize=6, clip_on=False, zorder=3)
    if cell.ratio is not None:
        axes.plot(np.clip(cell.ratio, *limits), row, marker=shape, color=colour, markersize=5.5, zorder=4,
                  markerfacecolor=colour if is_filled else "white", clip_on=False)
    _, _, _, ratio, verdict, *_ = figures(cell)
    axes.text(1.05, row, f"{verdict:13}{ratio}", transform=axes.get_yaxis_transform(), va="center", fontsize=8,
              family="monospace", color=colour if is_filled else "#333333")
