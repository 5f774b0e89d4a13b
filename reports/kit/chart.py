"""The drawings of pages. A chart is data, which stands in the page as a drawing, for print and
without scripts, and as JSON, from which chart.js draws what reacts to the reader. Sparklines,
intervals and heat are drawings alone."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import numpy as np
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup, escape
from numpy.typing import ArrayLike, NDArray

from reports.store.untrusted import printable, printable_in
from reports.tables.sentences import tick_text

WIDTH, HEIGHT, LEFT, BOTTOM = 640, 240, 56, 24  # of a chart and its margins
MOST_TICKS = 10
MOST_DECADES = 9  # of a logarithmic axis without a gap between its labels
LEAST_MARKS, MOST_MARKS = 3, 120  # of a line over time; of a sparkline, the newest
# The scale of intervals: its least reach, one that is never cut, its ticks.
LEAST_REACH, WHOLE_REACH = 0.03, 0.4
TICKS = 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 3.0, 9.0, 99.0
LEAST_SPAN = 0.05  # of the scale of a sparkline, on either side of its median
NAME_LETTERS, NAME_WIDTH = 16, 104  # at the ends of lines
HOTTEST, DEEPEST = 0.1, 45  # a share from which heat is deepest, and its percentage of colour

SIGNS = [
    (re.compile(pattern), sign)
    for pattern, sign in (
        (r"[-+](?=0\.0%)", ""),
        (r"(?<=\d) ?%", "\u00a0%"),
        (r"(?<![A-Za-z_./-])us(?![\w./-])", "µs"),
        (r"(?<![\w.-])(\d[\d.]*)x(?!\w)", r"\1×"),  # not of mi300x
        (r"\+-", "±"),
        (r"->", "→"),
        (r"<=", "≤"),
        (r">=", "≥"),
        (r"\b(one|two)_shot", r"\1-shot"),
        (r"(?<=-shot)_", " "),
        (r"\b(machine|software|run)_id\b", r"\1 id"),
    )
]


@dataclass
class Curve:
    """A line of a chart: its values, or these and the ends of their intervals, (3, n); NaN where it
    has a gap. `role` is a class of page.css. A line that is not `shown` waits for a click. With
    `levels`, which are (start, stop, value), its values are dots."""

    name: str
    role: str
    points: NDArray[np.float64]
    shown: bool = True
    levels: Sequence[tuple[float, float, float]] = ()

    def __post_init__(self) -> None:
        self.points = np.atleast_2d(self.points)
        if not (np.ptp(self.points, axis=0) > 0).any():  # intervals without extent claim nothing
            self.points = self.points[:1]


@dataclass
class ChangeMark:
    """A change before the first position of `at`, with its interval, the others; `role` is `worse`
    or `better`."""

    at: Sequence[float]
    role: str
    text: str


@dataclass
class Chart:
    """Lines in a `unit` over `x`: sizes in `bytes`, or seconds since 1970 (`time`).
    `links` are the files of pages about the positions. Lines with `spans` cross their gaps. `ends`
    says what the ends of intervals are, `word` is the verdict."""

    title: str
    x: Sequence[float]
    lines: Sequence[Curve]
    unit: str
    kind: str = "bytes"
    steps: Sequence[ChangeMark] = ()
    links: Sequence[str] = ()
    spans: bool = False
    ends: str = "95 %"
    word: str = ""

    @property
    def has_intervals(self) -> bool:
        return any(len(line.points) > 1 for line in self.lines)

    @property
    def is_log(self) -> bool:
        """Whether the values, if not over time, differ by more than a factor of ten."""
        values = np.concatenate([line.points[0] for line in self.lines])
        values = values[values > 0]
        return self.kind != "time" and len(values) > 0 and bool(values.max() > 10 * values.min())

    @property
    def json(self) -> Markup:
        """The data for chart.js; harmless inside of a <script>."""
        data = vars(self) | {
            "lines": [vars(line) | {"points": _numbers(line.points)} for line in self.lines],
            "steps": list(map(vars, self.steps)),
            "is_log": self.is_log,
        }
        return htmlsafe_json_dumps(printable_in(data), separators=(",", ":"))

    @property
    def svg(self) -> Markup:
        """The lines that are shown, with round values on both axes."""
        shown = [line for line in self.lines if line.shown] or self.lines
        floor, right = HEIGHT - BOTTOM, WIDTH - 16
        if len(shown) > 1:
            right -= NAME_WIDTH
        x = Axis(self.x, LEFT, right, self.kind == "bytes")
        y = Axis(np.stack([line.points[0] for line in shown]), floor, 8, self.is_log)
        parts = [
            f"{_path('edge', f'M{LEFT} {y.at(tick):.1f}H{right}')}"
            f'<text x="{LEFT - 8}" y="{y.at(tick) + 4:.1f}" text-anchor="end">'
            f"{_tick_text(tick, self.unit)}</text>"
            for tick in y.ticks()
        ]
        for tick, name in self._marks(x):
            place = f'x="{x.at(tick):.1f}" y="{HEIGHT - 4}" text-anchor="middle"'
            parts.append(f"<text {place}>{name}</text>")
        for step in self.steps:
            first, low, high = x.at(step.at)
            band = f"M{low:.1f} 8H{high:.1f}V{floor}H{low:.1f}z"
            parts += _path(f"band {step.role}", band), _path(step.role, f"M{first:.1f} 8V{floor}")
        ends_at = list[tuple[float, str]]()
        for line in shown:
            places = x.at(self.x)
            middle, *ends = np.clip(y.at(line.points), 8, floor)
            if ends:
                outline = path([*places, *places[::-1]], [*ends[0], *ends[1][::-1]])
                parts.append(_path(f"band {line.role}", f"{outline}z"))
            drawn = np.isfinite(middle) | (not self.spans)
            if line.levels:
                # Each dot from the one before: a page has thousands.
                dots = np.round(np.stack([places, middle])[:, np.isfinite(middle)])
                moves = np.diff(dots, axis=1, prepend=0).T.tolist()
                dotted = "".join(f"m{x:.0f} {y:.0f}h0" for x, y in moves)
                parts.append(_path(f"{line.role} dot", dotted))
                for start, stop, value in line.levels:
                    level = f"M{x.at(start):.1f} {y.at(value):.1f}H{x.at(stop):.1f}"
                    parts.append(_path(line.role, level))
            else:
                parts.append(_path(line.role, path(places[drawn], middle[drawn])))
            if np.isfinite(middle).any():
                ends_at.append((float(middle[np.isfinite(middle)][-1]), line.name))

        least = 8.0
        for height, name in sorted(ends_at) if len(shown) > 1 else ():
            least = max(least, height)
            text = escape(printable(name[:NAME_LETTERS]))
            parts.append(f'<text x="{right + 6}" y="{least + 4:.1f}">{text}</text>')
            least += 12

        label = escape(printable(self.title))
        return _drawing(f'role="img" aria-label="{label}" viewBox="0 0 {WIDTH} {HEIGHT}"', *parts)

    def _marks(self, axis: "Axis") -> list[tuple[float, str]]:
        """Positions on the axis with their names."""
        if self.kind == "bytes":
            shown = self.x[:: 1 + (len(self.x) - 1) // MOST_TICKS]
            return [(size, tick_text(int(size))) for size in shown]
        seconds = np.linspace(axis.low, axis.high, 7)[1::2].tolist()
        return [
            (at, f"{datetime.fromtimestamp(at, timezone.utc):%Y-%m-%d %H:%M}") for at in seconds
        ]


def signs(text: str) -> str:
    """The text as pages have it: a plain text's `us`, `x`, `+-` and `->` as signs, a space before
    `%`, no sign at a zero, and one spelling of an algorithm."""
    for pattern, sign in SIGNS:
        text = pattern.sub(sign, text)

    return text


class Axis:
    """Values to positions of a drawing, from `start` to `stop`."""

    def __init__(self, values: ArrayLike, start: float, stop: float, is_log: bool) -> None:
        finite = np.asarray(values, dtype=float)
        finite = finite[np.isfinite(finite) & ((finite > 0) | (not is_log))]
        self.is_log, self.start, self.stop = is_log, start, stop
        self.low = float(finite.min()) if len(finite) else 1.0
        self.high = float(finite.max()) if len(finite) else 2.0
        if self.low == self.high:
            self.low, self.high = 0.9 * self.low, 1.1 * self.low + (self.low == 0)

    def at(self, values: ArrayLike) -> Any:
        array, ends = np.asarray(values, dtype=float), np.array([self.low, self.high])
        if self.is_log:
            with np.errstate(divide="ignore", invalid="ignore"):
                array, ends = np.log(array), np.log(ends)

        return self.start + (self.stop - self.start) * (array - ends[0]) / (ends[1] - ends[0])

    def ticks(self) -> list[float]:
        """Round values between the ends: decades, with 2 and 5 if these are few, or multiples of
        which six intervals fit, also where a logarithmic axis has fewer than two of the former."""
        ticks = list[float]()
        if self.is_log:
            digits = (1, 2, 5) if self.high < 300 * self.low else (1,)
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            every = -(-len(decades) // MOST_DECADES)
            ticks = [float(f"{digit}e{k}") for k in decades[::every] for digit in digits]
        if sum(self.low <= tick <= self.high for tick in ticks) < 2:
            least = (self.high - self.low) / 6
            scale = 10.0 ** math.floor(math.log10(least))
            step = next(k * scale for k in (1, 2, 5, 10) if k * scale >= least * (1 - 1e-9))
            first, last = math.floor(self.low / step), math.ceil(self.high / step)
            ticks = [float(f"{k * step:.12g}") for k in range(first, last + 1)]  # 0.3, not 3 * 0.1
        return [tick for tick in ticks if self.low <= tick <= self.high]


def path(xs: ArrayLike, ys: ArrayLike) -> str:
    """A line through points, with a gap at NaN and a dot for a lone point."""
    parts, pen = [], "M"
    for x, y in zip(np.asarray(xs).tolist(), np.asarray(ys).tolist(), strict=True):
        if not np.isfinite(y):
            pen = "M"
            continue
        parts.append(f"{pen}{x:.1f} {y:.1f}{'h0' if pen == 'M' else ''}")
        pen = "L"

    return "".join(parts)


def spark(values: ArrayLike, steps: Sequence[Any] = ()) -> Markup:
    """The newest values as a line with a dot at its end, and a line at each step."""
    every = np.asarray(values, dtype=float)
    if len(every) < LEAST_MARKS:
        return Markup("")

    shown = every[-MOST_MARKS:]
    hidden, last = len(every) - len(shown), len(shown) - 1
    middle = np.median(shown)
    scale = [*shown, middle * (1 - LEAST_SPAN), middle * (1 + LEAST_SPAN)]
    ys = Axis(scale, 32, 0, True).at(shown)
    box = f'viewBox="{-last / 40} -4 {1.05 * last} 40" preserveAspectRatio="none"'
    return _drawing(
        f'class="spark" aria-hidden="true" {box}',
        *(_path(step.word, f"M{step.first - hidden - 0.5} -4v40") for step in steps),
        _path("ours", path(np.arange(len(shown)), ys)),
        _path("ours end", f"M{last} {ys[-1]:.1f}h0"),
    )


def forest(
    figures: ArrayLike, roles: Sequence[str], margin: float = 0, words: str = "faster | slower"
) -> tuple[Markup, list[Markup]]:
    """Rows (value, low, high), shares by which each is slower, on one logarithmic scale: a heading
    with its ticks, and a drawing each, with an arrow where it is cut and the margin as a band."""
    logs = np.log1p(np.asarray(figures, dtype=float))
    ends = np.nan_to_num(np.abs(logs)).max(axis=1)
    reach = 1.1 * min(max(LEAST_REACH, ends.max()), max(WHOLE_REACH, 8 * np.median(ends)))
    axis, middle = Axis([-reach, reach], 0, 320, False), 160
    tick = max(each for each in TICKS if np.log1p(each) < 0.8 * reach)
    marks = {float(axis.at(side * np.log1p(tick))): side for side in (-1, 0, 1)}
    names = f"{-tick / (1 + tick):.0%}", words, f"{tick:+.0%}"
    heading = Markup(f'<span class="range" style="padding:0 {min(marks):.0f}px">')
    heading += Markup("").join(Markup("<i>{}</i> ").format(signs(name)) for name in names)
    heading += Markup("</span>")
    grid = "".join(
        _path("edge" if side else "bound", f"M{x:.1f} 0v24") for x, side in marks.items()
    )
    wide = float(axis.at(np.log1p(margin))) - middle
    if wide:
        grid += _path("band steady", f"M{middle - wide:.1f} 0h{2 * wide:.1f}v24h{-2 * wide:.1f}z")

    drawings = []
    for role, row in zip(roles, axis.at(logs), strict=True):
        value, low, high = np.clip(np.where(np.isnan(row), row[0], row), 4, 316)
        parts = [grid]
        if np.isfinite(value):
            parts.append(_path(role, f"M{low:.1f} 12H{high:.1f}"))
        if row.min() < 0:
            parts.append(_path(role, "M12 6L4 12L12 18"))
        if row.max() > 320:
            parts.append(_path(role, "M308 6L316 12L308 18"))
        if 0 <= row[0] <= 320:
            parts.append(_path(f"{role} end", f"M{value:.1f} 12h0"))
        drawings.append(_drawing('class="range" aria-hidden="true" viewBox="0 0 320 24"', *parts))

    return heading, drawings


def heat(share: float, text: str = "", hottest: float = HOTTEST) -> Markup:
    """A share as a cell of a heat map, deepest from `hottest` on; or this text on its colour."""
    if np.isnan(share):
        return Markup("-")

    depth = round(DEEPEST * min(max(share, 0) / hottest, 1))
    cell = Markup('<i class="heat worse" style="--heat:{}%">{}</i>')
    return cell.format(depth, signs(text or f"{share:+.1%}"))


def _drawing(attributes: str, *parts: str) -> Markup:
    return Markup(f"<svg {attributes}>{''.join(parts)}</svg>")


def _path(role: str, points: str) -> str:
    return f'<path class="{role}" d="{points}"/>'


def _tick_text(value: float, unit: str) -> str:
    """`10 ms` of a time in us, otherwise a short number."""
    if unit != "us":
        return f"{value:g}"

    return f"{value:g} µs" if value < 1000 else f"{value / 1000:g} ms"


def _numbers(points: NDArray[np.float64]) -> list[list[float | None]]:
    """Five digits of each value, which JSON needs not exceed; None for a gap."""
    return [
        [float(f"{value:.5g}") if np.isfinite(value) else None for value in row]
        for row in points.tolist()
    ]
