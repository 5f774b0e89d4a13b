"""The parts of every picture: the figure and its file, lines of algorithms with their intervals,
bars, and axes of sizes."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reports.store.result import ResultError
from reports.store.schema import Case, Result, Summary
from reports.store.writing import write_named
from reports.tables.sentences import machine, tick_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette, for readers with any colour vision; the library is black.
COLOURS = ["#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F"]
# More marks than colours: two lines of one colour differ in their marks.
MARKERS = ["o", "^", "D", "v", "P", "X", "*", "<", ">", "p", "h", "8"]
DASHES: list[Any] = ["-", (0, (8, 1.5)), "-.", (0, (4, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (12, 2)),
                     "-"]
REGIMES = [(16384, "left", "latency-bound:\ndecode, 16 KB"),
           (33554432, "right", "bandwidth-bound:\nprefill, 32 MB")]
# The ticks in each power of ten on a logarithmic axis, by the largest ratio of its ends.
TICKS: dict[float, list[float]] = {3: [1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 6, 7, 8, 9],
                                   20: [1, 1.5, 2, 3, 4, 5, 6, 8], 1e3: [1, 2, 5], np.inf: [1]}

Style = dict[str, Any]


@contextmanager
def figure(target: Path | IO[Any], rows: int, columns: int, size: tuple[float, float],
           sharey: bool = False, margins: tuple[float, float, float, float] | None = None,
           **saving: Any) -> Iterator[tuple[Any, Any]]:
    """A matplotlib figure of `size` in inches and its axes, of shape (rows, columns); written to
    `target` at the end. `margins` are left, bottom, right and top, as shares of the figure; None
    computes them. Raises ResultError for another suffix, and if the file cannot be written."""
    import matplotlib

    kind = kind_of(target)
    # Without metadata equal drawings are equal files.
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type")) if kind == "svg" else None

    matplotlib.use("Agg")
    # Text stays text in an .svg, for searches and screen readers.
    matplotlib.rcParams["svg.fonttype"] = "none"
    matplotlib.rcParams["text.parse_math"] = False  # a name with a dollar in it is no formula
    from matplotlib import pyplot

    made, axes = pyplot.subplots(rows, columns, figsize=size, squeeze=False, sharey=sharey,
                                 layout="none" if margins else "constrained")
    if margins:
        made.subplots_adjust(*margins)
    try:
        yield made, axes
        drawn: Any = io.BytesIO() if isinstance(target, Path) else target
        made.savefig(drawn, **dict[str, Any](dpi=120, format=kind, metadata=metadata) | saving)
        if isinstance(target, Path):
            write_named(target, drawn.getvalue())
    finally:
        pyplot.close(made)


def kind_of(target: Path | IO[Any]) -> str:
    """`svg` or `png`: the suffix of a path; `svg` for a stream of text, `png` for one of bytes.
    Raises ResultError for another suffix."""
    if not isinstance(target, Path):
        return "png" if isinstance(target, io.BytesIO) else "svg"
    if target.suffix not in (".svg", ".png"):
        raise ResultError(f"{target} cannot be drawn: a picture ends in .svg or .png")
    return target.suffix[1:]


def figure_title(result: Result) -> str:
    return machine(result) + ("" if result.complete else " (INCOMPLETE)")


@dataclass
class Line:
    """A line of a picture: the cases of an algorithm, smallest size first."""

    name: str
    style: Style
    cases: list[Case]


def lines_of(cases: Sequence[Case]) -> list[Line]:
    """The lines of these cases, the library and `auto` first."""
    by_name: dict[str, list[Case]] = {}
    first = {"library": 0, "auto": 1}
    variants = {(case.algorithm, case.variant) for case in cases}
    for case in sorted(cases, key=lambda c: (first.get(c.algorithm, 2), c.size_bytes)):
        several = sum(algorithm == case.algorithm for algorithm, _ in variants) > 1
        name = case.library or case.algorithm
        by_name.setdefault(f"{name} {case.variant}" if several else name, []).append(case)
    styles = styles_of([line[0].algorithm for line in by_name.values()])
    return [Line(name, style, line)
            for (name, line), style in zip(by_name.items(), styles, strict=True)]


def styles_of(algorithms: Sequence[str]) -> list[Style]:
    """The style of each algorithm's line; the library and `auto` have their own."""
    special: dict[str, Style] = {
        "library": {"color": "black", "marker": "s", "linestyle": "-", "linewidth": 2.2,
                    "markersize": 5, "zorder": 4},
        # auto runs one of the others, so its line lies under theirs.
        "auto": {"color": "#F0C808", "marker": "d", "linestyle": "-", "linewidth": 4,
                 "markersize": 8, "zorder": 1}}
    others = ({"color": colour, "marker": marker, "linestyle": dashes, "linewidth": 1.6,
               "markersize": 5, "zorder": 3}
              for colour, marker, dashes in zip(cycle(COLOURS), cycle(MARKERS), cycle(DASHES)))
    return [special[algorithm] if algorithm in special else next(others)
            for algorithm in algorithms]


def interval_us(summary: Summary | None) -> NDArray[np.float64]:
    """The median and the ends of its interval in microseconds; the median for a missing end."""
    assert summary
    ends = summary.ci_low or summary.median, summary.ci_high or summary.median
    return np.array([summary.median, *ends])


def draw_lines(axes: Axes, lines: Sequence[Line], at: Callable[[Case], float],
               interval: Callable[[Case], NDArray[np.float64]]) -> None:
    """Each line with its intervals as a band; `at` places a case on the horizontal axis."""
    for line in lines:
        cases = sorted(line.cases, key=at)
        median, low, high = np.reshape([interval(case) for case in cases], (-1, 3)).T
        places = [at(case) for case in cases]
        axes.plot(places, median, **line.style, label=line.name)
        axes.fill_between(places, low, high, color=line.style["color"], alpha=0.25, linewidth=0,
                          zorder=2)


def draw_legend(made: Any, axes: Axes, columns: int) -> None:
    """The names of the lines of `axes`, below all panels."""
    handles, labels = axes.get_legend_handles_labels()
    made.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), columns),
                frameon=False)


def round_ticks(axis: Any) -> None:
    """Round values on a logarithmic axis, closer together on a short one."""
    low, high = axis.get_view_interval()
    steps = next(steps for most, steps in TICKS.items() if high / low < most)
    ticks = [step * 10.0**power for power in range(-6, 13) for step in steps]
    ticks = [tick for tick in ticks if low <= tick <= high]
    axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])


def dress(axes: Axes, sizes: list[int], scale: str = "log", most_ticks: int = 13) -> None:
    """Ticks at sizes and round values, and the two regimes of sizes; `scale` is vertical."""
    axes.set_xscale("log", base=2)
    axes.set_yscale(scale)
    shown = sizes[:: 1 + (len(sizes) - 1) // most_ticks]
    axes.set_xticks(shown, [tick_text(size) for size in shown])
    axes.minorticks_off()
    axes.set_xlim(sizes[0] / 1.5, sizes[-1] * 1.5)
    low, high = axes.get_ylim()
    if scale == "log":
        axes.set_ylim(low, high * (high / low) ** 0.14)
        round_ticks(axes.yaxis)
    else:
        axes.set_ylim(0, high * 1.14)
    axes.grid(True, alpha=0.25)
    axes.set_xlabel("size, bytes")
    for size, side, name in REGIMES:
        if sizes[0] <= size <= sizes[-1]:
            axes.axvline(size, color="#888888", linestyle=":", linewidth=1, zorder=0)
            axes.annotate(name, (size, 0.98), xycoords=axes.get_xaxis_transform(), ha=side,
                          va="top", fontsize=9, color="#444444", textcoords="offset points",
                          xytext=(5 if side == "left" else -5, 0))


@dataclass
class Bar:
    """A bar with its text, the ends of its interval, and the length of its hatched end."""

    name: str
    value: float
    text: str
    colour: str
    ends: tuple[float | None, float | None] = (None, None)
    hatched: float = 0.0


def draw_bars(path: Path | IO[Any], result: Result, panels: Sequence[tuple[str, Sequence[Bar]]],
              xlabel: str) -> None:
    """A panel of horizontal bars under each title. Raises ResultError without a panel."""
    if not panels:
        raise ResultError(f"{result.path} has no measured case to draw")
    with figure(path, len(panels), 1, (9, 1.1 + 2 * len(panels))) as (made, axes):
        for place, (title, bars) in zip(axes[:, 0], panels, strict=True):
            for row, bar in enumerate(bars):
                _draw_bar(place, row, bar)
            place.set_yticks(range(len(bars)), [bar.name for bar in bars])
            place.invert_yaxis()
            place.axvline(0, color="#444444", linewidth=0.8)
            place.margins(x=0.25)
            place.grid(True, axis="x", alpha=0.25)
            place.set_title(title, fontsize=10, loc="left")
        axes[-1, 0].set_xlabel(xlabel)
        made.suptitle(figure_title(result), fontsize=11)


def _draw_bar(axes: Axes, row: int, bar: Bar) -> None:
    low, high = (bar.value if end is None else end for end in bar.ends)
    axes.barh(row, bar.value - bar.hatched, color=bar.colour)
    if bar.hatched:
        axes.barh(row, bar.hatched, left=bar.value - bar.hatched, color=bar.colour, alpha=0.5,
                  hatch="///")
    if high > low:
        axes.errorbar(bar.value, row, xerr=[[bar.value - low], [high - bar.value]],
                      ecolor="#777777", capsize=3, fmt="none")
    axes.annotate(bar.text, (max(bar.value, high, 0), row), va="center", fontsize=9,
                  xytext=(6, 0), textcoords="offset points")
