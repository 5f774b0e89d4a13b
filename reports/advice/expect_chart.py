"""The charts of `expect`: published figures by size in a few named groups, and the sizes that were
asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter, itemgetter
from pathlib import Path
from statistics import median

from reports.advice.nearest import Question
from reports.kit.chart import Chart, chart_of
from reports.references.published import PublishedCall, near_size, select, votes
from reports.tables.beside_published import LARGE_BYTES, fabric_at
from reports.tables.figure import DrawnLine, figure
from reports.tables.plot import PANEL_IN, Quantity, draw_against_size, span_of
from reports.tables.sentences import size_text
from wiretax.common.grouped import grouped
from wiretax.record.result import ResultError

FOOTER = "lines: the median over machines; bands: the least and the most that one printed"
MOST_GROUPS = 4
SHORT = {
    "p2p": "p2p",
    "host memory": "host",
    "nvls": "NVLS",
    "network": "network",
    "unknown": "",
}
UNSAID = {"unknown": "eager or graph"}  # a mode
# The colour of the first group of a kind, and of its further ones.
ROLES = {
    "library": ("library", "line-2", "line-4"),
    "tuned": ("line-3", "line-5", "line-2"),
    "lossy": ("line-1", "line-4", "line-5"),
}


@dataclass
class Spread:
    """At one size a group's median over machines, the least and the most: of times in us, or of
    busbw in GB/s."""

    size_bytes: int
    figures: tuple[float, float, float]


@dataclass
class Panel:
    """The groups of a chart, the sizes that were asked for in its range, and in what its machines
    are others."""

    quantity: Quantity
    lines: list[DrawnLine]
    asked_bytes: list[int]
    differs: str


def panels(question: Question, sizes: Sequence[int]) -> list[Panel]:
    """Of short messages the time, of long ones the bandwidth, each if a size was asked for there
    and a figure is known. Raises ResultError without any."""
    found = []
    for is_large in (False, True):
        asked = [size for size in sizes if (size >= LARGE_BYTES) == is_large]
        lines, differs = lines_of(question, asked[0]) if asked else ([], "")
        if lines:
            words = ("Bus bandwidth", "GB/s") if is_large else ("Time of a call", "us")
            quantity = Quantity(*words, attrgetter("figures"), {})
            found.append(Panel(quantity, lines, asked, differs))
    if not found:
        raise ResultError(f"nothing is published near {question}: there is nothing to draw")
    return found


def lines_of(question: Question, size: int) -> tuple[list[DrawnLine], str]:
    """The figures of the same machine, or of the nearest that has some near this size, at all sizes
    in its range: with the run's at most four groups, those of most machines, and of as many those
    of most rows. Then what differs."""
    is_large = size >= LARGE_BYTES

    def in_range(rows: Sequence[PublishedCall]) -> list[PublishedCall]:
        sized = [row for row in rows if row.size_bytes]
        return [row for row in sized if ((row.size_bytes or 0) >= LARGE_BYTES) == is_large]

    def of_one_way(rows: Sequence[PublishedCall]) -> list[PublishedCall]:
        ways = {row.kind: question.transports(row.kind) for row in rows}
        same = [row for row in rows if not ways[row.kind] or row.transport in ways[row.kind]]
        return same or select(rows, transport={"unknown"})

    levels = [(differs, of_one_way(in_range(rows))) for differs, rows in question.levels(size)]
    beside = [level for level in levels if near_size(level[1], size)]
    differs, rows = next((level for level in [*beside, *levels] if level[1]), ("", []))
    own = in_range(question.own)

    def weight(alike: Sequence[PublishedCall]) -> tuple[int, int]:
        return len({row.machine for row in alike}), len(alike)

    groups = grouped(
        rows,
        lambda row: (
            row.kind,
            SHORT[row.transport],
            fabric_at(row, size).replace("unknown", ""),
            row.mode,
            row.gpu,
        ),
    )
    by_weight = sorted(groups, key=lambda group: weight(groups[group]), reverse=True)
    lines = list[DrawnLine]()
    for kind, alike in grouped(by_weight[: MOST_GROUPS - bool(own)], itemgetter(0)).items():
        for group, role in zip(alike, ROLES[kind] * 2, strict=False):
            # Of fabric, mode and card, what tells groups of one kind apart.
            more = [group[at] for at in (2, 3, 4) if len({each[at] for each in alike}) > 1]
            words = [UNSAID.get(word, word) for word in (kind, group[1], *more)]
            name = ", ".join(filter(None, words))
            lines.append(DrawnLine(name, role, spreads(groups[group]), True))
    if own:
        lines.append(DrawnLine("this run", "ours", spreads(own), True))
    return lines, differs


def spreads(rows: Sequence[PublishedCall]) -> list[Spread]:
    """A spread for each size of these rows, the smallest first."""
    found = []
    for size, alike in sorted(grouped(rows, lambda row: row.size_bytes or 0).items()):
        value = attrgetter("gb_s" if size >= LARGE_BYTES else "us")
        values = [*map(value, alike)]
        middle = median(votes(alike, value).values())
        found.append(Spread(size, span_of((middle, min(values), max(values)))))
    return found


def charts_of(drawn: Sequence[Panel]) -> list[Chart]:
    """The charts of a page, with a line at each size that was asked for."""
    charts = []
    for panel in drawn:
        chart = chart_of(panel.quantity, panel.lines, panel.asked_bytes)
        chart.ends = "least most"
        chart.title += f"; {panel.differs}" if panel.differs else ""
        chart.steps = [
            {"at": [size] * 3, "role": "steady", "text": size_text(size)}
            for size in panel.asked_bytes
        ]
        charts.append(chart)
    return charts


def draw(path: Path, drawn: Sequence[Panel], finding: str) -> None:
    """The same as a picture, as narrow as a telephone shows it. Raises ResultError for another
    suffix than .svg or .png and for a file that cannot be written."""
    differ = [f"{panel.quantity.title}: {panel.differs}" for panel in drawn if panel.differs]
    footer = "; ".join([*differ, FOOTER])
    with figure(path, len(drawn), PANEL_IN, finding, footer, most_columns=1) as axes_of:
        for axes, panel in zip(axes_of, drawn, strict=True):
            draw_against_size(axes, panel.lines, panel.quantity, letters=15)
            for size in panel.asked_bytes:
                axes.axvline(size, color="quiet", linewidth=1, linestyle=":")
                axes.annotate(
                    size_text(size),
                    (size, 1),
                    (3, -2),
                    xycoords=("data", "axes fraction"),
                    textcoords="offset points",
                    color="quiet",
                    fontsize=8,
                    va="top",
                )
