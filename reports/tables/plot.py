"""The picture of a sweep over sizes: time and busbw against size, a line for each algorithm."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reports.store.case import bus_factor, late_us
from reports.store.result import ResultError
from reports.store.schema import Case, Result
from reports.tables.figure import Line, dress, figure, figure_title, legend_below, lines_of
from reports.tables.rows import View, cost_us, named_in, shown_cases, views
from reports.tables.sentences import shape_words


def draw_sweep(result: Result, path: Path) -> None:
    """Draws the run into `path`: time in microseconds and busbw in GB/s. Raises ResultError for
    another suffix, a run without a measured case, or a file that cannot be written."""
    view = views(result)[0]
    cases = drawn_cases(result, view)

    if not cases:
        raise ResultError(f"{result.path} has no measured case to draw")

    lines = lines_of(cases, named_in(result))
    drawn = factors(view, lines, result.run.world["size"])
    with figure(path, 1, len(drawn), (8 if len(drawn) < 2 else 13, 5.8)) as (drawing, (panels,)):
        for axes, factor in zip(panels, drawn.values(), strict=True):
            draw_against_size(axes, lines, factor)
        operation = cases[0].datatype + f" {cases[0].redop}" * (cases[0].redop != "none")
        place = ["in place"] * cases[0].in_place
        title = ", ".join([operation, view[0], *shape_words(view[1]), *place])
        drawing.suptitle(f"{figure_title(result)}\n{title}")
        legend_below(drawing, *panels[0].get_legend_handles_labels())


def drawn_cases(result: Result, view: View) -> list[Case]:
    """The measured cases of a view."""
    return [
        case
        for case in shown_cases(result, view)
        if cost_us(case) is not None and case.size_bytes > 0
    ]


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


def interval(case: Case, factor: float = 0.0) -> NDArray[np.float64]:
    """The median and the ends of its interval, the median for a missing end: microseconds, or with
    a factor busbw in GB/s."""
    summary = case.time_us if factor else case.total_us or case.time_us
    assert summary
    median_us = summary.median
    times_us = np.array([median_us, summary.ci_low or median_us, summary.ci_high or median_us])
    return case.size_bytes * factor / 1e3 / np.maximum(times_us, 1e-9) if factor else times_us


def draw_against_size(axes: Any, lines: Sequence[Line], factor: float) -> None:
    """Time against size, or busbw if `factor` is not 0. The dashed line is the
    lowest bound of all algorithms, from the measured parts of the machine."""
    _draw_lines(axes, lines, factor)
    cases = [case for line in lines for case in line.cases]
    bounds_us: dict[int, float] = {}

    for case in cases:
        if case.bound_us:
            lowest_us = bounds_us.get(case.size_bytes, case.bound_us)
            bounds_us[case.size_bytes] = min(lowest_us, case.bound_us)

    if bounds_us:
        sizes, times_us = np.array(sorted(bounds_us.items())).T
        bounds = sizes * factor / times_us / 1e3 if factor else times_us
        axes.plot(sizes, bounds, "--_", color="#444444", linewidth=1.2, label="bound")

    axes.set_ylabel(axis_title(lines, factor))
    dress(axes, sorted({case.size_bytes for case in cases}))


def _draw_lines(axes: Any, lines: Sequence[Line], factor: float) -> None:
    """Each line with its intervals as a band."""
    from matplotlib.patheffects import withStroke  # not at the top: a table needs no matplotlib

    for number, line in enumerate(lines, 1):
        places = [case.size_bytes for case in line.cases]
        median, low, high = np.transpose([interval(case, factor) for case in line.cases])
        axes.plot(places, median, **line.style, label=line.name)
        axes.fill_between(places, low, high, color=line.style["color"], alpha=0.25, lw=0, zorder=2)
        if line.is_named:
            middle = number * len(places) // (len(lines) + 1)  # each name in another place
            axes.annotate(
                line.name,
                (places[middle], median[middle]),
                xytext=(0, 9),
                textcoords="offset points",
                ha="center",
                color=line.style["color"],
                weight="bold",
                zorder=6,
                path_effects=[withStroke(linewidth=3, foreground="white")],
            )
