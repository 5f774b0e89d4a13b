"""What all pictures share: colours by role, letters, title and footer, labels beside lines, axes of
sizes, and the choice of the few lines that are drawn."""

import io
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from math import inf
from pathlib import Path
from typing import Any

from reports.tables.rows import cost_us
from reports.tables.sentences import algorithm_of, shape_of, tick_text
from wiretax.common.grouped import grouped
from wiretax.record.case import is_own_benchmark
from wiretax.record.result import ResultError
from wiretax.record.schema import Case
from wiretax.record.writing import write_named

# On light and on dark; pages have them as variables. docs/design-pages.md has their meaning.
ROLES = {
    "page": ("#ffffff", "#0f1318"),
    "ink": ("#171b21", "#e8ebf0"),
    "quiet": ("#545d69", "#a0a9b6"),
    "edge": ("#d9dee5", "#303844"),
    "worse": ("#a83a00", "#ff9e66"),
    "better": ("#00694d", "#4fcfa3"),
    "unsure": ("#735400", "#ecbd4f"),
    "steady": ("#545d69", "#a0a9b6"),
    "ours": ("#005fa3", "#66b5f2"),
    "library": ("#171b21", "#e8ebf0"),
    "bound": ("#7a8491", "#838d9a"),
    "line-1": ("#a3487a", "#e39ac2"),
    "line-2": ("#0b7285", "#5cc8d2"),
    "line-3": ("#a86b00", "#e69f00"),
    "line-4": ("#2b86c0", "#56b4e9"),
    "line-5": ("#6a4fb0", "#b9a3ff"),
}
STYLE: Any = {
    "axes.edgecolor": "edge",
    "axes.facecolor": "page",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": "quiet",
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "figure.facecolor": "page",
    "font.size": 9,
    "grid.color": "edge",
    "savefig.dpi": 160,
    # Text stays text in an .svg, for searches and screen readers; a dollar starts no formula.
    "svg.fonttype": "none",
    "text.color": "ink",
    "text.parse_math": False,
    "xtick.color": "quiet",
    "xtick.major.size": 0,
    "ytick.color": "quiet",
    "ytick.major.size": 0,
}
WIDEST_IN = 13.5  # a picture
TITLE, QUIET = 12, 8  # sizes of letters in points
LABEL_PITCH = 11  # points of a line of a label
MOST_TICKS = 7  # of sizes on an axis
MOST_NAMED = 4  # algorithms of the command line in a picture; the best has the fifth hue

Key = tuple[str, str]  # an algorithm and a variant


def can_draw() -> bool:
    """Whether matplotlib is here: the pictures need it, and the tables and pages do not."""
    return find_spec("matplotlib") is not None


def use_colours(is_dark: bool = False) -> None:
    """Makes the roles names of colours in matplotlib."""
    from matplotlib import colors  # not at the top: a table needs no matplotlib

    names = colors.get_named_colors_mapping()
    for role, shades in ROLES.items():
        names[role] = shades[is_dark]


@contextmanager
def figure(
    target: Path,
    count: int,
    size_in: tuple[float, float],
    title: str,
    footer: str,
    most_columns: int = 9,
) -> Iterator[list[Any]]:
    """The axes of `count` panels of a size, written to `target` at the end: in dark colours if its
    name ends in `-dark`. The title is the finding, the footer says what was measured, where and
    when. Raises ResultError for another suffix or a file that cannot be written, and without
    matplotlib."""
    if not can_draw():
        raise ResultError("pictures are drawn by matplotlib: pip install 'matplotlib>=3.10'")
    import matplotlib as mpl
    from matplotlib.figure import Figure

    if target.suffix not in (".svg", ".png"):
        raise ResultError(f"{target} cannot be drawn: a picture ends in .svg or .png")

    rows = -(-count // max(min(int(WIDEST_IN / size_in[0]), most_columns), 1))
    columns = -(-count // rows)
    width, height = columns * size_in[0], 0.9 + rows * size_in[1]
    use_colours(target.stem.endswith("-dark"))

    with mpl.rc_context(STYLE):
        drawing = Figure((width, height), layout="constrained")
        style = {"x": 0.08 / width, "ha": "left"}
        drawing.suptitle(fold(title, width, TITLE), fontsize=TITLE, weight="bold", **style)
        footer = fold(footer, width, QUIET)
        drawing.supxlabel(footer, fontsize=QUIET, color="quiet", **style)
        yield [drawing.add_subplot(rows, columns, 1 + at) for at in range(count)]
        file = io.BytesIO()
        drawing.savefig(
            file,
            format=target.suffix[1:],
            # Without metadata equal drawings are equal files, and no SVG names another site.
            metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")),
        )
        write_named(target, file.getvalue())


def fold(text: str, width_in: float, size: float = 10) -> str:
    """A text in lines of this width, in letters of so many points."""
    return textwrap.fill(text, int(width_in * 120 / size), break_on_hyphens=False)


def label_ends(axes: Any, letters: int) -> None:
    """Writes the label of each line, so many letters wide, to the right of the axes: as high as the
    line ends, or below the label above, with room for those below. To be called when all lines are
    drawn."""
    axes.figure.draw_without_rendering()
    scale = 72 / axes.figure.dpi  # pixels in points
    heights = {
        line: scale * (axes.transData.transform(line.get_xydata()[-1])[1] - axes.bbox.y0)
        for line in axes.lines
        if not line.get_label().startswith("_")  # matplotlib's own name
    }
    texts = {line: textwrap.fill(line.get_label(), letters) for line in heights}
    needed = {line: LABEL_PITCH * (1 + text.count("\n")) for line, text in texts.items()}
    free, below = (
        inf,
        sum(needed.values(), 0.0),
    )  # points up to the label above, and of all below it
    for line in sorted(heights, key=lambda line: heights[line], reverse=True):
        color, half = line.get_color(), needed[line] / 2
        height = min(max(heights[line], below - half), free - half)
        free, below = height - half, below - 2 * half
        axes.annotate(
            texts[line],
            line.get_xydata()[-1],
            (1.04, height),
            textcoords=("axes fraction", "axes points"),
            color=color,
            va="center",
            arrowprops={
                "arrowstyle": "-",
                "color": color,
                "linewidth": 0.5,
                "relpos": (0, 0.5),
                "shrinkA": 1,
            },
        )


@dataclass
class DrawnLine:
    """A line of a picture or a chart: the cases of an algorithm, or published figures, smallest
    size first. `role` is its colour. `is_shown`: a picture draws it."""

    name: str
    role: str
    cases: Sequence[Any]
    is_shown: bool

    @property
    def width(self) -> float:
        return 1.8 if self.role in ("library", "ours") else 1.2


def lines_of(cases: Sequence[Case], named: Sequence[str]) -> list[DrawnLine]:
    """The lines of these cases, those that are shown first; `named` as of `named_in`."""
    by_size = sorted(cases, key=lambda case: case.size_bytes)
    by_key = grouped(by_size, lambda case: (line_name(case), case.variant))
    shown = shown_keys(by_key, named)
    keys = [*shown, *(key for key in by_key if key not in shown)]
    algorithms = [algorithm for algorithm, _ in keys]
    lines = list[DrawnLine]()
    for key, role in zip(keys, roles_of(algorithms), strict=True):
        (algorithm, variant), own = key, by_key[key]
        name = own[0].library or algorithm
        if algorithms.count(algorithm) > 1:
            name += f" {variant}"
        lines.append(DrawnLine(name, role, own, key in shown))

    return lines


def line_name(case: Case) -> str:
    """The algorithm, and of a program's own work the shape."""
    shape = shape_of(case) if is_own_benchmark(case) else ""
    return f"{algorithm_of(case)} {shape}".strip()


def shown_keys(by_key: Mapping[Key, Sequence[Case]], named: Sequence[str]) -> list[Key]:
    """`auto`, the library, what was named, and the best other algorithm of ours, each in its best
    variant: the cheapest at the largest size. `auto` in all its variants, as the headline takes the
    best at each size."""

    def last_cost(key: Key) -> tuple[int, float]:
        case = by_key[key][-1]
        return -case.size_bytes, cost_us(case) or 0

    best = dict[str, Key]()
    for key in sorted(by_key, key=last_cost):
        best.setdefault(key[0], key)
    others = [name for name in best if name not in ("library", "auto")]
    wanted = dict.fromkeys(["auto", "library", *named[:MOST_NAMED], *others[:1]])
    shown = [best[name] for name in wanted if name in best]
    return shown + [key for key in by_key if key[0] == "auto" and key not in shown]


def roles_of(algorithms: Sequence[str]) -> list[str]:
    """The role of each algorithm's line: one is the library, one is ours."""
    roles, hues = list[str](), 0
    for algorithm in algorithms:
        role = {"library": "library", "auto": "ours"}.get(algorithm)
        if role is None or role in roles:
            role, hues = f"line-{hues % 5 + 1}", hues + 1
        roles.append(role)

    return roles


def apart(sizes: Sequence[int], span: float) -> list[int]:
    """The sizes whose ticks have room on a logarithmic axis that spans this factor."""
    least = span ** (0.5 / MOST_TICKS)
    shown = list(sizes[:1])
    for size in sizes[1:]:
        if size >= shown[-1] * least:
            shown.append(size)
    return shown


def dress(axes: Any, sizes: Sequence[int]) -> None:
    """Logarithmic axes with ticks at sizes and at round values."""
    from matplotlib.ticker import LogLocator

    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    shown = apart(sizes[:: 1 + (len(sizes) - 1) // MOST_TICKS], sizes[-1] / sizes[0])
    axes.set_xticks(shown, [tick_text(size) for size in shown])
    axes.set_xlabel("size, bytes")
    low, high = axes.get_ylim()
    subs = (1, 2, 5) if high > 10 * low else (1, 1.2, 1.5, 2, 3, 4, 5, 6, 8)
    axes.yaxis.set_major_locator(LogLocator(subs=subs))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
