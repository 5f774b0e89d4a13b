"""A run as a picture. A sweep over sizes shows time and busbw against size, a line for each
algorithm; other benchmarks have their own pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from reports.store.case import bus_factor, late_us
from reports.store.result import ResultError
from reports.store.schema import Case, Result
from reports.tables import exposed_table, link, link_plot, routed_plot, steps
from reports.tables.figure import (
    Style,
    draw_legend,
    draw_lines,
    dress,
    figure,
    interval_us,
    kind_of,
)
from reports.tables.rows import cost_us, shown_cases, views
from reports.tables.sentences import ranks_text, shape_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def own_picture(result: Result) -> Callable[[Result, Path | IO[Any]], None] | None:
    """The function that draws a run other than a sweep over sizes; None for a sweep."""
    if link.is_of(result):
        return link_plot.draw
    if exposed_table.is_of(result):
        return exposed_table.draw
    if steps.is_of(result):
        return steps.draw
    return routed_plot.draw if any(case.routing for case in result.cases) else None


def plot(result: Result, path: Path | IO[Any]) -> None:
    """Draws the run into `path`, an .svg or .png file or a stream: time in microseconds and busbw
    in GB/s. Raises ResultError for another suffix, a run without a measured case, or a file that
    cannot be written."""
    kind_of(path)
    if draw := own_picture(result):
        return draw(result, path)
    mode, shape = (views(result) or [("isolated", None)])[0]
    cases = [case for case in shown_cases(result, (mode, shape))
             if cost_us(case) is not None and case.size_bytes > 0]
    if not cases:
        raise ResultError(f"{result.path} has no measured case to draw")
    late, size = late_us(shape) > 0, result.run.world["size"]
    factor = 0 if late else bus_factor(cases[0].collective, size)
    with figure(path, 1, 2, (13, 5.8)) as (made, ((times, bandwidths),)):
        draw_lines(times, cases, lambda case: case.size_bytes,
                   lambda case: interval_us(case.total_us or case.time_us))
        if factor:
            draw_lines(bandwidths, cases, lambda case: case.size_bytes,
                       lambda case: case.size_bytes * factor / 1e3 / interval_us(case.time_us))
        _draw_bound(times, bandwidths, cases, factor)
        is_read = any(case.consume_us for case in cases)
        times.set_ylabel("time, us: collective + reading its result" if is_read
                         else "time of one call, us")
        bandwidths.set_ylabel("busbw, GB/s: collective alone")
        if not factor:
            ranks = "a late rank" if late else "one rank"
            bandwidths.text(0.5, 0.5, f"busbw means nothing with {ranks}", ha="center",
                            transform=bandwidths.transAxes,
                            bbox={"facecolor": "white", "edgecolor": "none"})
        for axes in (times, bandwidths):
            dress(axes, sorted({case.size_bytes for case in cases}))
        made.suptitle(_title(result, cases, ", ".join([mode, *shape_words(shape)])))
        draw_legend(made, times, 7)


def _draw_bound(times: Axes, bandwidths: Axes, cases: list[Case], factor: float) -> None:
    """The lowest bound of all algorithms at each size, from the measured parts of the machine."""
    bounds: dict[int, float] = {}
    for case in sorted(cases, key=lambda case: case.size_bytes):
        if case.bound_us:
            lowest = bounds.get(case.size_bytes, case.bound_us)
            bounds[case.size_bytes] = min(lowest, case.bound_us)
    if not bounds:
        return
    style: Style = {"color": "#444444", "linestyle": "--", "linewidth": 1.2, "markersize": 14,
                    "label": "bound (collective alone)", "marker": "_" if len(bounds) == 1 else ""}
    times.plot(list(bounds), list(bounds.values()), **style)
    if factor:
        busbws = [size * factor / us / 1e3 for size, us in bounds.items()]
        bandwidths.plot(list(bounds), busbws, **style)


def _title(result: Result, cases: list[Case], view: str) -> str:
    run, case = result.run, cases[0]
    ranks = run.world.get("ranks", [])
    device = f" on {ranks[0].get('device')} {ranks[0].get('arch', '')}".rstrip() if ranks else ""
    library = next((f", against {case.library}" for case in cases if case.library), "")
    place = ", in place" if case.in_place else ""
    unfinished = "" if result.complete else " (INCOMPLETE)"
    return (f"{run.benchmark}: {ranks_text(run.world['size'])}{device}{library}; "
            f"{case.datatype} {case.redop}, {view}{place}{unfinished}")
