"""The parts of every picture: the figure and its file, lines of algorithms, bars, axes of sizes."""

import io
import textwrap
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reports.store.result import ResultError
from reports.store.schema import Case, Result
from reports.store.writing import write_named
from reports.tables.sentences import algorithm_of, machine, tick_text

# Okabe and Ito's palette, for readers with any colour vision.
COLOURS = ["#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F"]
# Ten marks and seven colours: lines of one colour differ in their marks.
MARKERS = ["o", "^", "D", "v", "P", "X", "*", "<", ">", "p"]
DASHES = ["-", "--", "-.", ":"]
MOST_TICKS = 13  # of sizes on an axis
# At the default sizes of letters.
TITLE_LETTERS_PER_INCH = 10
NAME_LETTERS_PER_INCH = 13

Style = dict[str, Any]


@contextmanager
def figure(
    target: Path,
    rows: int,
    columns: int,
    size: tuple[float, float],
) -> Iterator[tuple[Any, Any]]:
    """A matplotlib figure of `size` in inches and its axes, of shape (rows, columns); written to
    `target` at the end. Raises ResultError for another suffix or a file that cannot be written."""
    import matplotlib  # not at the top: a table needs no matplotlib
    from matplotlib import pyplot

    if target.suffix not in (".svg", ".png"):
        raise ResultError(f"{target} cannot be drawn: a picture ends in .svg or .png")

    # Without metadata equal drawings are equal files.
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    matplotlib.use("Agg")
    # Text stays text in an .svg, for searches and screen readers; a dollar starts no formula.
    matplotlib.rcParams.update({"svg.fonttype": "none", "text.parse_math": False})
    drawing, axes = pyplot.subplots(
        rows,
        columns,
        figsize=size,
        squeeze=False,
        layout="constrained",
    )

    try:
        yield drawing, axes
        for title in drawing.texts:
            title.set_text(fold(title.get_text(), int(size[0] * TITLE_LETTERS_PER_INCH)))
        file = io.BytesIO()
        drawing.savefig(file, dpi=120, format=target.suffix[1:], metadata=metadata)
        write_named(target, file.getvalue())
    finally:
        pyplot.close(drawing)


def fold(title: str, letters: int) -> str:
    """The lines of a title, each folded at so many letters."""
    return "\n".join(textwrap.fill(line, letters) for line in title.split("\n"))


def figure_title(result: Result) -> str:
    return machine(result) + ("" if result.complete else " (INCOMPLETE)")


def legend_below(drawing: Any, handles: Sequence[Any], names: Sequence[str]) -> Any:
    """A legend under the axes, in as many columns as the figure has room for."""
    names = [fold(name, 60) for name in names]
    letters = max(len(line) for name in names for line in name.split("\n")) + 6  # and its mark
    columns = int(drawing.get_figwidth() * NAME_LETTERS_PER_INCH / letters)
    return drawing.legend(
        handles, names, loc="outside lower center", ncols=max(columns, 1), frameon=False
    )


@dataclass
class Line:
    """A line of a picture: the cases of an algorithm, smallest size first. Lines of algorithms that
    the command line named are bold, with their names beside them."""

    name: str
    style: Style
    cases: list[Case]
    is_named: bool


def lines_of(cases: Sequence[Case], named: Collection[str] = ()) -> list[Line]:
    """The lines of these cases, the library and `auto` first; `named` as of `named_in`."""
    first = {"library": 0, "auto": 1}
    by_key: dict[tuple[str, str], list[Case]] = {}
    for case in sorted(cases, key=lambda case: (first.get(case.algorithm, 2), case.size_bytes)):
        by_key.setdefault((algorithm_of(case), case.variant), []).append(case)

    algorithms = [algorithm for algorithm, _ in by_key]
    lines = []

    for ((algorithm, variant), own), style in zip(
        by_key.items(), styles_of([*by_key], named), strict=True
    ):
        name = (own[0].library or algorithm) + f" {variant}" * (algorithms.count(algorithm) > 1)
        lines.append(Line(name, style, own, algorithm in named))

    return lines


def styles_of(keys: Sequence[tuple[str, str]], named: Collection[str] = ()) -> list[Style]:
    """A style for each (algorithm, variant). The library is black. `auto` is wide and lies under
    the others, because it runs one of them; `named` ones are bold."""
    styles, seen = list[Style](), Counter[str]()
    has_auto = any(algorithm == "auto" for algorithm, _ in keys)

    for algorithm, _ in keys:
        family = algorithm if algorithm in ("library", "auto") else "others"
        place = seen[family]
        seen[family] += 1
        colours, width, marker_size, layer = {
            "library": (["black"], 2.0, 5, 4),
            "auto": (COLOURS[:2], 3.5, 8, 1),
            "others": (COLOURS[2 * has_auto :], 1.2, 4, 3),
        }[family]
        if algorithm in named:
            width, marker_size = 2.6, 6
        styles.append(
            {
                "color": colours[place % len(colours)],
                "marker": MARKERS[place % len(MARKERS)],
                "linestyle": DASHES[place % len(DASHES)],
                "linewidth": width,
                "markersize": marker_size,
                "zorder": layer,
            }
        )

    return styles


def round_ticks(axis: Any) -> None:
    """Round values on a logarithmic axis."""
    from matplotlib.ticker import LogLocator

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")


def dress(axes: Any, sizes: list[int]) -> None:
    """Logarithmic axes with ticks at sizes and at round values."""
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    shown = sizes[:: 1 + (len(sizes) - 1) // MOST_TICKS]
    axes.set_xticks(shown, [tick_text(size) for size in shown])
    axes.set_xlabel("size, bytes")

    round_ticks(axes.yaxis)
    axes.minorticks_off()
    axes.grid(True, alpha=0.25)
