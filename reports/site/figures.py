"""The pictures of a run's page: time and bandwidth against size, and single iterations."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from reports.site.svg import Picture, Toggle, draw_picture, draw_toggle
from reports.store.case import bus_factor, late_us
from reports.store.samples import SamplesGone, read_samples
from reports.store.schema import Case, Result
from reports.tables import figure
from reports.tables.rows import View, cost_us, shown_cases, views
from reports.tables.sentences import TOKEN_CALL_SIZE_BYTES, number, shape_words, size_text

# More shapes than colours: two lines of one colour differ in shape.
SHAPES = [*figure.MARKERS, "<", ">", "p", "h", "8"]
AUTO_SHAPES = ["d", "H", "1", "2"]
MOST_NAME_CHARACTERS = 36
MOST_VIEWS = 4
PANEL_INCHES = (5.6, 4.1)
PANEL_MARGINS = (0.14, 0.12, 0.92, 0.985)  # fixed: matplotlib's search takes as long as the drawing
SCALES = {"log": "logarithmic", "linear": "linear"}
ECDF_POINTS = 41
SLOW_RANK_RATIO = 1.05  # of a rank's median time to the median of the other ranks


@dataclass
class Lines:
    """The lines of a run, the same in every picture: the views with their cases, the line of each
    case, and the name and the style of each line."""

    views: list[tuple[View, list[Case]]]
    line_of: dict[int, int]
    names: list[str]
    styles: list[figure.Style]

    def by_line(self, cases: Sequence[Case]) -> dict[int, list[Case]]:
        """These cases by line, smallest size first."""
        lines: dict[int, list[Case]] = defaultdict(list)
        for case in sorted(cases, key=lambda case: case.size_bytes):
            lines[self.line_of[case.case]].append(case)
        return lines


def lines_in(result: Result) -> Lines:
    """The lines of the measured cases of a run."""
    shown = [(view, [case for case in shown_cases(result, view)
                     if cost_us(case) is not None and case.size_bytes > 0])
             for view in views(result)[:MOST_VIEWS]]
    cases_of = figure.lines_of([case for _, cases in shown for case in cases])
    others = cycle(zip(cycle(figure.COLOURS), SHAPES, cycle(figure.DASHES), strict=False))
    auto_shapes = cycle(AUTO_SHAPES)
    styles = []
    for cases in cases_of.values():
        style = figure.style_of(cases[0].algorithm, len(cases), others)
        if cases[0].algorithm == "auto":
            style |= {"linewidth": 4, "alpha": 1, "marker": next(auto_shapes), "markersize": 8,
                      "markeredgewidth": 1}
        styles.append(style)
    line_of = {case.case: line for line, cases in enumerate(cases_of.values()) for case in cases}
    names = [name if len(name) <= MOST_NAME_CHARACTERS else f"{name[:MOST_NAME_CHARACTERS]}..."
             for name in cases_of]
    return Lines([(view, cases) for view, cases in shown if cases], line_of, names, styles)


def legend(pictures: Sequence[Picture], lines: Lines) -> list[Toggle]:
    """A toggle for each line."""
    return [draw_toggle(line, name, pictures) for line, name in enumerate(lines.names)]


def draw_against_size(result: Result, lines: Lines) -> list[Picture]:
    """Time and busbw against size for each view, with both vertical axes."""
    pictures = []
    for place, (view, cases) in enumerate(lines.views):
        words = ", ".join([view[0], *shape_words(view[1])])
        # The time of a late arrival includes the wait: it has no bandwidth.
        busbw_factor = (0.0 if late_us(view[1])
                        else bus_factor(cases[0].collective, result.run.world["size"]))
        factors = {"time": 0.0, "busbw": busbw_factor} if busbw_factor else {"time": 0.0}
        for quantity, factor in factors.items():
            title = f"{_axis_title(cases, factor)}, against size, {words}"
            for scale in SCALES:
                picture = Picture(f"{quantity}{place}{scale}", title,
                                  _description(cases, lines, factor, scale), "cells", scale)
                pictures.append(_draw_lines(picture, cases, lines, factor))
    return pictures


def _axis_title(cases: Sequence[Case], factor: float) -> str:
    if factor:
        return "busbw, GB/s: collective alone"
    if any(case.consume_us for case in cases):
        return "time, us: collective + reading its result"
    return "time of one call, us"


def _description(cases: Sequence[Case], lines: Lines, factor: float, scale: str) -> str:
    ends = np.concatenate([_interval(case, factor) for case in cases])
    sizes = sorted({case.size_bytes for case in cases})
    return (f"{len(lines.by_line(cases))} lines over {len(sizes)} sizes from "
            f"{size_text(sizes[0])} to {size_text(sizes[-1])}; the figures go from "
            f"{number(float(ends.min()))} to {number(float(ends.max()))}; {SCALES[scale]} vertical "
            "axis. Dashed: the bound of the machine's own measured parts.")


def _interval(case: Case, factor: float) -> NDArray[np.float64]:
    """The median and the ends of its interval: microseconds, or with a factor busbw in GB/s."""
    if factor:
        return case.size_bytes * factor / 1e3 / np.maximum(figure.interval_us(case.time_us), 1e-9)
    return figure.interval_us(case.total_us or case.time_us)


def _draw_lines(picture: Picture, cases: Sequence[Case], lines: Lines, factor: float) -> Picture:
    by_line = lines.by_line(cases)

    def draw(target: IO[str]) -> None:
        with figure.figure(target, 1, 1, PANEL_INCHES, margins=PANEL_MARGINS) as (_, ((axes,),)):
            for line, members in by_line.items():
                figure.draw_line(axes, [case.size_bytes for case in members],
                          [_interval(case, factor) for case in members], lines.styles[line], line)
            _draw_bound(axes, cases, factor)
            axes.set_ylabel(_axis_title(cases, factor))
            figure.dress(axes, sorted({case.size_bytes for case in cases}), picture.scale)
            axes.tick_params(labelsize=8)

    return draw_picture(picture, draw, {line: [case.case for case in members]
                                        for line, members in by_line.items()})


def _draw_bound(axes: Any, cases: Sequence[Case], factor: float) -> None:
    """The smallest bound at each size, as a dashed line."""
    bounds_us: dict[int, float] = {}
    for case in cases:
        if case.bound_us:
            least_us = bounds_us.get(case.size_bytes, np.inf)
            bounds_us[case.size_bytes] = min(case.bound_us, least_us)
    if not bounds_us:
        return
    sizes = sorted(bounds_us)
    values = [size * factor / bounds_us[size] / 1e3 if factor else bounds_us[size]
              for size in sizes]
    axes.plot(sizes, values, color="#444444", linestyle="--", linewidth=1.2,
              marker="_" if len(sizes) == 1 else None, gid="bound")
    axes.annotate("bound", (sizes[-1], values[-1]), xytext=(6, 0), textcoords="offset points",
                  fontsize=8, color="#444444", va="center", annotation_clip=False)


def read_iterations_us(result: Result, case: Case) -> NDArray[Any] | None:
    """The stored times of a case, (ranks, iterations) in microseconds, or None without samples.
    Raises ResultError for samples that cannot be read."""
    try:
        samples = read_samples(result, case)
    except SamplesGone:
        return None
    if samples is None or not len(samples):
        return None
    ranks, counts = np.unique(samples[:, 1], return_counts=True)
    if len(set(counts.tolist())) > 1:
        return None
    # The sort is stable and keeps the order of iterations within a block and rank.
    by_rank = samples[np.lexsort((samples[:, 0], samples[:, 1]))]
    times_us = by_rank[:, 2].reshape(len(ranks), -1).astype(float)
    return times_us if np.isfinite(times_us).all() and (times_us > 0).all() else None


def draw_iterations(result: Result,
                    lines: Lines) -> tuple[list[Picture], list[list[str]], list[str]]:
    """The stored iterations at decode's size and at the largest: a picture of their distribution
    for each size, a table row for each case, and sentences about slow ranks. Raises ResultError
    for samples that cannot be read."""
    cases = [case for case in (lines.views[0][1] if lines.views else []) if case.samples]
    sizes = sorted({case.size_bytes for case in cases})
    if not sizes:
        return [], [], []
    small = min(sizes, key=lambda size: abs(size - TOKEN_CALL_SIZE_BYTES))
    pictures: list[Picture] = []
    rows: list[list[str]] = []
    ratios: dict[tuple[int, int], list[float]] = defaultdict(list)
    for size in dict.fromkeys([small, sizes[-1]]):
        slowest_us: dict[int, NDArray[Any]] = {}
        for case in cases:
            times_us = read_iterations_us(result, case) if case.size_bytes == size else None
            if times_us is not None:
                line = lines.line_of[case.case]
                slowest_us[line] = times_us.max(axis=0)
                rows.append([size_text(size), lines.names[line], *_iteration_row(case, times_us)])
                for rank, ratio in enumerate(_rank_ratios(times_us)):
                    ratios[size, rank].append(ratio)
        if slowest_us:
            pictures.append(_draw_ecdf(f"ecdf{len(pictures)}", size, slowest_us, lines))
    return pictures, rows, _slow_ranks(ratios)


def _iteration_row(case: Case, times_us: NDArray[Any]) -> list[str]:
    slowest_us = times_us.max(axis=0)
    skew = case.arrival_skew_us
    last = np.bincount(times_us.argmax(axis=0), minlength=len(times_us)) / len(slowest_us)
    return [str(len(slowest_us)),
            *(number(float(us)) for us in np.percentile(slowest_us, [5, 50, 95, 100])),
            number(skew.median if skew else None), number(skew.p95 if skew else None),
            " ".join(f"{share:.0%}" for share in last),
            " ".join(number(float(median)) for median in np.median(times_us, axis=1))]


def _rank_ratios(times_us: NDArray[Any]) -> list[float]:
    """Each rank's median time over the median time of the other ranks."""
    ranks = range(len(times_us)) if len(times_us) > 1 else ()
    return [float(np.median(times_us[rank]) / np.median(np.delete(times_us, rank, axis=0)))
            for rank in ranks]


def _slow_ranks(ratios: Mapping[tuple[int, int], Sequence[float]]) -> list[str]:
    medians = {place: float(np.median(each)) for place, each in ratios.items()}
    slow = [f"Rank {rank} is slow at {size_text(size)}: {ratio:.2f}x the others' time, in the "
            "median of the algorithms."
            for (size, rank), ratio in medians.items() if ratio > SLOW_RANK_RATIO]
    if medians and not slow:
        return [f"No rank takes more than {SLOW_RANK_RATIO:.2f}x the others' time at these sizes."]
    return slow


def _draw_ecdf(name: str, size_bytes: int, slowest_us: Mapping[int, NDArray[Any]],
               lines: Lines) -> Picture:
    """The cumulative distribution of the iterations of each line."""
    shares = np.linspace(0, 1, ECDF_POINTS)

    def draw(target: IO[str]) -> None:
        with figure.figure(target, 1, 1, PANEL_INCHES) as (drawing, ((axes,),)):
            for line, times_us in slowest_us.items():
                style = lines.styles[line] | {"linewidth": 1.6, "markersize": 5}
                axes.plot(np.quantile(times_us, shares), shares, drawstyle="steps-post",
                          markevery=8, **style, label=lines.names[line], gid=f"line{line}")
            every_us = np.concatenate(list(slowest_us.values()))
            _set_time_axis(axes, every_us.min(), every_us.max())
            axes.grid(True, alpha=0.25)
            axes.set_ylabel("part of the iterations")
            axes.tick_params(labelsize=8)
            handles, labels = axes.get_legend_handles_labels()
            drawing.legend(handles, labels, loc="outside lower center",
                           ncols=3 if max(map(len, labels)) < 26 else 1, frameon=False, fontsize=8)

    title = f"Iterations at {size_text(size_bytes)}: the part that took no longer"
    description = (f"{len(slowest_us)} lines, each from its fastest iteration to its slowest; the "
                   "further left, the faster, and the steeper, the steadier. Logarithmic "
                   "horizontal axis.")
    return draw_picture(Picture(name, title, description, "iterations"), draw)


def _set_time_axis(axes: Any, low_us: float, high_us: float) -> None:
    """A logarithmic axis, with ticks close enough for a narrow range."""
    steps = (1, 1.5, 2, 3, 4, 5, 6, 8) if high_us < 10 * low_us else (1, 2, 5)
    ticks = round_values(low_us / 1.1, high_us * 1.1, steps)
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("time of an iteration, its slowest rank, us")


def round_values(low: float, high: float, steps: Sequence[float]) -> list[float]:
    """The ticks of a logarithmic axis: these steps of each power of ten."""
    values = [step * 10.0**power for power in range(-6, 13) for step in steps]
    return [value for value in values if low <= value <= high]
