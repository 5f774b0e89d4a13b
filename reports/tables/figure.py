"""The parts of every picture: the figure and its file, lines of algorithms, bars, axes of sizes."""

import io
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, repeat
from pathlib import Path
from typing import IO, Any

import numpy as np

from reports.store.result import ResultError
from reports.store.schema import Case, Result
from reports.store.writing import write_named
from reports.tables.sentences import machine, tick_text

# Okabe and Ito's palette, for readers with any colour vision; the library is black.
COLOURS = ["#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F"]
# More marks than colours: two lines of one colour differ in their marks.
MARKERS = ["o", "^", "D", "v", "P", "X", "*", "<", ">", "p", "h", "8"]
DASHES = ["-", (0, (8, 1.5)), "-.", (0, (4, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (12, 2)), "-"]
REGIMES = [(16384, "left", "latency-bound:\ndecode, 16 KB"),
           (33554432, "right", "bandwidth-bound:\nprefill, 32 MB")]
# The ticks in each power of ten on a logarithmic axis, by the largest ratio of its ends.
TICKS: dict[float, list[float]] = {3: [1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 6, 7, 8, 9],
                                   20: [1, 1.5, 2, 3, 4, 5, 6, 8], 1e3: [1, 2, 5], np.inf: [1]}

Style = dict[str, Any]
Target = Path | IO[Any]  # a file, a stream of text for svg, or a stream of bytes for png


@contextmanager
def figure(target: Target, rows: int, columns: int, size: tuple[float, float],
           sharey: bool = False, margins: tuple[float, float, float, float] | None = None,
           **saving: Any) -> Iterator[tuple[Any, Any]]:
    """A matplotlib figure of `size` in inches and its axes, of shape (rows, columns); written to
    `target` at the end. `margins` are left, bottom, right and top, as shares of the figure; None
    computes them. Raises ResultError for another suffix, and if the file cannot be written."""
    import matplotlib  # not at the top: a table needs no matplotlib
    from matplotlib import pyplot

    suffix = getattr(target, "suffix", ".png" if isinstance(target, io.BytesIO) else ".svg")
    if suffix not in (".svg", ".png"):
        raise ResultError(f"{target} cannot be drawn: a picture ends in .svg or .png")
    # Without metadata equal drawings are equal files, and a page's SVG names no other site.
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    saving = dict[str, Any](dpi=120, format=suffix[1:], metadata=metadata) | saving
    matplotlib.use("Agg")
    # Text stays text in an .svg, for searches and screen readers; a dollar starts no formula.
    matplotlib.rcParams.update({"svg.fonttype": "none", "text.parse_math": False})
    drawing, axes = pyplot.subplots(rows, columns, figsize=size, squeeze=False, sharey=sharey,
                                    layout="none" if margins else "constrained")
    if margins:
        drawing.subplots_adjust(*margins)
    try:
        yield drawing, axes
        file = io.BytesIO()
        drawing.savefig(file if isinstance(target, Path) else target, **saving)
        if isinstance(target, Path):
            write_named(target, file.getvalue())
    finally:
        pyplot.close(drawing)


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
    first = {"library": 0, "auto": 1}
    by_name: dict[str, list[Case]] = defaultdict(list)
    algorithms = [algorithm for algorithm, _ in {(case.algorithm, case.variant) for case in cases}]
    for case in sorted(cases, key=lambda case: (first.get(case.algorithm, 2), case.size_bytes)):
        variant = f" {case.variant}" * (algorithms.count(case.algorithm) > 1)
        by_name[(case.library or case.algorithm) + variant].append(case)
    styles = styles_of([of_line[0].algorithm for of_line in by_name.values()])
    return [*map(Line, by_name, styles, by_name.values())]


def styles_of(algorithms: Sequence[str]) -> list[Style]:
    """The style of each algorithm's line; the library and `auto` have their own."""
    names = ("color", "marker", "linestyle", "linewidth", "markersize", "zorder")
    # auto runs one of the others, so its line lies under theirs.
    special = {"library": ("black", "s", "-", 2.2, 5, 4), "auto": ("#F0C808", "d", "-", 4, 8, 1)}
    others = zip(cycle(COLOURS), cycle(MARKERS), cycle(DASHES), repeat(1.6), repeat(5), repeat(3))
    return [dict(zip(names, special.get(algorithm) or next(others), strict=True))
            for algorithm in algorithms]


def round_ticks(axis: Any) -> None:
    """Round values on a logarithmic axis, closer together on a short one."""
    low, high = axis.get_view_interval()
    steps = next(steps for most, steps in TICKS.items() if high / low < most)
    ticks = [step * 10.0**power for power in range(-6, 13) for step in steps]
    ticks = [tick for tick in ticks if low <= tick <= high]
    axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])


def dress(axes: Any, sizes: list[int], scale: str = "log", most_ticks: int = 13) -> None:
    """Ticks at sizes and round values, and the two regimes of sizes; `scale` is vertical."""
    axes.set_xscale("log", base=2)
    axes.set_yscale(scale)
    shown = sizes[:: 1 + (len(sizes) - 1) // most_ticks]
    axes.set_xticks(shown, [tick_text(size) for size in shown])
    axes.minorticks_off()
    axes.set(xlim=(sizes[0] / 1.5, sizes[-1] * 1.5), xlabel="size, bytes")
    low, high = np.maximum(axes.get_ylim(), axes.get_ylim()[1] / 1e12)  # an end may be near 0
    if scale == "log":
        axes.set_ylim(low, high * (high / low) ** 0.14)
        round_ticks(axes.yaxis)
    else:
        axes.set_ylim(0, high * 1.14)
    axes.grid(True, alpha=0.25)
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


def draw_bars(path: Target, result: Result, panels: Sequence[tuple[str, Sequence[Bar]]],
              xlabel: str) -> None:
    """A panel of horizontal bars under each title. Raises ResultError without a panel."""
    if not panels:
        raise ResultError(f"{result.path} has no measured case to draw")
    with figure(path, len(panels), 1, (9, 1.1 + 2 * len(panels))) as (drawing, axes):
        for place, (title, bars) in zip(axes[:, 0], panels, strict=True):
            for row, bar in enumerate(bars):
                low, high = (bar.value if end is None else end for end in bar.ends)
                end = bar.value - bar.hatched
                place.barh(row, end, color=bar.colour)
                if bar.hatched:
                    place.barh(row, bar.hatched, left=end, color=bar.colour, alpha=0.5, hatch="///")
                if high > low:
                    place.errorbar(bar.value, row, xerr=[[bar.value - low], [high - bar.value]],
                                   ecolor="#777777", capsize=3, fmt="none")
                place.annotate(bar.text, (max(bar.value, high, 0), row), va="center", fontsize=9,
                               xytext=(6, 0), textcoords="offset points")
            place.set_yticks(range(len(bars)), [bar.name for bar in bars])
            place.invert_yaxis()
            place.axvline(0, color="#444444", linewidth=0.8)
            place.margins(x=0.25)
            place.grid(True, axis="x", alpha=0.25)
            place.set_title(title, fontsize=10, loc="left")
        axes[-1, 0].set_xlabel(xlabel)
        drawing.suptitle(figure_title(result), fontsize=11)
