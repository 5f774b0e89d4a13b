"""The pictures of a sweep: time and busbw against size, and the distribution of iterations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import IO, Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from reports.site.page import Row, Section
from reports.site.svg import Picture, draw_picture
from reports.store.result import SamplesGone, read_samples
from reports.store.schema import Case, Result
from reports.tables import plot
from reports.tables.figure import Line, figure, lines_of, round_ticks
from reports.tables.rows import View, view_of, views
from reports.tables.sentences import TOKEN_CALL_SIZE_BYTES, number, shape_words, size_text

MOST_NAME_CHARACTERS = 36
MOST_VIEWS = 4
PANEL_INCHES = (5.6, 4.1)
PANEL_MARGINS = (0.14, 0.12, 0.92, 0.985)  # fixed: matplotlib's search takes as long as the drawing
SCALES = {"log": "logarithmic", "linear": "linear"}
ECDF_POINTS = 41
SLOW_RANK_RATIO = 1.05  # of a rank's median time to the median of the other ranks

Drawn = Sequence[tuple[View, Sequence[Line]]]  # each view with all lines of the run
Times = NDArray[Any]  # of a case, shape (ranks, iterations), in microseconds


def drawn_views(result: Result) -> Drawn:
    """The first views; each has all lines of the run in the same order, with its own cases."""
    shown = [(view, plot.drawn_cases(result, view)) for view in views(result)[:MOST_VIEWS]]
    lines = lines_of([case for _, cases in shown for case in cases])
    for line in lines:
        if len(line.name) > MOST_NAME_CHARACTERS:
            line.name = f"{line.name[:MOST_NAME_CHARACTERS]}..."
    return [(view, [replace(line, cases=[case for case in line.cases if view_of(case) == view])
                    for line in lines]) for view, cases in shown if cases]


def time_and_bandwidth(drawn: Drawn, world_size: int) -> Section:
    """Time and busbw against size for each view, with both vertical axes."""
    if not drawn:
        return Section("Time and bandwidth", ["The run has no measured case."])
    pictures = []
    for place, (view, lines) in enumerate(drawn):
        words = ", ".join([view[0], *shape_words(view[1])])
        for quantity, factor in plot.factors(view, lines, world_size).items():
            title = f"{plot.axis_title(lines, factor)}, against size, {words}"
            pictures += [_against_size(f"{quantity}{place}{scale}", title, lines, factor, scale)
                         for scale in SCALES]
    samples = [(line.name, _sample(place, line)) for place, line in enumerate(drawn[0][1])]
    return Section("Time and bandwidth", pictures=pictures, lines=samples)


def _against_size(name: str, title: str, lines: Sequence[Line], factor: float,
                  scale: str) -> Picture:
    def draw(target: IO[str]) -> None:
        with figure(target, 1, 1, PANEL_INCHES, margins=PANEL_MARGINS) as (_, ((axes,),)):
            plot.draw_against_size(axes, lines, factor, scale)
            axes.tick_params(labelsize=8)
            for place, line in enumerate(lines):
                numbers = [str(case.case) for case in line.cases]
                axes.lines[place].set_gid("-".join([f"line{place}", *numbers]))
                axes.collections[place].set_gid(f"line{place}")

    cases = [case for line in lines for case in line.cases]
    ends = np.concatenate([plot.interval(case, factor) for case in cases])
    sizes = sorted({case.size_bytes for case in cases})
    description = (
        f"{sum(bool(line.cases) for line in lines)} lines over {len(sizes)} sizes from "
        f"{size_text(sizes[0])} to {size_text(sizes[-1])}; the figures go from "
        f"{number(float(ends.min()))} to {number(float(ends.max()))}; {SCALES[scale]} vertical "
        "axis. Dashed: the bound of the machine's own measured parts.")
    return draw_picture(name, draw, title, description, "cells", scale)


def _sample(place: int, line: Line) -> Markup:
    """A piece of a line with its mark, for the legend."""
    def draw(target: IO[str]) -> None:
        with figure(target, 1, 1, (0.6, 0.22), margins=(0, 0, 1, 1)) as (_, ((axes,),)):
            axes.set_axis_off()
            axes.plot([0, 1, 2], [0, 0, 0], markevery=[1], **line.style)

    return draw_picture(f"sample{place}", draw).svg


def iterations(heading: str, result: Result, drawn: Drawn) -> Section:
    """The stored iterations at decode's size and at the largest: a picture for each size and a row
    for each case. Raises ResultError for samples that cannot be read."""
    lines = drawn[0][1] if drawn else []
    sizes = sorted({case.size_bytes for line in lines for case in line.cases if case.samples})
    pictures: list[Picture] = []
    rows: list[Row] = []
    sentences: list[str] = []
    near = sorted(sizes, key=lambda size: abs(size - TOKEN_CALL_SIZE_BYTES))
    for size in dict.fromkeys([*near[:1], *sizes[-1:]]):
        times_us: dict[int, Times] = {}
        for place, line in enumerate(lines):
            for case in line.cases:
                samples = _read_times_us(result, case) if case.size_bytes == size else None
                if samples is not None:
                    times_us[place] = samples
                    rows.append({"size": size_text(size), "algorithm": line.name,
                                 **_iteration_cells(case, samples)})
        if times_us:
            pictures.append(_distribution(f"ecdf{len(pictures)}", size, times_us, lines))
            sentences += _slow_ranks(size, list(times_us.values()))
    if not rows:
        return Section(heading, ["The run stored no single iterations."])
    return Section(heading, [
        *(sentences or [f"No rank takes more than {SLOW_RANK_RATIO:.2f}x the others' time at these "
                        "sizes."]),
        "Arrival skew is the time from the first rank's arrival to the last rank's; last, by rank, "
        "is how often each rank took longest."],
        pictures, table="iterations", caption="Stored iterations, slowest rank", rows=rows)


def _read_times_us(result: Result, case: Case) -> Times | None:
    """The times of a case, or None without valid samples."""
    try:
        samples = read_samples(result, case)
    except SamplesGone:
        return None
    if samples is None or not len(samples):
        return None
    ranks, counts = np.unique(samples[:, 1], return_counts=True)
    if len(ranks) != result.run.world["size"] or len(set(counts.tolist())) > 1:
        return None
    # The sort is stable and keeps the order of iterations within a block and rank.
    by_rank = samples[np.lexsort((samples[:, 0], samples[:, 1]))]
    times_us = by_rank[:, 2].reshape(len(ranks), -1).astype(float)
    return times_us if np.isfinite(times_us).all() and (times_us > 0).all() else None


def _iteration_cells(case: Case, times_us: Times) -> Row:
    slowest_us = times_us.max(axis=0)
    low, middle, high, longest = (number(float(us))
                                  for us in np.percentile(slowest_us, [5, 50, 95, 100]))
    skew = case.arrival_skew_us
    last = np.bincount(times_us.argmax(axis=0), minlength=len(times_us)) / len(slowest_us)
    return {"iterations": str(len(slowest_us)), "5 %, us": low, "median, us": middle,
            "95 %, us": high, "longest, us": longest,
            "arrival skew, us": number(skew.median if skew else None),
            "skew 95 %, us": number(skew.p95 if skew else None),
            "last, by rank": " ".join(f"{share:.0%}" for share in last),
            "median by rank, us": " ".join(number(float(us))
                                           for us in np.median(times_us, axis=1))}


def _slow_ranks(size_bytes: int, times_us: Sequence[Times]) -> list[str]:
    """A sentence for each rank whose median time is well above the other ranks'."""
    ratios = [[np.median(times[rank]) / np.median(np.delete(times, rank, axis=0))
               for rank in range(len(times))] for times in times_us if len(times) > 1]
    medians = np.median(ratios, axis=0) if ratios else ()
    return [f"Rank {rank} is slow at {size_text(size_bytes)}: {ratio:.2f}x the others' time, in "
            "the median of the algorithms."
            for rank, ratio in enumerate(medians) if ratio > SLOW_RANK_RATIO]


def _distribution(name: str, size_bytes: int, times_us: Mapping[int, Times],
                  lines: Sequence[Line]) -> Picture:
    """The cumulative distribution of the iterations of each line."""
    shares = np.linspace(0, 1, ECDF_POINTS)

    def draw(target: IO[str]) -> None:
        with figure(target, 1, 1, PANEL_INCHES) as (drawing, ((axes,),)):
            for place, times in times_us.items():
                style = lines[place].style | {"linewidth": 1.6, "markersize": 5}
                axes.plot(np.quantile(times.max(axis=0), shares), shares, drawstyle="steps-post",
                          markevery=8, **style, label=lines[place].name, gid=f"line{place}")
            axes.set_xscale("log")
            round_ticks(axes.xaxis)
            axes.minorticks_off()
            axes.grid(True, alpha=0.25)
            axes.set_xlabel("time of an iteration, its slowest rank, us")
            axes.set_ylabel("part of the iterations")
            axes.tick_params(labelsize=8)
            handles, labels = axes.get_legend_handles_labels()
            drawing.legend(handles, labels, loc="outside lower center",
                           ncols=3 if max(map(len, labels)) < 26 else 1, frameon=False, fontsize=8)

    title = f"Iterations at {size_text(size_bytes)}: the part that took no longer"
    description = (f"{len(times_us)} lines, each from its fastest iteration to its slowest; the "
                   "further left, the faster, and the steeper, the steadier. Logarithmic "
                   "horizontal axis.")
    return draw_picture(name, draw, title, description, "iterations")
