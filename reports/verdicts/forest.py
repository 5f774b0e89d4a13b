"""Comparisons as a forest plot: a row per cell with its ratio, 95 % interval and verdict, a panel
per comparison, the margin as a band. The verdict is a word and the marker's shape, not only colour.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from reports.tables.figure import figure
from reports.tables.sentences import size_text
from reports.verdicts.cells import Comparison
from reports.verdicts.verdict import AMBIGUOUS, FASTER, SAME, SLOWER, UNREPLICATED
from reports.verdicts.verdict_table import figures, label, ordered, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Marker, colour (Okabe and Ito's palette) and whether it is filled, as a difference is.
MARKS = {SLOWER: (">", "#D55E00", True), FASTER: ("<", "#0072B2", True),
         SAME: ("s", "#009E73", False), AMBIGUOUS: ("D", "#6F6F6F", False),
         UNREPLICATED: ("o", "#6F6F6F", False)}
CUT = (4, 5)  # matplotlib's caretleft and caretright: the interval goes on beyond the axis
ROW_INCHES, PANEL_INCHES, FRAME_INCHES = 0.21, 5.6, 1.9
NARROWEST, WIDEST = np.log(1.03), np.log(64)  # how far the axis reaches from 1
STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


def plot(comparisons: Sequence[Comparison], target: Path | IO[str]) -> None:
    """Draws into an .svg or .png file, or as SVG into a stream. Raises ResultError for another
    suffix and for a file that cannot be written."""
    panels = shown(comparisons)
    # A name has a row above its sizes, as if it were the size -1.
    cells = [cell for comparison in panels for cell in ordered(comparison.cells)]
    names = list(dict.fromkeys(cell.name for cell in cells))
    keys = {(cell.name, cell.size_bytes) for cell in cells} | {(name, -1) for name in names}
    rows = sorted(keys, key=lambda key: (names.index(key[0]), key[1]))
    inches = 1.5 + PANEL_INCHES * len(panels), FRAME_INCHES + ROW_INCHES * len(rows)
    with figure(target, 1, len(panels), inches, sharey=True, dpi=110) as (drawing, axes):
        _label_rows(axes[0, 0], rows)
        for panel, comparison in zip(axes[0], panels, strict=True):
            limits = _dress(panel, comparison)
            for cell in ordered(comparison.cells):
                _draw(panel, cell, rows.index((cell.name, cell.size_bytes)), limits)
        drawing.supxlabel("variant / baseline (log scale) with its 95 % interval; the band is the "
                          "margin", fontsize=9)


def _label_rows(axes: "Axes", rows: Sequence[tuple[str, int]]) -> None:
    texts = [name if size_bytes < 0 else size_text(size_bytes) for name, size_bytes in rows]
    axes.set_yticks(range(len(rows)), texts, fontsize=9)
    for (_, size_bytes), tick in zip(rows, axes.get_yticklabels(), strict=True):
        tick.set_fontweight("bold" if size_bytes < 0 else "normal")
    axes.set_ylim(len(rows), -1)


def _dress(axes: "Axes", comparison: Comparison) -> tuple[float, float]:
    """Draws axis and margin; returns the ends of the axis. All ratios and all but a tenth of the
    intervals lie within it; longer intervals are cut."""
    cells = comparison.cells
    ratios, lows, highs = (np.log(cells[name].dropna()) for name in ("ratio", "low", "high"))
    low = np.nanmin([ratios.min(), lows.quantile(0.1), -NARROWEST])
    high = np.nanmax([ratios.max(), highs.quantile(0.9), NARROWEST])
    room = 0.06 * (high - low)
    low, high = np.exp([max(low - room, -WIDEST), min(high + room, WIDEST)])
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    margin = 1 + comparison.margin
    axes.axvspan(1 / margin, margin, color="#DDDDDD", zorder=0, linewidth=0)
    axes.axvline(1, color="black", linewidth=0.9, zorder=1)
    scales = [1 + step * np.arange(-99, 100) for step in STEPS]
    scales += [2.0 ** np.arange(-6, 7, step) for step in (1, 2)]
    inside = [scale[(scale >= low) & (scale <= high)] for scale in scales]
    ticks = next((scale for scale in inside if len(scale) <= 7), inside[-1])
    axes.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks], fontsize=9)
    axes.minorticks_off()
    axes.grid(True, axis="x", alpha=0.25)
    axes.tick_params(axis="y", length=0, pad=8)
    axes.spines[["top", "left", "right"]].set_visible(False)
    axes.set_title(f"{label(comparison.variant)}\nagainst {label(comparison.baseline)}",
                   fontsize=10, loc="left")
    return low, high


def _draw(axes: "Axes", cell: Any, row: int, limits: tuple[float, float]) -> None:
    shape, colour, is_filled = MARKS[cell.verdict]
    if np.isfinite(cell.low):
        ends = np.clip([cell.low, cell.high], *limits)
        axes.plot(ends, [row, row], color=colour, linewidth=1.4, zorder=2)
        are_cut = cell.low < limits[0], cell.high > limits[1]
        for limit, is_cut, arrow in zip(limits, are_cut, CUT, strict=True):
            if is_cut:
                axes.plot(limit, row, marker=arrow, color=colour, markersize=6, clip_on=False,
                          zorder=3)
    if np.isfinite(cell.ratio):
        axes.plot(np.clip(cell.ratio, *limits), row, marker=shape, color=colour, markersize=5.5,
                  zorder=4, markerfacecolor=colour if is_filled else "white", clip_on=False)
    texts = figures(cell)
    axes.text(1.05, row, f"{texts['verdict']:13}{texts['ratio [95 %]']}", va="center", fontsize=8,
              transform=axes.get_yaxis_transform(), family="monospace",
              color=colour if is_filled else "#333333")
