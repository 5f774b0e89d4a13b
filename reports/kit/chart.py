"""The drawings of pages. A chart is data, which stands in the page as JSON, and which chart.js
draws. Sparklines, intervals and heat are drawings, which need no scripts."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup
from numpy.typing import ArrayLike, NDArray

from reports.tables.figure import DrawnLine
from reports.tables.plot import Quantity
from wiretax.common.untrusted import printable_in

LEAST_MARKS, MOST_MARKS = 3, 120  # of a line over time; of a sparkline, the newest
MOST_LETTERS = 15  # of a name at the end of a line
# The scale of intervals: its least reach, one that is never cut, its ticks.
LEAST_REACH, WHOLE_REACH = 0.03, 0.4
TICKS = 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 3.0, 9.0, 99.0
LEAST_SPAN = 0.05  # of the scale of a sparkline, on either side of its median
HOTTEST, DEEPEST = 0.1, 45  # a share from which heat is deepest, and its percentage of colour

SIGNS = (
    (r"[-+](?=0\.0%)", ""),
    (r"(?<=\d) ?%", "\u00a0%"),
    (r"(?<![A-Za-z_./-])us(?![\w/-]|\.\w)", "µs"),
    (r"(?<![\w.-])(\d+(?:\.\d+)?)x(?!\w)", r"\1×"),  # not of mi300x or NCCL 1.x
    (r"(?<=\d) x (?=the |its )", "× "),
    (r"\+-", "±"),
    (r"->", "→"),
    (r"<=", "≤"),
    (r">=", "≥"),
    (r"(?<![./\w])(all|allgather|allreduce|gemm|gemv|reduce)_(?!reduce_perf)", r"\1-"),
    (r"(?<=-to)_(?=all)|(?<=-reduce)_(?=scatter)", "-"),
    (r"\b(machine|software|run)_id\b", r"\1 id"),
)


@dataclass
class Curve:
    """A line of a chart: its values, or these and the ends of their intervals, (3, n); NaN where it
    has a gap. `role` is a class of page.css, or that and `dotted`. A line that is not `shown` waits
    for a click. With `levels`, (1, n), its values are dots."""

    name: str
    role: str
    points: NDArray[np.float64]
    shown: bool = True
    levels: ArrayLike = ()

    def __post_init__(self) -> None:
        self.points = np.atleast_2d(self.points)
        if not (np.ptp(self.points, axis=0) > 0).any():  # intervals without extent claim nothing
            self.points = self.points[:1]


@dataclass
class Chart:
    """Lines in a `unit` over `x`: sizes in `bytes`, seconds since 1970 (`time`), or percentiles, as
    the number of steps of which one takes longer (`one_in`). `steps` are changes: `at` has the
    first position after one and the ends of its interval, `role` is `worse` or `better`, and `text`
    stands above it. `links` are the files of pages about the positions. `ends` says what the ends
    of intervals are, `word` is the verdict. Of charts with a `choice`, which a list names, a page
    shows one at a time."""

    title: str
    x: Sequence[float]
    lines: Sequence[Curve]
    unit: str
    kind: str = "bytes"
    steps: Sequence[dict[str, Any]] = ()
    links: Sequence[str] = ()
    ends: str = "95 %"
    word: str = ""
    choice: str = ""

    @property
    def head(self) -> str:
        """What the values under the crosshair are: `GB/s [95 %]`; times name their unit."""
        unit = self.unit.removeprefix("us").replace("x", "×")
        if any(len(line.points) > 1 for line in self.lines):
            return f"{unit} [{self.ends}]"
        return unit

    def label(self, number: int) -> str:
        """The name at the end of a line; a long one is cut, behind its number in the table."""
        name = signs(self.lines[number].name)
        return name if len(name) <= MOST_LETTERS else f"{number + 1}. {name[: MOST_LETTERS - 4]}…"

    @property
    def json(self) -> Markup:
        """The data for chart.js; harmless inside of a <script>."""
        n_rows = 3 if self.kind == "one_in" else 1  # the intervals of percentiles reach far
        rows = [row for line in self.lines for row in line.points[:n_rows].tolist()]
        values = [each for row in rows for each in row if each > 0]
        data = vars(self) | {
            "isLog": self.kind != "time" and max(values, default=0) > 10 * min(values, default=0),
            "lines": [
                vars(line)
                | {
                    "name": self.label(number),
                    "points": _numbers(line.points),
                    "levels": _numbers(line.levels),
                }
                for number, line in enumerate(self.lines)
            ],
        }
        return htmlsafe_json_dumps(printable_in(data), separators=(",", ":"))


def chart_of(
    quantity: Quantity, lines: Sequence[DrawnLine], also_bytes: Collection[int] = ()
) -> Chart:
    """Each line's figures and the ends of their intervals at each size, and the bound; the axis has
    `also_bytes` too."""
    of_lines = {case.size_bytes for line in lines for case in line.cases}
    drawn, sizes = [], sorted(of_lines | {*also_bytes})
    for line in lines:
        points = np.full((3, len(sizes)), np.nan)
        for case in line.cases:
            points[:, sizes.index(case.size_bytes)] = quantity.of(case)
        if np.isfinite(points).any():
            drawn.append(Curve(line.name, line.role, points, line.is_shown))

    if quantity.bounds:
        bounds = np.array([quantity.bounds.get(size, np.nan) for size in sizes])
        drawn.append(Curve("roofline", "bound", bounds))

    return Chart(quantity.title, sizes, drawn, quantity.unit)


def signs(text: str) -> str:
    """The text as pages have it: a plain text's `us`, `x`, `+-` and `->` as signs, a space before
    `%`, no sign at a zero, and one spelling of an algorithm."""
    for pattern, sign in SIGNS:
        text = re.sub(pattern, sign, text)

    return text


def spark(values: NDArray[np.float64], steps: Sequence[Any] = ()) -> Markup:
    """The newest values as a line with a dot at its end, and a line at each step."""
    if len(values) < LEAST_MARKS:
        return Markup("")

    shown = values[-MOST_MARKS:]
    hidden, last = len(values) - len(shown), len(shown) - 1
    logs = np.log(shown / np.median(shown))
    ends = min(-LEAST_SPAN, logs.min()), max(LEAST_SPAN, logs.max())
    ys = np.interp(logs, ends, (32, 0))
    line = " ".join(f"{x} {y:.1f}" for x, y in enumerate(ys))
    box = f'viewBox="{-last / 40} -4 {1.05 * last} 40" preserveAspectRatio="none"'
    return _drawing(
        f'class="spark" aria-hidden="true" {box}',
        "".join(_path(step.word, f"M{step.first - hidden - 0.5} -4v40") for step in steps)
        + _path("ours", f"M{line}")
        + _path("ours end", f"M{last} {ys[-1]:.1f}h0"),
    )


def forest(
    figures: ArrayLike, roles: Sequence[str], margin: float = 0, words: str = "faster | slower"
) -> tuple[str, list[Markup]]:
    """Rows (value, low, high), shares by which each is slower, on one logarithmic scale: a heading
    that says where its lines are, and a drawing each, with an arrow where it is cut and the margin
    as a band."""
    logs = np.log1p(np.asarray(figures, dtype=float))
    ends = np.nan_to_num(np.abs(logs)).max(axis=1)
    reach = 1.1 * min(max(LEAST_REACH, ends.max()), max(WHOLE_REACH, 8 * np.median(ends)))
    scale = 160 / reach
    tick = max(each for each in TICKS if np.log1p(each) < 0.95 * reach)
    heading = f"{words}, lines at {-tick / (1 + tick):.0%} and {tick:+.0%}"
    at = scale * np.log1p(tick)
    wide = scale * np.log1p(margin)
    grid = _path("bound", "M0 0v24") + _path("edge", f"M{-at:.1f} 0v24m{2 * at:.1f} 0v-24")
    grid += _path("band steady", f"M{-wide:.1f} 0h{2 * wide:.1f}v24h{-2 * wide:.1f}z")

    drawings = []
    for role, row in zip(roles, scale * logs, strict=True):
        value, low, high = np.clip(np.where(np.isnan(row), row[0], row), -156, 156)
        drawn = grid
        if np.isfinite(value):
            drawn += _path(role, f"M{low:.1f} 12H{high:.1f}")
        for side in (-1, 1):
            if (side * row).max() > 160:
                drawn += _path(role, f"M{side * 148} 6l{side * 8} 6l{side * -8} 6")
        if -160 <= row[0] <= 160:
            drawn += _path(f"{role} end", f"M{value:.1f} 12h0")
        drawings.append(_drawing('class="range" aria-hidden="true" viewBox="-160 0 320 24"', drawn))

    return heading, drawings


def heat(share: float, text: str = "", hottest: float = HOTTEST) -> Markup:
    """A share as a cell of a heat map, deepest from `hottest` on; or this text on its colour."""
    if np.isnan(share):
        return Markup("-")

    depth = round(DEEPEST * min(max(share, 0) / hottest, 1))
    cell = Markup('<div class="heat worse" style="--heat:{}%">{}</div>')
    return cell.format(depth, signs(text or f"{share:+.1%}"))


def _drawing(attributes: str, paths: str) -> Markup:
    return Markup(f"<svg {attributes}>{paths}</svg>")


def _path(role: str, points: str) -> str:
    return f'<path class="{role}" d="{points}"/>'


def _numbers(rows: ArrayLike) -> list[list[float | None]]:
    """Five digits of each value, which JSON needs not exceed; None for a gap."""
    return [
        [float(f"{value:.5g}") if np.isfinite(value) else None for value in row]
        for row in np.asarray(rows).tolist()
    ]
