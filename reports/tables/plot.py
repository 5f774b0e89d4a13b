"""The picture of a sweep over sizes: the first two of speed-up, bus bandwidth and time."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from reports.tables.figure import DrawnLine, dress, figure, label_ends, line_name, lines_of
from reports.tables.headline import headline, points
from reports.tables.rows import cost_us, named_in, shown_cases, software_notes, speed_ups, views
from reports.tables.sentences import machine, shape_words, start_time, type_text
from wiretax.record.case import bus_factor, is_own_benchmark, is_own_work, late_us
from wiretax.record.result import ResultError
from wiretax.record.schema import Case, Result

PANEL_IN = 4.75, 3.6


class Quantity(NamedTuple):
    """What a chart shows: the median of a case and the ends of its interval, NaN where one is
    missing; and the lowest bound of all algorithms at each size, from the measured parts of the
    machine."""

    title: str
    unit: str
    of: Callable[[Any], tuple[float, float, float]]
    bounds: dict[int, float]


def draw_sweep(result: Result, path: Path) -> None:
    """Draws the run into `path`. Raises ResultError for another suffix, a run without a measured
    case, or a file that cannot be written."""
    lines, quantities = drawn_of(result)
    if not lines:
        why = "has no measured case to draw"
        if any(map(is_own_work, result.cases)):
            why = "has work without a message size to draw against: `show` lists its shapes"
        raise ResultError(f"{result.path} {why}")

    shown = [line for line in lines if line.is_shown]
    title = ("" if result.complete else "INCOMPLETE. ") + headline([result], points)

    drawn = quantities[:2]
    with figure(path, len(drawn), PANEL_IN, title, footer(result, lines)) as panels:
        for axes, quantity in zip(panels, drawn, strict=True):
            draw_against_size(axes, shown, quantity)


def footer(result: Result, lines: Sequence[DrawnLine]) -> str:
    """What was measured, where and when."""
    case = lines[0].cases[0]
    place = "in place" if case.in_place else "out of place"
    parts = [
        ", ".join([type_text(case), case.mode, *shape_words(case.shape), place]),
        machine(result).partition(": ")[2],
        start_time(result.run),
        "bands: 95 % intervals in this launch",
        *software_notes(result.cases),
    ]
    return "; ".join(parts)


def drawn_of(result: Result) -> tuple[list[DrawnLine], list[Quantity]]:
    """The lines of the measured cases in the first view, of a program's own work in all views, and
    their quantities; nothing without a measured case."""
    first, *others = views(result)
    own = all(map(is_own_benchmark, result.cases))
    cases = [
        case
        for view in [first, *(others if own else [])]
        for case in shown_cases(result, view)
        if cost_us(case) is not None and case.size_bytes > 0
    ]
    names = list(dict.fromkeys(map(line_name, cases))) if own else named_in(result)
    return lines_of(cases, names), quantities_of(result, cases) if cases else []


def quantities_of(result: Result, cases: Sequence[Case]) -> list[Quantity]:
    """What can be drawn of cases of one view: the speed-up, if a library was measured; the busbw,
    but not of one rank or with a late rank, because the time then includes the wait for it; the
    time."""
    ratios = speed_ups(result)
    factor = bus_factor(cases[0].collective, result.run.world_size)
    bounds = ((case.size_bytes, case.bound_us) for case in cases if case.bound_us)
    bounds_us = dict(sorted(bounds, reverse=True))  # the least at each size, which is the last

    def speed_up(case: Case) -> tuple[float, float, float]:
        if case.algorithm == "library":
            return span_of((1, None, None))
        return span_of(ratios.get(case.case) or (None, None, None))

    def bus_bw(case: Case) -> tuple[float, float, float]:
        middle, low, high = time_span_of(case.time_us)
        scale = case.size_bytes * factor / 1e3
        return scale / middle, scale / high, scale / low

    def time(case: Case) -> tuple[float, float, float]:
        return time_span_of(case.total_us or case.time_us)

    quantities = list[Quantity]()
    if any(ratios.get(case.case) for case in cases):
        quantities.append(Quantity("Times as fast as the library", "x", speed_up, {}))
    if factor and not late_us(cases[0].shape):
        bounds_gb_s = {size: size * factor / us / 1e3 for size, us in bounds_us.items()}
        title = "Bus bandwidth, of the collective alone"
        quantities.append(Quantity(title, "GB/s", bus_bw, bounds_gb_s))

    is_read = any(case.consume_us for case in cases)
    title = "Time of a call, with reading its result" if is_read else "Time of a call"
    return [*quantities, Quantity(title, "us", time, bounds_us)]


def span_of(interval: Sequence[float | None]) -> tuple[float, float, float]:
    """A figure and the ends of its interval, NaN for what is missing; above 0, as axes are
    logarithmic."""
    middle, low, high = (np.nan if each is None else max(each, 1e-9) for each in interval)
    return middle, low, high


def time_span_of(summary: Any) -> tuple[float, float, float]:
    """The same of a summary of times, in microseconds."""
    return span_of((summary.median, summary.ci_low, summary.ci_high))


def draw_against_size(
    axes: Any, lines: Sequence[DrawnLine], quantity: Quantity, letters: int = 24
) -> None:
    """Lines with their intervals as bands, and the bound; labels so many letters wide."""
    for line in lines:
        figures = np.transpose([quantity.of(case) for case in line.cases])
        has_figure = np.isfinite(figures[0])
        if not has_figure.any():
            continue
        sizes = np.array([case.size_bytes for case in line.cases])[has_figure]
        middle, low, high = figures[:, has_figure]
        axes.fill_between(sizes, low, high, color=line.role, alpha=0.18, linewidth=0)
        axes.plot(
            sizes,
            middle,
            color=line.role,
            linewidth=line.width,
            marker="o",
            markersize=2 + line.width,
            label=line.name,
            zorder=3 - line.width / 10,  # a thin line lies on a bold one
        )

    if quantity.bounds:
        bounds = np.transpose(sorted(quantity.bounds.items()))
        axes.plot(*bounds, "--", color="bound", linewidth=1.2, label="roofline")

    axes.set_title(f"{quantity.title}, {quantity.unit}")
    dress(axes, sorted({case.size_bytes for line in lines for case in line.cases}))
    label_ends(axes, letters)
