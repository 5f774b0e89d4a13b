"""A run as a picture. A sweep over sizes shows time and busbw against size, and a routed all-to-all
time against load, with a line for each algorithm; other benchmarks have their own pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reports.store.case import FUSED_BENCHMARKS, bus_factor, late_us
from reports.store.result import ResultError
from reports.store.schema import Case, Result
from reports.tables import exposed_table, link, steps
from reports.tables.figure import (
    Line,
    draw_legend,
    draw_lines,
    dress,
    figure,
    figure_title,
    interval_us,
    kind_of,
    lines_of,
)
from reports.tables.rows import View, cost_us, imbalance, shown_cases, views
from reports.tables.sentences import WAYS, shape_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DRAW = {link.BENCHMARK: link.draw, **dict.fromkeys(FUSED_BENCHMARKS, exposed_table.draw),
        **dict.fromkeys(steps.BENCHMARKS, steps.draw)}


def own_picture(result: Result) -> Callable[[Result, Path | IO[Any]], None] | None:
    """The function that draws a run other than a sweep over sizes; None for a sweep."""
    is_routed = any(case.routing for case in result.cases)
    return DRAW.get(result.run.benchmark, _draw_routed if is_routed else None)


def plot(result: Result, path: Path | IO[Any]) -> None:
    """Draws the run into `path`, an .svg or .png file or a stream: time in microseconds and busbw
    in GB/s. Raises ResultError for another suffix, a run without a measured case, or a file that
    cannot be written."""
    kind_of(path)
    if draw := own_picture(result):
        return draw(result, path)
    view = (views(result) or [("isolated", None)])[0]
    cases = drawn_cases(result, view)
    if not cases:
        raise ResultError(f"{result.path} has no measured case to draw")
    lines = lines_of(cases)
    with figure(path, 1, 2, (13, 5.8)) as (made, ((times, bandwidths),)):
        drawn = factors(view, lines, result.run.world["size"]).values()
        for axes, factor in zip((times, bandwidths), drawn, strict=False):
            draw_against_size(axes, lines, factor)
        if len(drawn) == 1:
            ranks = "a late rank" if late_us(view[1]) else "one rank"
            bandwidths.text(0.5, 0.5, f"busbw means nothing with {ranks}", ha="center",
                            transform=bandwidths.transAxes)
            bandwidths.set_axis_off()
        library = next((f"; against {case.library}" for case in cases if case.library), "")
        work = [f"{cases[0].datatype} {cases[0].redop}", view[0], *shape_words(view[1])]
        place = ["in place"] * cases[0].in_place
        made.suptitle(f"{figure_title(result)}\n{', '.join(work + place)}{library}")
        draw_legend(made, times, 7)


def drawn_cases(result: Result, view: View) -> list[Case]:
    """The measured cases of a view."""
    return [case for case in shown_cases(result, view)
            if cost_us(case) is not None and case.size_bytes > 0]


def factors(view: View, lines: Sequence[Line], world_size: int) -> dict[str, float]:
    """The quantities to draw, with the bytes over each link for a byte of these cases: no busbw for
    one rank, nor with a late rank, because the time then includes the wait for it."""
    collective = next(case.collective for line in lines for case in line.cases)
    factor = 0.0 if late_us(view[1]) else bus_factor(collective, world_size)
    return {"time": 0.0, "busbw": factor} if factor else {"time": 0.0}


def axis_title(lines: Sequence[Line], factor: float) -> str:
    if factor:
        return "busbw, GB/s: collective alone"
    is_read = any(case.consume_us for line in lines for case in line.cases)
    return "time, us: collective + reading its result" if is_read else "time of one call, us"


def interval(case: Case, factor: float) -> NDArray[np.float64]:
    """The median and the ends of its interval: microseconds, or with a factor busbw in GB/s."""
    if factor:
        return case.size_bytes * factor / 1e3 / np.maximum(interval_us(case.time_us), 1e-9)
    return interval_us(case.total_us or case.time_us)


def draw_against_size(axes: Axes, lines: Sequence[Line], factor: float = 0.0,
                      scale: str = "log") -> None:
    """Time against size, or busbw if `factor` is not 0; `scale` is vertical. The dashed line is the
    lowest bound of all algorithms, from the measured parts of the machine."""
    draw_lines(axes, lines, lambda case: case.size_bytes, lambda case: interval(case, factor))
    cases = [case for line in lines for case in line.cases]
    sizes = sorted({case.size_bytes for case in cases})
    bounds_us = {size: min((case.bound_us for case in cases
                            if case.bound_us and case.size_bytes == size), default=None)
                 for size in sizes}
    bounds = [(size, size * factor / us / 1e3 if factor else us)
              for size, us in bounds_us.items() if us]
    if bounds:
        axes.plot(*zip(*bounds, strict=True), color="#444444", linestyle="--", linewidth=1.2,
                  marker="_" if len(bounds) == 1 else None)
        axes.annotate("bound", bounds[-1], xytext=(6, 0), textcoords="offset points", fontsize=8,
                      color="#444444", va="center", annotation_clip=False)
    axes.set_ylabel(axis_title(lines, factor))
    dress(axes, sizes, scale)


def _draw_routed(result: Result, path: Path | IO[Any]) -> None:
    """Time in microseconds against the load of the busiest rank, a panel for each way. Raises
    ResultError for a run without a measured case."""
    panels: dict[str, list[Case]] = {}
    for view in views(result):
        # auto is one of the others.
        cases = [case for case in shown_cases(result, view)
                 if case.algorithm != "auto" and cost_us(case) is not None]
        if cases:
            chained = ", chained" if view[0] == "chained" else ""
            panels[WAYS[view[1]["way"]] + chained] = sorted(cases, key=imbalance)
    if not panels:
        raise ResultError(f"{result.path} has no measured case to draw")
    shape = next(iter(panels.values()))[0].shape
    with figure(path, 1, len(panels), (4.6 * len(panels) + 0.6, 5.4)) as (made, axes):
        for place, (title, cases) in zip(axes[0], panels.items(), strict=True):
            draw_lines(place, lines_of(cases), imbalance,
                       lambda case: interval_us(case.total_us or case.time_us))
            skews = {imbalance(case): case.shape["skew"] for case in cases}
            place.set_xticks(list(skews),
                             [f"{load:.2f}\n{skew}" for load, skew in skews.items()])
            place.set_ylim(bottom=0)
            place.margins(x=0.12)
            place.grid(True, alpha=0.25)
            place.set_title(title, fontsize=11)
            place.set_xlabel("rows of the busiest rank / mean, and the skew")
        axes[0][0].set_ylabel("time, us: collective + reading its result")
        draw_legend(made, axes[0][0], 6)
        detail = ", ".join(f"{name} {value}" for name, value in shape.items()
                           if name not in ("way", "skew"))
        made.suptitle(f"{figure_title(result)}\n{detail}", fontsize=12)
