"""A run of `bench.link` as a picture: a heat map for each kind of transfer, and bandwidth against
size."""

from __future__ import annotations

from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from reports.store.result import ResultError
from reports.store.schema import Result
from reports.tables.figure import figure, figure_title, round_ticks
from reports.tables.link import Matrix, measured, panels
from reports.tables.sentences import number, tick_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINES = {"push": ("#D55E00", "o"), "pull": ("#0072B2", "^"), "both_directions": ("#009E73", "D"),
         "local_copy": ("#7F7F7F", "s")}  # from Okabe and Ito's palette
COLUMNS = 3


def draw(result: Result, path: Path | IO[Any]) -> None:
    """Draws the run into `path`. Raises ResultError for a run without a measured case, or a file
    that cannot be written."""
    maps = panels(result)
    if not any(measured(result, name) for name in LINES):
        raise ResultError(f"{result.path} has no measured case to draw")
    rows, columns = -(-(len(maps) + 1) // COLUMNS), min(COLUMNS, len(maps) + 1)
    with figure(path, rows, columns, (5.2 * columns, 4.9 * rows), dpi=110) as (made, axes):
        places = list(axes.flat)
        for place, (title, unit, values) in zip(places, maps, strict=False):
            _draw_map(place, title, unit, values)
        _draw_sizes(places[len(maps)], result)
        for place in places[len(maps) + 1 :]:
            place.axis("off")
        made.suptitle(figure_title(result))


def _draw_map(axes: Axes, title: str, unit: str, values: Matrix) -> None:
    """Every cell shows its value, so that no reader depends on colours; bright is good. Local
    copies have no colour, because they are off the scale of the link."""
    is_rate = unit == "GB/s"
    link = values.copy()
    np.fill_diagonal(link, np.nan)
    # Rates start at 0; times span a factor of two or more, so that small differences look small.
    low, high = 0.0 if is_rate else float(np.nanmin(link)), float(np.nanmax(link))
    high = high if is_rate else max(high, 2 * low)
    axes.imshow(link, cmap="cividis" if is_rate else "cividis_r", vmin=low, vmax=high)
    for (row, column), value in np.ndenumerate(values):
        brightness = (link[row, column] - low) / (high - low)
        if not is_rate:
            brightness = 1 - brightness
        # Local copies stand on the white page, which a dark page inverts together with black text.
        colour = ("black" if np.isnan(brightness) else "white" if brightness < 0.5 else "#111111")
        text = "" if np.isnan(value) else number(float(value))
        axes.text(column, row, text, ha="center", va="center", color=colour,
                  fontsize=13 if len(values) < 5 else 9)
    axes.set_xticks(range(len(values)))
    axes.set_yticks(range(len(values)))
    axes.set_xlabel("to rank" if is_rate else "rank")
    axes.set_ylabel("from rank" if is_rate else "rank")
    transfer, _, detail = title.partition(": ")
    axes.set_title(f"{transfer}, {unit}" + (f"\n{detail}" if detail else ""), fontsize=10)


def _draw_sizes(axes: Axes, result: Result) -> None:
    """The median pair as a line, in a band from the slowest to the fastest."""
    for name, (colour, marker) in LINES.items():
        rates: dict[int, list[float]] = {}
        for case in sorted(measured(result, name), key=lambda case: case.size_bytes):
            rates.setdefault(case.size_bytes, []).append(case.alg_bw_gb_s or np.nan)
        if rates:
            axes.plot(list(rates), [np.median(of_size) for of_size in rates.values()],
                      color=colour, marker=marker, markersize=5, label=name.replace("_", " "))
            axes.fill_between(list(rates), [min(of_size) for of_size in rates.values()],
                              [max(of_size) for of_size in rates.values()], color=colour,
                              alpha=0.2, linewidth=0)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    sizes = sorted({case.size_bytes for name in LINES for case in measured(result, name)})
    axes.set_xticks(sizes, [tick_text(size) for size in sizes], fontsize=8)
    axes.minorticks_off()
    round_ticks(axes.yaxis)
    axes.grid(True, alpha=0.25)
    axes.set_xlabel("size, bytes")
    axes.set_title("GB/s against size: median pair, slowest to fastest", fontsize=10)
    axes.legend(frameon=False, fontsize=9)
