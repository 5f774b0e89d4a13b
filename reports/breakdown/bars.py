"""Steps as bars of their parts, on pages and in pictures. A part has one colour everywhere."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from reports.kit.page import plain
from reports.tables.sentences import number
from wiretax.common.untrusted import printable

ROLES = {
    "compute": "ours",
    "overlap": "line-2",
    "transport": "line-3",
    "waiting": "line-1",
    "idle": "quiet",
    # Of served figures, which do not tell the parts above:
    "compute and idle": "ours",
    "calls, implied": "line-5",
    "calls alone": "line-3",  # a wire, as transport
    "the rest": "quiet",
}
LETTER = 0.018  # of the longest step, in the narrowest picture: a name fits, or the legend has it
LEAST_MS = 1e-6  # the ns that traces count; less of a part is rounding
LEAST_PLACES = 3  # a single bar is no wall


@dataclass
class Bar:
    """A step in ms by its parts, in the order in which they are drawn."""

    name: str
    parts_ms: Mapping[str, float]

    @property
    def whole_ms(self) -> float:
        return sum(self.parts_ms.values())

    @property
    def texts(self) -> dict[str, str]:
        """Each part that takes time, with its ms and its share: `waiting 5.04 ms (41 %)`."""
        return {
            part: f"{part} {number(ms)} ms ({100 * ms / self.whole_ms:.0f} %)"
            for part, ms in self.parts_ms.items()
            if ms >= LEAST_MS
        }


def bars_html(bars: Sequence[Bar]) -> Markup:
    """The bars below one another, on one scale, each with its parts in words."""
    longest_ms = longest_of(bars)
    piece = Markup('<i class="{}" style="--share:{:.2f}%"></i>')
    key = Markup('<span class="word"><i class="{}"></i> {}</span>')
    row = Markup("{} <b>{}\u00a0ms</b><span class=bar>{}</span><span class=key>{}</span>")
    return Markup("").join(
        row.format(
            plain(bar.name),
            number(bar.whole_ms),
            Markup("").join(
                piece.format(ROLES[part], 100 * bar.parts_ms[part] / longest_ms)
                for part in bar.texts
            ),
            Markup(" ").join(key.format(ROLES[part], text) for part, text in bar.texts.items()),
        )
        for bar in bars
    )


def longest_of(bars: Sequence[Bar]) -> float:
    return max(bar.whole_ms for bar in bars) or 1.0  # of an empty step


def draw_bars(axes: Any, bars: Sequence[Bar]) -> None:
    """The same with matplotlib: the name above each bar, its parts in it and in the legend."""
    longest_ms = longest_of(bars)
    for place, bar in enumerate(bars):
        name = f"{printable(bar.name)}: {number(bar.whole_ms)} ms"
        axes.text(0, place - 0.34, name, va="bottom", size=10, parse_math=False)
        left = 0.0
        for part in bar.texts:
            ms, role = bar.parts_ms[part], ROLES[part]
            axes.barh(place, ms, 0.6, left, color=role, edgecolor="page", label=part)
            if ms > LETTER * len(part) * longest_ms:
                text = f"{part}\n{100 * ms / bar.whole_ms:.0f} %"
                axes.text(
                    left + ms / 2, place, text, color="page", size=9, ha="center", va="center"
                )
            left += ms
    axes.set_xlim(0, longest_ms)
    pad = max(0, LEAST_PLACES - len(bars)) / 2
    axes.set_ylim(len(bars) - 0.6 + pad, -0.8 - pad)
    axes.set_axis_off()
    handles, labels = axes.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    named = {part: once[part] for part in ROLES if part in once}
    style = {"loc": "upper center", "frameon": False, "handlelength": 1, "columnspacing": 1}
    axes.legend(named.values(), named, ncols=5, bbox_to_anchor=(0.5, 0), **style)
