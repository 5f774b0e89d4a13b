"""A figure, from its panels to its file, and the lines in it: an algorithm each, the library in black."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reports.store.result import ResultError
from reports.store.schema import Case, Summary
from reports.store.writing import write_named

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette, told apart by readers with any colour vision; black is the library's.
COLOURS = ["#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F"]
MARKERS = ["o", "^", "D", "v", "P", "X", "*"]
DASHES: list[Any] = ["-", (0, (8, 1.5)), "-.", (0, (4, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (12, 2)), "-"]

Style = dict[str, Any]


@contextmanager
def figure(target: Path | IO[Any], rows: int, columns: int, size: tuple[float, float],
           sharey: bool = False, margins: tuple[float, float, float, float] | None = None,
           **saving: Any) -> Iterator[tuple[Any, Any]]:
    """A matplotlib figure of so many inches and its axes, (rows, columns), written to `target` at the end; with
    `margins` (left, bottom, right, top, as shares) where these are not to be found. Raises ResultError where that
    cannot be."""
    import matplotlib

    matplotlib.use("Agg")
    # Words stay words in an .svg: found by a search, read by a screen reader.
    matplotlib.rcParams["svg.fonttype"] = "none"
    matplotlib.rcParams["text.parse_math"] = False  # a name with a dollar in it is no formula
    from matplotlib import pyplot

    made, axes = pyplot.subplots(rows, columns, figsize=size, layout="none" if margins else "constrained",
                                 squeeze=False, sharey=sharey)
    if margins:
        made.subplots_adjust(*margins)
    try:
        yield made, axes
        drawn: Any = io.BytesIO() if isinstance(target, Path) else target
        made.savefig(drawn, **dict[str, Any](dpi=120, format=kind_of(target)) | saving)
        if isinstance(target, Path):
            write_named(target, drawn.getvalue())
    finally:
        pyplot.close(made)


def kind_of(target: Path | IO[Any]) -> str:
    """`svg` or `png`, by the name; a stream of text takes an svg, one of bytes a png. Raises ResultError for another
    suffix."""
    kind = target.suffix[1:] if isinstance(target, Path) else "png" if isinstance(target, io.BytesIO) else "svg"
    if kind not in ("svg", "png"):
        raise ResultError(f"{target} cannot be drawn: a picture ends in .svg or .png")
    return kind


def lines_of(cases: list[Case]) -> dict[str, list[Case]]:
    """The cases by the name of their line, library and `auto` first, smallest size first."""
    lines: dict[str, list[Case]] = {}
    first = {"library": 0, "auto": 1}
    variants = {(case.algorithm, case.variant) for case in cases}
    for case in sorted(cases, key=lambda case: (first.get(case.algorithm, 2), case.size_bytes)):
        several = sum(algorithm == case.algorithm for algorithm, _ in variants) > 1
        name = case.library or case.algorithm
        lines.setdefault(f"{name} {case.variant}" if several else name, []).append(case)
    return lines


def style_of(algorithm: str, points: int, others: Iterator[tuple[str, str, Any]]) -> Style:
    """How to draw the line of an algorithm through so many points; the next of `others` unless its style is fixed."""
    if algorithm == "library":
        return {"color": "black", "marker": "s", "linewidth": 2.2, "markersize": 5, "zorder": 4}
    if algorithm == "auto":
        # auto runs one of the others, so its line lies under theirs.
        return {"color": "#F0C808", "linewidth": 7, "alpha": 0.55, "zorder": 1,
                "marker": "s" if points == 1 else None, "markersize": 11, "markeredgewidth": 0}
    colour, marker, dashes = next(others)
    return {"color": colour, "marker": marker, "linestyle": dashes, "linewidth": 1.6, "markersize": 5, "zorder": 3}


def interval_us(summary: Summary | None) -> NDArray[np.float64]:
    """The median and the ends of its interval, or itself for both, in microseconds."""
    assert summary
    return np.array([summary.median, summary.ci_low or summary.median, summary.ci_high or summary.median])


def draw_line(axes: Axes, at: Sequence[float], intervals: list[NDArray[np.float64]], style: Style,
              line: int | None = None) -> None:
    """Medians, and their intervals as a band; in an svg both are named by the number of their `line`, if it has one."""
    middle, one_end, other_end = np.transpose(intervals)
    names = (None, None) if line is None else (f"line{line}", f"band{line}")
    axes.plot(at, middle, **style, gid=names[0])
    axes.fill_between(at, one_end, other_end, color=style["color"], alpha=0.25, linewidth=0, zorder=2,
                      gid=names[1])
