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
from numpy.typing import ArrayLike, NDArray

from reports.store.result import ResultError
from reports.store.schema import Case, Result, Summary
from reports.store.writing import write_named
from reports.tables.sentences import machine, tick_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette, for readers with any colour vision; the library is black.
COLOURS = ["#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F"]
MARKERS = ["o", "^", "D", "v", "P", "X", "*"]
DASHES: list[Any] = ["-", (0, (8, 1.5)), "-.", (0, (4, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (12, 2)),
                     "-"]
REGIMES = [(16384, "left", "latency-bound:\ndecode, 16 KB"),
           (33554432, "right", "bandwidth-bound:\nprefill, 32 MB")]

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


def lines_of(cases: list[Case]) -> dict[str, list[Case]]:
    """The cases by the name of their line, the library and `auto` first, small sizes first."""
    lines: dict[str, list[Case]] = {}
    first = {"library": 0, "auto": 1}
    variants = {(case.algorithm, case.variant) for case in cases}
    for case in sorted(cases, key=lambda c: (first.get(c.algorithm, 2), c.size_bytes)):
        several = sum(algorithm == case.algorithm for algorithm, _ in variants) > 1
        name = case.library or case.algorithm
        lines.setdefault(f"{name} {case.variant}" if several else name, []).append(case)
    return lines


def style_of(algorithm: str, points: int, others: Iterator[tuple[str, str, Any]]) -> Style:
    """The style of an algorithm's line through `points` points; the library and `auto` have their
    own, all others take the next of `others`."""
    if algorithm == "library":
        return {"color": "black", "marker": "s", "linewidth": 2.2, "markersize": 5, "zorder": 4}
    if algorithm == "auto":
        # auto runs one of the others, so its line lies under theirs.
        return {"color": "#F0C808", "linewidth": 7, "alpha": 0.55, "zorder": 1,
                "marker": "s" if points == 1 else None, "markersize": 11, "markeredgewidth": 0}
    colour, marker, dashes = next(others)
    return {"color": colour, "marker": marker, "linestyle": dashes, "linewidth": 1.6,
            "markersize": 5, "zorder": 3}


def interval_us(summary: Summary | None) -> NDArray[np.float64]:
    """The median and the ends of its interval in microseconds; the median for a missing end."""
    assert summary
    ends = summary.ci_low or summary.median, summary.ci_high or summary.median
    return np.array([summary.median, *ends])


def draw_line(axes: Axes, at: Sequence[float], intervals: ArrayLike, style: Style,
              line: int | None = None) -> None:
    """Medians as a line and their intervals as a band. In an svg, `line` numbers both."""
    median, low, high = np.transpose(np.asarray(intervals))
    names = (None, None) if line is None else (f"line{line}", f"band{line}")
    axes.plot(at, median, **style, gid=names[0])
    axes.fill_between(at, low, high, color=style["color"], alpha=0.25, linewidth=0, zorder=2,
                      gid=names[1])


def draw_lines(axes: Axes, cases: list[Case], at: Callable[[Case], float],
               interval: Callable[[Case], NDArray[np.float64]]) -> None:
    """A line for each algorithm: the interval of each case at its place on the horizontal axis."""
    styles = cycle(zip(COLOURS, MARKERS, DASHES, strict=True))
    for name, line in lines_of(cases).items():
        line = sorted(line, key=at)
        style = {"label": name} | style_of(line[0].algorithm, len(line), styles)
        draw_line(axes, [at(case) for case in line], [interval(case) for case in line], style)


def draw_legend(made: Any, axes: Axes, columns: int) -> None:
    """The names of the lines of `axes`, below all panels."""
    handles, labels = axes.get_legend_handles_labels()
    made.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), columns),
                frameon=False)


def round_ticks(axes: Axes) -> None:
    """Round values on a logarithmic vertical axis, closer together on a short one."""
    low, high = axes.get_ylim()
    steps: tuple[float, ...] = (1,)
    if high / low < 1e3:
        steps = (1, 1.5, 2, 3, 4, 5, 6, 8) if high / low < 20 else (1, 2, 5)
    ticks = [step * 10.0**power for power in range(-6, 13) for step in steps]
    ticks = [tick for tick in ticks if low <= tick <= high]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])


def dress(axes: Axes, sizes: list[int], scale: str = "log") -> None:
    """Ticks at sizes and round values, and the two regimes of sizes; `scale` is vertical."""
    axes.set_xscale("log", base=2)
    axes.set_yscale(scale)
    shown = sizes[:: 1 + (len(sizes) - 1) // 13]
    axes.set_xticks(shown, [tick_text(size) for size in shown])
    axes.minorticks_off()
    axes.set_xlim(sizes[0] / 1.5, sizes[-1] * 1.5)
    low, high = axes.get_ylim()
    if scale == "log":
        axes.set_ylim(low, high * (high / low) ** 0.14)
        round_ticks(axes)
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
