"""The drawings of pages. A chart is data, which stands in the page as a drawing, for print and
without scripts, and as JSON, from which chart.js draws what reacts to the reader. Sparklines,
intervals and heat are drawings alone."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

import numpy as np
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup, escape
from numpy.typing import ArrayLike, NDArray

from reports.store.untrusted import printable, printable_in
from reports.tables.sentences import number, tick_text

WIDTH, HEIGHT, LEFT, BOTTOM = 640, 240, 56, 24  # of a chart and its margins
MOST_TICKS = 10
MOST_MARKS = 120  # of a sparkline, the newest
HOTTEST, DEEPEST = 0.1, 45  # a share from which heat is deepest, and its percentage of colour


@dataclass
class Line:
    """A line of a chart: its values, or these and the ends of their intervals, (3, n); NaN where it
    has a gap. `role` is a class of page.css. A line that is not `shown` waits for a click."""

    name: str
    role: str
    points: NDArray[np.float64]
    shown: bool = True

    @property
    def rows(self) -> dict[str, NDArray[np.float64]]:
        """`values`, and `low` and `high` if it has intervals."""
        values, *ends = np.atleast_2d(self.points)
        is_empty = not ends or np.array_equal(ends[0], ends[1], equal_nan=True)
        return (
            {"values": values} if is_empty else {"values": values, "low": ends[0], "high": ends[1]}
        )


@dataclass
class Step:
    """A change before the first position of `at`, with its interval, the others; `role` is `worse`
    or `better`."""

    at: Sequence[float]
    role: str
    text: str


@dataclass
class Chart:
    """Lines over `x`: sizes in `bytes`, seconds since 1970 (`time`), or a `price`. Both axes are
    logarithmic except over time. `links` are the files of pages about the positions."""

    title: str
    x: Sequence[float]
    lines: Sequence[Line]
    kind: str = "bytes"
    steps: Sequence[Step] = ()
    links: Sequence[str] = field(default_factory=list)

    @property
    def is_time(self) -> bool:
        return self.kind == "time"

    @property
    def where(self) -> str:
        """The last position, whose values stand beside the chart at first."""
        last = self.x[-1]
        if self.is_time:
            return f"{datetime.fromtimestamp(last, timezone.utc):%Y-%m-%d %H:%M} UTC"

        return tick_text(int(last)) if self.kind == "bytes" else number(last)

    @property
    def readout(self) -> list[tuple[Line, str, str]]:
        """Each line with its last value and interval as text."""
        rows = []
        for line in self.lines:
            rows_ = [*line.rows.values()]
            if self.kind == "price":
                rows_ = [row[np.isfinite(row)] for row in rows_]
            value, *ends = (number(float(row[-1])) for row in rows_)
            rows.append((line, value, f"[{' '.join(ends)}]" * bool(ends and value != "-")))

        return rows

    @property
    def json(self) -> Markup:
        """The data for chart.js; harmless inside of a <script>."""
        data: dict[str, Any] = vars(self) | {
            "x": list(self.x),
            "lines": [
                {"name": line.name, "role": line.role, "shown": line.shown}
                | {name: _numbers(row) for name, row in line.rows.items()}
                for line in self.lines
            ],
            "steps": [vars(step) for step in self.steps],
            "links": list(self.links),
        }
        return htmlsafe_json_dumps(printable_in(data), separators=(",", ":"))

    @property
    def svg(self) -> Markup:
        """The lines that are shown, with round values on both axes."""
        shown = [line for line in self.lines if line.shown] or list(self.lines)
        x = Axis([*self.x], LEFT, WIDTH - 16, not self.is_time)
        y = Axis(
            np.stack([line.rows["values"] for line in shown]), HEIGHT - BOTTOM, 8, not self.is_time
        )
        parts = [
            f'<path class="edge" d="M{LEFT} {y.at(tick):.1f}H{WIDTH - 16}"/>'
            f'<text x="{LEFT - 8}" y="{y.at(tick) + 4:.1f}" text-anchor="end">{number(tick)}</text>'
            for tick in y.ticks()
        ]
        for tick, name in self._marks(x):
            parts.append(
                f'<text x="{x.at(tick):.1f}" y="{HEIGHT - 4}" text-anchor="middle">{name}</text>'
            )
        for step in self.steps:
            ends = x.at(step.at)
            parts.append(
                f'<path class="band {step.role}" d="M{ends[1]:.1f} 8H{ends[2]:.1f}'
                f'V{HEIGHT - BOTTOM}H{ends[1]:.1f}z"/>'
                f'<path class="{step.role}" d="M{ends[0]:.1f} 8V{HEIGHT - BOTTOM}"/>'
            )
        for line in shown:
            rows, places = y.at([*line.rows.values()]), x.at(self.x)
            middle, *ends = np.clip(rows, 8, HEIGHT - BOTTOM)
            if ends:
                outline = path([*places, *places[::-1]], [*ends[0], *ends[1][::-1]])
                parts.append(f'<path class="band {line.role}" d="{outline}z"/>')
            parts.append(f'<path class="{line.role}" d="{path(places, middle)}"/>')

        label = escape(printable(self.title))
        box = f'viewBox="0 0 {WIDTH} {HEIGHT}"'
        return Markup(f'<svg role="img" aria-label="{label}" {box}>{"".join(parts)}</svg>')

    def _marks(self, axis: "Axis") -> list[tuple[float, str]]:
        """Positions on the axis with their names."""
        if self.is_time:
            seconds = np.linspace(axis.low, axis.high, 7)[1::2]
            return [
                (at, f"{datetime.fromtimestamp(at, timezone.utc):%Y-%m-%d}")
                for at in seconds.tolist()
            ]

        if self.kind == "bytes":
            shown = self.x[:: 1 + (len(self.x) - 1) // MOST_TICKS]
            return [(size, tick_text(int(size))) for size in shown]

        return [(tick, number(tick)) for tick in axis.ticks()]


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

        share = (array - ends[0]) / (ends[1] - ends[0])
        return self.start + (self.stop - self.start) * share

    def ticks(self) -> list[float]:
        """Round values between the ends: 1, 2, 5, 10 ..., or multiples of one of these."""
        top = int(np.floor(np.log10(self.high)))
        if self.is_log and self.high > 4 * self.low:
            bottom = int(np.floor(np.log10(self.low)))
            rounds = [m * 10.0**e for e in range(bottom, top + 1) for m in (1, 2, 5)]
            ticks = [tick for tick in rounds if self.low <= tick <= self.high]
            return ticks[:: 1 + (len(ticks) - 1) // 6]

        span = self.high - self.low
        scale = 10.0 ** np.floor(np.log10(span))
        step = next(m * scale for m in (0.2, 0.5, 1, 2, 5) if span / (m * scale) <= 6)
        first, last = np.ceil(self.low / step), np.floor(self.high / step)
        return [float(place * step) for place in np.arange(first, last + 1)]


def path(xs: ArrayLike, ys: ArrayLike) -> str:
    """A line through points, with a gap at NaN and a dot for a lone point."""
    parts, pen = [], "M"
    for x, y in zip(np.asarray(xs).tolist(), np.asarray(ys).tolist(), strict=True):
        if not np.isfinite(y):
            pen = "M"
            continue
        parts.append(f"{pen}{x:.1f} {y:.1f}" + "h0" * (pen == "M"))
        pen = "L"

    return "".join(parts)


def spark(values: ArrayLike, steps: Sequence[Any] = ()) -> Markup:
    """The newest values as a line with a dot at its end, and a line at each step."""
    every = np.asarray(values, dtype=float)
    if len(every) < 3:
        return Markup("")

    shown = every[-MOST_MARKS:]
    hidden = len(every) - len(shown)
    axis = Axis([*shown, shown.max() * 1.02], 32, 0, True)
    lines = "".join(
        f'<path class="{step.word}" d="M{step.first - hidden - 0.5} -4v40"/>'
        for step in steps
        if step.first > hidden
    )
    ys = axis.at(shown)
    curve = path(np.arange(len(shown)), ys)
    box = f'viewBox="-1 -4 {len(shown) + 1} 40" preserveAspectRatio="none"'
    dot = f'<path class="ours end" d="M{len(shown) - 1} {ys[-1]:.1f}h0"/>'
    return Markup(
        f'<svg class="spark" aria-hidden="true" {box}>{lines}<path class="ours" d="{curve}"/>'
        f"{dot}</svg>"
    )


def interval(figure: Sequence[float], ends: tuple[float, float], at: float, role: str) -> Markup:
    """A value with its interval on a scale from `ends[0]` to `ends[1]`, with a line at `at`."""
    axis = Axis(ends, 0, 240, False)
    value, low, high, line = np.clip(axis.at([*figure, at]), 0, 240)
    if not np.isfinite(value):
        return Markup("")

    reach = f"M{low:.1f} 8H{high:.1f}" if np.isfinite(high - low) else ""
    return Markup(
        '<svg class="range" aria-hidden="true" viewBox="-4 0 248 16" preserveAspectRatio="none">'
        f'<path class="bound" d="M{line:.1f} 0v16"/><path class="{role}" d="{reach}"/>'
        f'<path class="{role} end" d="M{value:.1f} 8h0"/></svg>'
    )


def heat(share: float) -> Markup:
    """A share as a cell of a heat map."""
    if np.isnan(share):
        return Markup("-")

    depth = round(DEEPEST * min(max(share, 0) / HOTTEST, 1))
    return Markup(f'<i class="heat worse" style="--heat:{depth}%">{share:+.1%}</i>')


def _numbers(values: NDArray[np.float64]) -> list[float | None]:
    """Five digits of each value, which JSON needs not exceed; None for a gap."""
    return [float(f"{value:.5g}") if np.isfinite(value) else None for value in values.tolist()]
