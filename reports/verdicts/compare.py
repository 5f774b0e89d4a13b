"""The command `compare`: prints the comparison of sides and draws it as a forest plot, a row per
cell with its ratio, 95 % interval and verdict. docs/compare.md explains the table."""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from reports.tables.figure import figure
from reports.tables.sentences import size_text
from reports.verdicts import comparison
from reports.verdicts.comparison import COMPARABLE, Comparison
from reports.verdicts.sides import notes_of, read_sides
from reports.verdicts.verdict import AMBIGUOUS, FASTER, SAME, SLOWER, UNREPLICATED
from reports.verdicts.verdict_table import FORMATS, figures, label, ordered, shown

# Marker, colour (Okabe and Ito's palette) and whether it is filled, as a difference is.
MARKS = {SLOWER: (">", "#D55E00", True), FASTER: ("<", "#0072B2", True),
         SAME: ("s", "#009E73", False), AMBIGUOUS: ("D", "#6F6F6F", False),
         UNREPLICATED: ("o", "#6F6F6F", False)}
NARROWEST, WIDEST = np.log(1.03), np.log(64)  # how far the axis reaches from 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sides", metavar="SIDE", nargs="+", help="one campaign's folder; or the "
                        "baseline, then the other sides: runs, folders of runs, quoted globs, "
                        "FOLDER/VARIANT of a campaign")
    add_allow(parser)
    parser.add_argument("--margin", metavar="PERCENT", type=percent, help="a difference up to this "
                        "is none (the campaign's, else 1)")
    parser.add_argument("--plot", metavar="OUT", type=Path, help="draw the ratios; .svg or .png")
    parser.add_argument("--format", choices=FORMATS, default="text")


def add_allow(parser: argparse.ArgumentParser) -> None:
    """Adds the option that permits a difference in a fact that must be equal."""
    parser.add_argument("--allow", metavar="KEY", action="append", default=[], choices=COMPARABLE,
                        help=f"compare although this differs: {', '.join(COMPARABLE)}; may be "
                        "repeated")


def percent(text: str) -> float:
    """A percentage as a share."""
    if not re.fullmatch(r"\d{1,2}(\.\d+)?", text) or not float(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a percentage between 0 and 100")
    return float(text) / 100


def compare(arguments: argparse.Namespace) -> int:
    """Prints the comparison and returns exit status 0. Raises Incomparable for sides that measured
    different things, ResultError for a file that cannot be read or drawn."""
    sides = read_sides(arguments.sides)
    comparisons = comparison.compare(sides, arguments.allow, arguments.margin)
    for note in notes_of(sides):
        print(f"reports: {note}", file=sys.stderr)
    if arguments.plot:
        plot(comparisons, arguments.plot)
    sys.stdout.write(FORMATS[arguments.format](comparisons))
    return 0


def plot(comparisons: Sequence[Comparison], target: Path | IO[str]) -> None:
    """Draws a panel per comparison into an .svg or .png file, or as SVG into a stream. A verdict is
    a word and a marker, not only a colour. Raises ResultError for a file that cannot be written."""
    panels = shown(comparisons)
    # A name has a row above its sizes, as if it were the size -1.
    cells = [cell for panel in panels for cell in ordered(panel.cells)]
    names = list(dict.fromkeys(cell.name for cell in cells))
    keys = {(cell.name, cell.size_bytes) for cell in cells} | {(name, -1) for name in names}
    rows = sorted(keys, key=lambda key: (names.index(key[0]), key[1]))
    inches = 1.5 + 5.6 * len(panels), 1.9 + 0.21 * len(rows)
    with figure(target, 1, len(panels), inches, sharey=True, dpi=110) as (drawing, axes):
        texts = [name if size_bytes < 0 else size_text(size_bytes) for name, size_bytes in rows]
        axes[0, 0].set_yticks(range(len(rows)), texts, fontsize=9)
        for (_, size_bytes), tick in zip(rows, axes[0, 0].get_yticklabels(), strict=True):
            tick.set_fontweight("bold" if size_bytes < 0 else "normal")
        axes[0, 0].set_ylim(len(rows), -1)
        for place, panel in zip(axes[0], panels, strict=True):
            _draw_axis(place, panel)
            for cell in ordered(panel.cells):
                _draw_cell(place, cell, rows.index((cell.name, cell.size_bytes)))
        drawing.supxlabel("variant / baseline (log scale) with its 95 % interval; the band is the "
                          "margin", fontsize=9)


def _draw_axis(axes: Any, panel: Comparison) -> None:
    """Draws axis and margin; all ratios and all but a tenth of the intervals fit on the axis."""
    logs = panel.cells[["ratio", "low", "high"]].apply(np.log)
    low = np.nanmin([logs.ratio.min(), logs.low.quantile(0.1), -NARROWEST])
    high = np.nanmax([logs.ratio.max(), logs.high.quantile(0.9), NARROWEST])
    room = 0.06 * (high - low)
    low, high = np.exp([max(low - room, -WIDEST), min(high + room, WIDEST)])
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    margin = 1 + panel.margin
    axes.axvspan(1 / margin, margin, color="#DDDDDD", zorder=0, linewidth=0)
    axes.axvline(1, color="black", linewidth=0.9, zorder=1)
    scales = [1 + step * np.arange(-99, 100) for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)]
    scales += [2.0 ** np.arange(-6, 7, step) for step in (1, 2)]
    inside = [scale[(scale >= low) & (scale <= high)] for scale in scales]
    ticks = next((scale for scale in inside if len(scale) <= 7), inside[-1])
    axes.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks], fontsize=9)
    axes.minorticks_off()
    axes.grid(True, axis="x", alpha=0.25)
    axes.tick_params(axis="y", length=0, pad=8)
    axes.spines[["top", "left", "right"]].set_visible(False)
    axes.set_title(f"{label(panel.variant)}\nagainst {label(panel.baseline)}", fontsize=10,
                   loc="left")


def _draw_cell(axes: Any, cell: Any, row: int) -> None:
    shape, colour, is_filled = MARKS[cell.verdict]
    limits = axes.get_xlim()
    if np.isfinite(cell.low):
        ends = np.clip([cell.low, cell.high], *limits)
        axes.plot(ends, [row, row], color=colour, linewidth=1.4, zorder=2)
        # An interval that goes on beyond the axis ends in matplotlib's caretleft or caretright.
        are_cut = cell.low < limits[0], cell.high > limits[1]
        for limit, is_cut, arrow in zip(limits, are_cut, (4, 5), strict=True):
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
