"""The parts of every picture: the figure and its file, lines of algorithms, bars, axes of sizes."""

import io
import textwrap
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count, cycle
from pathlib import Path
from typing import IO, Any

import numpy as np

from reports.store.result import ResultError
from reports.store.schema import Case, Result
from reports.store.writing import write_named
from reports.tables.sentences import machine, tick_text

# Okabe and Ito's palette, for readers with any colour vision. The library is black. Each variant of
# `auto` has one colour in every picture: copied the first, registered the second.
COLOURS = ["#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F"]
# More marks than colours: two lines of one colour differ in their marks.
MARKERS = ["o", "^", "D", "v", "P", "X", "*", "<", ">", "p", "h", "8"]
DASHES = ["-", (0, (8, 1.5)), "-.", (0, (4, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (12, 2)), "-"]
REGIMES = [
    (16384, "left", "latency-bound:\ndecode, 16 KB"),
    (33554432, "right", "bandwidth-bound:\nprefill, 32 MB"),
]
# Ticks in each power of ten on a logarithmic axis. The first that has four inside is drawn.
TICKS: list[Any] = [
    [1],
    [1, 2, 5],
    [1, 1.5, 2, 3, 4, 5, 6, 8],
    [1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 6, 7, 8, 9],
    *(np.arange(1, 10, step) for step in (0.5, 0.2, 0.1, 0.05)),
]
FEWEST_TICKS = 4

Style = dict[str, Any]
# Of the lines beside the library's and those of `auto`, where a picture cannot hide them.
THIN_GREY: Style = {
    "color": "#999999",
    "marker": ".",
    "linestyle": "-",
    "linewidth": 0.9,
    "markersize": 3,
    "zorder": 0.8,
}
OTHERS = "other algorithms"
SMALL_POINTS = 7.5  # the size of a name beside its line
Target = Path | IO[Any]  # a file, a stream of text for svg, or a stream of bytes for png


@contextmanager
def figure(
    target: Target,
    rows: int,
    columns: int,
    size: tuple[float, float],
    sharey: bool = False,
    margins: tuple[float, float, float, float] | None = None,
) -> Iterator[tuple[Any, Any]]:
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
    matplotlib.use("Agg")
    # Text stays text in an .svg, for searches and screen readers; a dollar starts no formula.
    matplotlib.rcParams.update({"svg.fonttype": "none", "text.parse_math": False})
    drawing, axes = pyplot.subplots(
        rows,
        columns,
        figsize=size,
        squeeze=False,
        sharey=sharey,
        layout="none" if margins else "constrained",
    )
    if margins:
        drawing.subplots_adjust(*margins)
    try:
        yield drawing, axes
        if not margins:
            _wrap_titles(drawing)
        file = io.BytesIO()
        drawing.savefig(
            file if isinstance(target, Path) else target,
            dpi=120,
            format=suffix[1:],
            metadata=metadata,
        )
        if isinstance(target, Path):
            write_named(target, file.getvalue())
    finally:
        pyplot.close(drawing)


def _wrap_titles(drawing: Any) -> None:
    """Wraps the titles, and the titles of axes, that leave the figure or reach another panel. The
    figure grows by the new lines."""
    from matplotlib.text import Text

    drawing.draw_without_rendering()  # places the axes
    panels = [axes for axes in drawing.axes if axes.get_visible()]
    boxes = [axes.get_tightbbox(for_layout_only=True) for axes in panels]
    width, height = drawing.bbox.size
    more_points = sum(_wrap(text, (0, width), (0, height)) for text in drawing.texts)
    of_row: dict[int, float] = defaultdict(float)
    for axes in panels:
        left = max((box.x1 for box in boxes if box.x1 <= axes.bbox.x0), default=0.0)
        right = min((box.x0 for box in boxes if box.x0 >= axes.bbox.x1), default=width)
        texts = [child for child in axes.get_children() if isinstance(child, Text)]
        row = axes.get_subplotspec().rowspan.start
        points = sum(
            _wrap(text, (left, right), (0, height))
            for text in (*texts, axes.xaxis.label, axes.yaxis.label)
        )
        of_row[row] = max(of_row[row], points)
    more_points += sum(of_row.values())
    drawing.set_figheight(drawing.get_figheight() + more_points / 72)


def _wrap(text: Any, ends: tuple[float, float], heights: tuple[float, float]) -> float:
    """Wraps a text between these ends in pixels, or heights if it is rotated. Returns the height
    of its new lines in points."""
    whole = text.get_text().split("\n")
    is_rotated, letters = bool(text.get_rotation()), max(map(len, whole))
    low, high = heights if is_rotated else ends
    while letters > 8:
        box = text.get_window_extent()
        first, last = (box.y0, box.y1) if is_rotated else (box.x0, box.x1)
        if first >= low and last <= high:
            break
        letters = 9 * letters // 10
        text.set_text("\n".join(textwrap.fill(line, letters) for line in whole))
    new_lines = text.get_text().count("\n") + 1 - len(whole)
    return 0.0 if is_rotated else 1.2 * text.get_fontsize() * new_lines


def legend_below(drawing: Any, handles: Sequence[Any], names: Sequence[str], **style: Any) -> Any:
    """A legend under the axes with whole names, in as many columns as the figure has room for."""
    names = [textwrap.fill(name, 60) for name in names]
    for columns in range(min(len(names), 7), -1, -1):
        legend = drawing.legend(
            handles,
            names,
            loc="outside lower center",
            ncols=max(columns, 1),
            frameon=False,
            **style,
        )
        if columns < 2 or legend.get_window_extent().width <= drawing.bbox.width:
            break
        legend.remove()
    return legend


def name_ends(axes: Any, ends: Sequence[tuple[str, float, float]]) -> None:
    """Writes its name at the last point, (name, x, y), of each line: in the right margin, one below
    another, or beside a point further left. Only the first name if there is no room for all."""
    heights = axes.transAxes.inverted().transform(
        axes.transData.transform([point for _, *point in ends])
    )[:, 1]
    gap = 1.25 * SMALL_POINTS / (axes.bbox.height * 72 / axes.figure.dpi)
    last = max(x for _, x, _ in ends)
    in_margin = [place for place in np.argsort(heights) if ends[place][1] == last]
    if len(in_margin) * gap > 1:
        return name_ends(axes, ends[:1])
    at = heights[in_margin]
    for place in range(1, len(at)):
        at[place] = max(at[place], at[place - 1] + gap)
    at = np.minimum(at, 1 - gap * np.arange(len(at))[::-1])
    style = {"fontsize": SMALL_POINTS, "va": "center", "color": "#555555"}
    leader = {
        "arrowstyle": "-",
        "color": "#BBBBBB",
        "linewidth": 0.6,
        "shrinkA": 0,
        "shrinkB": 0,
        "relpos": (0, 0.5),
    }
    for place, height in zip(in_margin, at, strict=True):
        name, *point = ends[place]
        axes.annotate(
            name,
            point,
            xytext=(1.03, height),
            textcoords="axes fraction",
            annotation_clip=False,
            arrowprops=leader,
            **style,
        )
    for name, *point in (end for end in ends if end[1] != last):
        axes.annotate(name, point, xytext=(4, 0), textcoords="offset points", **style)


def figure_title(result: Result) -> str:
    return machine(result) + ("" if result.complete else " (INCOMPLETE)")


@dataclass
class Line:
    """A line of a picture: the cases of an algorithm, smallest size first. Pictures with `auto`
    emphasise the library and `auto`, other pictures all lines (`is_main`)."""

    name: str
    style: Style
    cases: list[Case]
    is_main: bool = True


def lines_of(cases: Sequence[Case]) -> list[Line]:
    """The lines of these cases, the library and `auto` first."""
    first = {"library": 0, "auto": 1}
    by_name: dict[str, list[Case]] = defaultdict(list)
    algorithms = [algorithm for algorithm, _ in {(case.algorithm, case.variant) for case in cases}]
    for case in sorted(cases, key=lambda case: (first.get(case.algorithm, 2), case.size_bytes)):
        variant = f" {case.variant}" * (algorithms.count(case.algorithm) > 1)
        by_name[(case.library or case.algorithm) + variant].append(case)
    keys = [(of_line[0].algorithm, of_line[0].variant) for of_line in by_name.values()]
    mains = [algorithm in first or "auto" not in algorithms for algorithm, _ in keys]
    return [*map(Line, by_name, styles_of(keys), by_name.values(), mains)]


def styles_of(keys: Sequence[tuple[str, str]]) -> list[Style]:
    """A style for each (algorithm, variant); the library and `auto` have their own, which every
    picture shares."""
    names = ("color", "marker", "linestyle", "linewidth", "markersize", "zorder")
    autos = list(
        dict.fromkeys(
            [
                "copied",
                "registered",
                *(variant for algorithm, variant in keys if algorithm == "auto"),
            ]
        )
    )
    has_auto, libraries = any(algorithm == "auto" for algorithm, _ in keys), count()
    others = zip(cycle(COLOURS[min(len(autos), 4) * has_auto :]), cycle(MARKERS), cycle(DASHES))
    styles = list[Style]()
    for algorithm, variant in keys:
        if algorithm == "library":
            place = next(libraries)
            look = "black", "sDo^v<>"[place % 7], DASHES[place % len(DASHES)], 2.2, 5, 4
        elif algorithm == "auto":
            # It runs one of the others, so its line is wide and lies under theirs.
            place = autos.index(variant)
            look = COLOURS[place % 4], "dPXp"[place % 4], DASHES[place % len(DASHES)], 3, 8, 1
        else:
            look = *next(others), 1.6, 5, 3
        styles.append(dict(zip(names, look, strict=True)))
    return styles


def round_ticks(axis: Any) -> None:
    """Round values on a logarithmic axis, closer together on a short one."""
    low, high = axis.get_view_interval()
    for steps in TICKS:
        ticks = [step * 10.0**power for power in range(-6, 13) for step in steps]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= FEWEST_TICKS:
            break
    axis.set_ticks(
        ticks, [np.format_float_positional(float(f"{tick:.9g}"), trim="-") for tick in ticks]
    )


def dress(axes: Any, sizes: list[int], scale: str = "log") -> None:
    """Ticks at sizes and round values, and the two regimes of sizes; `scale` is vertical."""
    axes.set_xscale("log", base=2)
    axes.set_yscale(scale)
    shown = sizes[:: 1 + (len(sizes) - 1) // 13]
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
            axes.annotate(
                name,
                (size, 0.98),
                xycoords=axes.get_xaxis_transform(),
                ha=side,
                va="top",
                fontsize=9,
                color="#444444",
                textcoords="offset points",
                xytext=(5 if side == "left" else -5, 0),
            )


@dataclass
class Bar:
    """A bar with its text, the ends of its interval, and the length of its hatched end."""

    name: str
    value: float
    text: str
    colour: str
    ends: tuple[float | None, float | None] = (None, None)
    hatched: float = 0.0


def draw_bars(
    path: Target, result: Result, panels: Sequence[tuple[str, Sequence[Bar]]], xlabel: str
) -> None:
    """A panel of horizontal bars under each title. Raises ResultError without a panel."""
    if not panels:
        raise ResultError(f"{result.path} has no measured case to draw")
    with figure(path, len(panels), 1, (9, 1.1 + 2 * len(panels))) as (drawing, axes):
        for place, (title, bars) in zip(axes[:, 0], panels, strict=True):
            for row, bar in enumerate(bars):
                low, high = (bar.value if end is None else end for end in bar.ends)
                hatched = min(bar.hatched, bar.value)  # medians of different rounds may disagree
                end = bar.value - hatched
                place.barh(row, end, color=bar.colour)
                if hatched:
                    place.barh(row, hatched, left=end, color=bar.colour, alpha=0.5, hatch="///")
                if high > low:
                    place.errorbar(
                        bar.value,
                        row,
                        xerr=[[bar.value - low], [high - bar.value]],
                        ecolor="#777777",
                        capsize=3,
                        fmt="none",
                    )
                place.annotate(
                    bar.text,
                    (max(bar.value, high, 0), row),
                    va="center",
                    fontsize=9,
                    xytext=(6, 0),
                    textcoords="offset points",
                )
            place.set_yticks(range(len(bars)), [textwrap.fill(bar.name, 30) for bar in bars])
            place.invert_yaxis()
            place.axvline(0, color="#444444", linewidth=0.8)
            place.margins(x=0.25)
            place.grid(True, axis="x", alpha=0.25)
            place.set_title(title, fontsize=10, loc="left")
        axes[-1, 0].set_xlabel(xlabel)
        drawing.suptitle(figure_title(result), fontsize=11)
