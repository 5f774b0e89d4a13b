"""A run of `bench.link` as a picture: a heat map for each way across the wire, and GB/s against size."""

from __future__ import annotations

from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from reports.store.result import ResultError
from reports.store.schema import Result
from reports.tables.figure import figure
from reports.tables.link import Matrix, measured, panels
from reports.tables.sentences import machine, number, size_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINES = {"push": ("#D55E00", "o"), "pull": ("#0072B2", "^"), "both_directions": ("#009E73", "D"),
         "local_copy": ("#7F7F7F", "s")}  # Okabe and Ito's palette
COLUMNS = 3


def draw(result: Result, path: Path | IO[Any]) -> None:
    """Draws the run into `path`. Raises ResultError for a run with nothing to draw, or a file that cannot be
    written."""
    maps = panels(result)
    if not any(measured(result, name) for name in LINES):
        raise ResultError(f"{result.path} has no measured case to draw")
    rows, columns = -(-(len(maps) + 1) // COLUMNS), min(COLUMNS, len(maps) + 1)
    with figure(path, rows, columns, (5.2 * columns, 4.9 * rows), dpi=110) as (made, axes):
        places = list(axes.flat)
        for place, (title, unit, values) in zip(places, maps, strict=False):
            _heat_map(place, title, unit, values)
        _against_size(places[len(maps)], result)
        for place in places[len(maps) + 1 :]:
            place.axis("off")
        made.suptitle(machine(result) + ("" if result.complete else " (INCOMPLETE)"))


def _heat_map(axes: Axes, title: str, unit: str, values: Matrix) -> None:
    """Each figure stands in its cell, so that colour says nothing alone. The brighter the better. A rank's own copy has
    no colour: it is not on the scale of the wire."""
    wire = values.copy()
    np.fill_diagonal(wire, np.nan)
    # From nothing to the most; of times from the least to twice that, or more: small differences look small.
    low, high = (0.0, float(np.nanmax(wire))) if unit == "GB/s" else (float(np.nanmin(wire)), float(np.nanmax(wire)))
    best, worst = (high, low) if unit == "GB/s" else (low, max(high, 2 * low))
    axes.imshow(wire, cmap="cividis" if unit == "GB/s" else "cividis_r", vmin=min(best, worst), vmax=max(best, worst))
    ranks = range(len(values))
    for row in ranks:
        for column in ranks:
            value = values[row, column]
            share = (wire[row, column] - worst) / (best - worst)
            # On the scale's colours, white or nearly black; on the page's, what the page writes in.
            colour = "black" if np.isnan(wire[row, column]) else "white" if share < 0.5 else "#111111"
            text = "" if np.isnan(value) else number(float(value))
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=13 if len(values) < 5 else 9)
    axes.set_xticks(ranks)
    axes.set_yticks(ranks)
    axes.set_xlabel("to rank" if unit == "GB/s" else "rank")
    axes.set_ylabel("from rank" if unit == "GB/s" else "rank")
    head, _, rest = title.partition(": ")
    axes.set_title(f"{head}, {unit}" + (f"\n{rest}" if rest else ""), fontsize=10)


def _against_size(axes: Axes, result: Result) -> None:
    """The band is from the slowest pair to the fastest, the line their median."""
    for name, (colour, marker) in LINES.items():
        cases = measured(result, name)
        sizes = sorted({case.size_bytes for case in cases})
        rates = [[case.alg_bw_gb_s or np.nan for case in cases if case.size_bytes == size] for size in sizes]
        if sizes:
            axes.plot(sizes, [np.median(each) for each in rates], color=colour, marker=marker, markersize=5,
                      label=name.replace("_", " "))
            axes.fill_between(sizes, [min(each) for each in rates], [max(each) for each in rates], color=colour,
                              alpha=0.2, linewidth=0)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    shown = sorted({case.size_bytes for name in LINES for case in measured(result, name)})
    axes.set_xticks(shown, [size_text(size).replace("iB", "").replace(" ", "") for size in shown], fontsize=8)
    axes.minorticks_off()
    low, high = axes.get_ylim()
    ticks = [tick for power in range(-4, 6) for step in (1, 2, 5) if low <= (tick := step * 10.0**power) <= high]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.grid(True, alpha=0.25)
    axes.set_xlabel("size, bytes")
    axes.set_title("GB/s against size: median pair, slowest to fastest", fontsize=10)
    axes.legend(frameon=False, fontsize=9)
