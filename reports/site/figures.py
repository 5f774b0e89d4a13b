"""The section of a sweep over sizes: time and busbw against size, with a legend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import IO

import numpy as np
from markupsafe import Markup

from reports.site.page import Section
from reports.site.svg import Picture, draw_svg
from reports.store.schema import Result
from reports.tables import plot
from reports.tables.figure import Line, figure, lines_of
from reports.tables.rows import View, views
from reports.tables.sentences import number, shape_words, size_text

MOST_NAME_CHARACTERS = 36
MOST_VIEWS = 4
PANEL_INCHES = (5.6, 4.1)
PANEL_MARGINS = (0.14, 0.12, 0.92, 0.985)  # fixed: matplotlib's search takes as long as the drawing
SCALES = {"log": "logarithmic", "linear": "linear"}


def lines_in(result: Result) -> list[Line]:
    """The lines of a run, the same in all its pictures."""
    lines = lines_of([case for view in views(result)[:MOST_VIEWS]
                      for case in plot.drawn_cases(result, view)])
    return [line if len(line.name) <= MOST_NAME_CHARACTERS
            else replace(line, name=f"{line.name[:MOST_NAME_CHARACTERS]}...") for line in lines]


def lines_of_view(result: Result, lines: Sequence[Line], view: View) -> list[Line]:
    """These lines with the cases of one view."""
    shown = {case.case for case in plot.drawn_cases(result, view)}
    return [replace(line, cases=[case for case in line.cases if case.case in shown])
            for line in lines]


def time_and_bandwidth(result: Result, lines: Sequence[Line]) -> Section:
    """Time and busbw against size for each view, with both vertical axes."""
    if not lines:
        return Section("Time and bandwidth", ["The run has no measured case."])
    pictures = []
    for place, view in enumerate(views(result)[:MOST_VIEWS]):
        shown = lines_of_view(result, lines, view)
        cases = [case for line in shown for case in line.cases]
        factors = {"time": 0.0}
        if cases and (factor := plot.busbw_factor(result, view, cases)):
            factors["busbw"] = factor
        for quantity, factor in factors.items() if cases else ():
            words = ", ".join([view[0], *shape_words(view[1])])
            title = f"{plot.axis_title(shown, factor)}, against size, {words}"
            pictures += [_draw(f"{quantity}{place}{scale}", title, shown, factor, scale)
                         for scale in SCALES]
    return Section("Time and bandwidth", pictures=pictures,
                   lines=[(line.name, _sample(place, line)) for place, line in enumerate(lines)])


def _draw(name: str, title: str, lines: Sequence[Line], factor: float, scale: str) -> Picture:
    def draw(target: IO[str]) -> None:
        with figure(target, 1, 1, PANEL_INCHES, margins=PANEL_MARGINS) as (_, ((axes,),)):
            plot.draw_against_size(axes, lines, factor, scale)
            axes.tick_params(labelsize=8)
            for place, line in enumerate(lines):
                axes.lines[place].set_gid("-".join(
                    [f"line{place}", *(str(case.case) for case in line.cases)]))
                axes.collections[place].set_gid(f"line{place}")

    cases = [case for line in lines for case in line.cases]
    ends = np.concatenate([plot.interval(case, factor) for case in cases])
    sizes = sorted({case.size_bytes for case in cases})
    description = (
        f"{sum(bool(line.cases) for line in lines)} lines over {len(sizes)} sizes from "
        f"{size_text(sizes[0])} to {size_text(sizes[-1])}; the figures go from "
        f"{number(float(ends.min()))} to {number(float(ends.max()))}; {SCALES[scale]} vertical "
        "axis. Dashed: the bound of the machine's own measured parts.")
    return Picture(title, "cells", draw_svg(name, draw, title, description), scale)


def _sample(place: int, line: Line) -> Markup:
    """A piece of a line with its mark, for the legend."""
    def draw(target: IO[str]) -> None:
        with figure(target, 1, 1, (0.6, 0.22), margins=(0, 0, 1, 1)) as (_, ((axes,),)):
            axes.set_axis_off()
            axes.plot([0, 1, 2], [0, 0, 0], markevery=[1], **line.style)

    return draw_svg(f"sample{place}", draw)
