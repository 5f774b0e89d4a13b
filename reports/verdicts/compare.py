"""The command `compare`: the comparison of sides as text of at most 80 columns, Markdown, csv, JSON
and forest plot. Verdicts are words, which colour only highlights. Pages use its parts."""

import argparse
import os
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import chain, groupby
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd

from reports.store.case import CASE_KEY
from reports.store.report_json import write_json
from reports.store.untrusted import markdown_text
from reports.tables.figure import figure
from reports.tables.formats import as_csv_text
from reports.tables.rows import is_noisy
from reports.tables.sentences import MOST_STEAL_SHARE, number, size_text, some, wrapped
from reports.verdicts import comparison as comparing
from reports.verdicts.comparison import Comparison
from reports.verdicts.sides import COMPARABLE, label, notes_of, read_sides
from reports.verdicts.verdict import AMBIGUOUS, FASTER, SAME, SLOWER, UNREPLICATED, VERDICTS

# Marker, colour (Okabe and Ito's palette) and whether it is filled, as a difference is.
MARKS = {
    SLOWER: (">", "#D55E00", True),
    FASTER: ("<", "#0072B2", True),
    SAME: ("s", "#009E73", False),
    AMBIGUOUS: ("D", "#6F6F6F", False),
    UNREPLICATED: ("o", "#6F6F6F", False),
}
ROW = "{1:>8} {2:>8} {3:>10} {4:>19}  {5:<14} {6:>5} {7:>9}"  # without the algorithm
COLUMNS = [
    *CASE_KEY,
    "verdict",
    "pairs",
    "ratio",
    "low",
    "high",
    "baseline_us",
    "variant_us",
    "detectable",
    "needed",
    "is_interleaved",
    "states",
    "note",
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option(
        "sides",
        metavar="SIDE",
        nargs="+",
        help="one campaign's folder; or the baseline, then "
        "the other sides: runs, folders of runs, quoted globs, FOLDER/VARIANT of a campaign",
    )
    add_allow(parser)
    option(
        "--margin",
        metavar="PERCENT",
        type=percent,
        help="a difference up to this is none (the campaign's, else 1)",
    )
    option("--plot", metavar="OUT", type=Path, help="draw the ratios; .svg or .png")
    option("--format", choices=FORMATS, default="text")


def add_allow(parser: argparse.ArgumentParser) -> None:
    """Adds the option that permits a difference in a fact that must be equal."""
    parser.add_argument(
        "--allow",
        metavar="KEY",
        action="append",
        default=[],
        choices=COMPARABLE,
        help=f"compare although this differs: {', '.join(COMPARABLE)}; may be repeated",
    )


def percent(text: str) -> float:
    """A percentage as a share."""
    if not re.fullmatch(r"\d{1,2}(\.\d+)?", text) or not float(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a percentage between 0 and 100")
    return float(text) / 100


def compare(arguments: argparse.Namespace) -> int:
    """Prints the comparison and returns exit status 0. Raises Incomparable for sides that measured
    different things, ResultError for a file that cannot be read or drawn."""
    sides = read_sides(arguments.sides)
    comparisons = comparing.compare(sides, arguments.allow, arguments.margin)
    for note in notes_of(sides):
        print(f"reports: {note}", file=sys.stderr)
    if arguments.plot:
        plot(comparisons, arguments.plot)
    if arguments.json:
        write_json(
            "compare",
            comparisons=[
                {
                    "baseline": each.baseline.name,
                    "compared": each.variant.name,
                    "margin": each.margin,
                    "sentences": sentences(each),
                    "cells": _frame([each]),
                }
                for each in comparisons
            ],
        )
    else:
        sys.stdout.write(FORMATS[arguments.format](comparisons))
    return 0


def as_text(comparisons: Sequence[Comparison]) -> str:
    """Tables of at most 80 columns, in colour on a terminal unless NO_COLOR is set."""
    lines = []
    for comparison in comparisons:
        rows = [figures(cell) for cell in comparison.cells.itertuples()]
        opening = [comparison.headline, *head(comparison), *warnings(comparison)]
        lines += [*wrapped(opening), "", ROW.format(*rows[0])]
        for name, of_name in groupby(rows, lambda row: row["algorithm"]):
            lines += [name, *(ROW.format(*row.values()) for row in of_name)]
        lines += ["", *wrapped(closing(comparison)), ""]
    text = "\n".join(line.rstrip() for line in lines)
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
        for word, colour in (("SLOWER", 31), ("FASTER", 32)):
            text = text.replace(word, f"\x1b[1;{colour}m{word}\x1b[0m")
    return text


def as_markdown(comparisons: Sequence[Comparison], most_bytes: int = 1 << 30) -> str:
    """GitHub's Markdown: sentences as a list, and a table with at most `most_bytes` of rows."""
    parts = []
    for comparison in comparisons:
        title, *lines = sentences(comparison)
        table = [figures(cell) for cell in comparison.cells.itertuples()]
        rows = [f"| {' | '.join(map(markdown_text, row.values()))} |" for row in table]
        sizes_bytes = np.cumsum([len(row.encode()) + 1 for row in rows])
        if cut := int(np.sum(sizes_bytes > most_bytes)):
            lines.append(f"{cut} more rows do not fit here")
        items = [f"- {markdown_text(line)}" for line in lines]
        rule = "|---|" + "---:|" * 4 + "---|" + "---:|" * 2
        parts += [
            f"### {markdown_text(title)}",
            "",
            *items,
            "",
            f"| {' | '.join(table[0])} |",
            rule,
            *rows[: len(rows) - cut],
            "",
        ]
    return "\n".join(parts)


def _frame(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """A row for each cell; unknown and infinite values are empty."""
    cells = pd.concat(
        each.cells[COLUMNS].assign(
            note=each.cells.note.replace("", None),
            allowed="; ".join(each.allowed),
            baseline=each.baseline.name,
            compared=each.variant.name,
        )
        for each in comparisons
    )
    return cells[["baseline", "compared", *COLUMNS, "allowed"]].replace(np.inf, None)


FORMATS: dict[str, Callable[[Sequence[Comparison]], str]] = {
    "text": as_text,
    "markdown": as_markdown,
    "csv": lambda comparisons: as_csv_text(_frame(comparisons).to_dict("records")),
    "json": lambda comparisons: f"{_frame(comparisons).to_json(orient='records', indent=1)}\n",
}


def figures(cell: Any) -> dict[str, str]:
    """The texts of a row by their headings."""
    noisy = is_noisy((cell.ratio, cell.low, cell.high))
    ends = f" [{_ratio(cell.low)} {_ratio(cell.high)}]" * bool(np.isfinite(cell.low))
    ratio = "too noisy" if noisy else _text(cell.ratio, _ratio) + ends
    pairs = str(cell.pairs)
    if cell.verdict == AMBIGUOUS and cell.needed > 0:
        pairs += f" ({cell.needed:.0f})" if cell.needed < 1000 else " (>999)"
    word, reach = cell.verdict, max(cell.high - 1, 1 - cell.low)
    if word == AMBIGUOUS:
        word = "undecided" if noisy or not reach < 10 else f"within +-{reach:.{int(reach < 0.1)}%}"
    elif word in (SLOWER, FASTER) and not cell.is_interleaved:
        word = "differs"
    return {
        "algorithm": cell.name,
        "size": size_text(cell.size_bytes),
        "base us": _text(cell.baseline_us, number),
        "variant us": _text(cell.variant_us, number),
        "ratio [95 %]": ratio,
        "verdict": word,
        "MDE": _text(cell.detectable, _effect),
        "pairs": pairs,
    }


def _text(value: float, form: Callable[[float], str]) -> str:
    return "-" if np.isnan(value) else form(value)


def _ratio(value: float) -> str:
    return f"{value:.3f}" if value < 9.9995 else f"{value:.1f}" if value < 999.95 else ">999"


def _effect(share: float) -> str:
    return f"{share:.1%}" if share < 1 else ">99%"


def sentences(comparison: Comparison) -> list[str]:
    """All sentences on a comparison, for a page."""
    return [comparison.headline, *head(comparison), *warnings(comparison), *closing(comparison)]


def head(comparison: Comparison) -> list[str]:
    """The two sides, their launches, and how much launches differ by themselves."""
    baseline, variant = comparison.baseline, comparison.variant
    launches = (
        f"{len(variant.launches)} launches against {len(baseline.launches)}, not "
        "interleaved: differences are by machine or code"
    )
    if comparison.is_interleaved:
        launches = f"{len(comparison.pairs)} interleaved pairs of launches"
        is_finished = baseline.campaign and baseline.campaign.end
        launches += "" if is_finished else "; THE CAMPAIGN IS NOT FINISHED: nothing is SLOWER yet"
    lines = [
        f"{label(variant)} against {label(baseline)}, the baseline: {launches}",
        *comparison.differing_fields.values(),
        "ratio = variant / baseline; above 1, the variant is slower",
    ]
    trips = pd.DataFrame(chain.from_iterable(comparison.cells.states), columns=["ns", "pairs"])
    shares = trips.groupby("ns").pairs.sum() / trips.pairs.sum()
    if len(shares):
        states = ", ".join(f"{ns:.0f} ns {share:.0%}" for ns, share in shares.items())
        lines.append(f"link: flag round trip {states} of the pairs")
    pair_sd = comparison.cells.pair_sd.median()
    if np.isfinite(pair_sd):
        lines.append(f"launches of one side differ by {pair_sd:.1%} (median standard deviation)")
    return lines


def warnings(comparison: Comparison) -> list[str]:
    """Allowed differences, notes on the comparison and on the runs, first of one side alone."""
    threats: dict[str, dict[str, tuple[str, str]]] = defaultdict(dict)
    for side in (comparison.variant, comparison.baseline):
        for result in (launch.result for launch in side.launches):
            stolen = (result.end and result.end.steal_share) or 0.0
            hypervisor = f"The hypervisor withheld {stolen:.1%} of the CPU time."
            for note in [*result.run.notes, *[hypervisor] * (stolen > MOST_STEAL_SHARE)]:
                if not note.lower().startswith("peer memory"):
                    # Without figures: the load, for example, differs between launches.
                    threats[re.sub(r"[\d.]+", "", note)].setdefault(side.name, (note, label(side)))
    notes = []
    for by_side in sorted(threats.values(), key=len):
        (note, name), *others = by_side.values()
        notes.append(note if others else f"{note} ({name} alone)")
    return [*comparison.allowed, *(f"note: {note}" for note in [*comparison.notes, *notes[:4]])]


def closing(comparison: Comparison) -> list[str]:
    """The number of cells with each verdict, the detectable effects, and notes on single cells."""
    cells = comparison.cells
    counts = cells.verdict.value_counts().reindex(VERDICTS, fill_value=0)
    texts = [
        f"{'within +-x%' if verdict == AMBIGUOUS else verdict} {count}"
        for verdict, count in counts.items()
        if count or verdict != UNREPLICATED
    ]
    lines = [f"{', '.join(texts)}; of {len(cells)} cells, with a margin of {comparison.margin:.1%}"]
    if counts[UNREPLICATED]:
        lines.append("unreplicated: one pair gives no verdict; python -m bench.campaign makes more")
    effects = cells.detectable.dropna()
    if len(effects):
        median, most = _effect(effects.median()), _effect(effects.max())
        lines.append(f"MDE, the minimum detectable effect: median {median}, at most {most}.")
    if (cells.needed[cells.verdict == AMBIGUOUS] > 0).any():
        lines.append("In brackets: the pairs that would settle the cell.")
    titles = cells[cells.note != ""].groupby("note", sort=False).title.agg(list)
    return lines + [f"note: {note}: {some(names)}" for note, names in titles.items()]


def plot(comparisons: Sequence[Comparison], target: Path | IO[str]) -> None:
    """Draws a panel per comparison into an .svg or .png file, or as SVG into a stream. A verdict is
    a word and a marker, not only a colour. Raises ResultError for a file that cannot be written."""
    panels = comparisons
    # A name has a row above its sizes, as if it were the size -1.
    cells: list[Any] = [cell for panel in panels for cell in panel.cells.itertuples()]
    names = list(dict.fromkeys(cell.name for cell in cells))
    keys = {(cell.name, cell.size_bytes) for cell in cells} | {(name, -1) for name in names}
    rows = sorted(keys, key=lambda key: (names.index(key[0]), key[1]))
    inches = 1.5 + 5.6 * len(panels), 1.9 + 0.21 * len(rows)
    with figure(target, 1, len(panels), inches, sharey=True) as (drawing, axes):
        texts = [name if size_bytes < 0 else size_text(size_bytes) for name, size_bytes in rows]
        axes[0, 0].set_yticks(range(len(rows)), texts, fontsize=9)
        for (_, size_bytes), tick in zip(rows, axes[0, 0].get_yticklabels(), strict=True):
            tick.set_fontweight("bold" if size_bytes < 0 else "normal")
        axes[0, 0].set_ylim(len(rows), -1)
        for place, panel in zip(axes[0], panels, strict=True):
            _draw_axis(place, panel)
            for cell in panel.cells.itertuples():
                _draw_cell(place, cell, rows)
        drawing.supxlabel(
            "variant / baseline (log scale) with its 95 % interval; the band is the margin",
            fontsize=9,
        )


def _draw_axis(axes: Any, panel: Comparison) -> None:
    """All ratios and all but a tenth of the intervals fit on the axis."""
    logs = panel.cells[["ratio", "low", "high"]].apply(np.log)
    low = np.nanmin([logs.ratio.min(), logs.low.quantile(0.1), -np.log(1.03)])
    high = np.nanmax([logs.ratio.max(), logs.high.quantile(0.9), np.log(1.03)])
    room = 0.06 * (high - low)
    low, high = np.clip(np.exp([low - room, high + room]), 1 / 64, 64)
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.axvspan(1 / (1 + panel.margin), 1 + panel.margin, color="#DDDDDD", zorder=0, linewidth=0)
    axes.axvline(1, color="black", linewidth=0.9, zorder=1)
    scales = [1 + step * np.arange(-99, 100) for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)]
    scales += [2.0 ** np.arange(-6, 7, step) for step in (1, 2)]
    inside = [scale[(scale >= low) & (scale <= high)] for scale in scales]
    ticks = next((scale for scale in inside if len(scale) <= 7), inside[-1])
    axes.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks], fontsize=9)
    axes.minorticks_off()
    axes.grid(True, axis="x", alpha=0.25)
    axes.tick_params(axis="y", length=0, pad=8)
    axes.spines[["top", "left", "right"]].set_visible(False)
    axes.set_title(
        f"{label(panel.variant)}\nagainst {label(panel.baseline)}", fontsize=10, loc="left"
    )


def _draw_cell(axes: Any, cell: Any, rows: Sequence[tuple[str, int]]) -> None:
    row = rows.index((cell.name, cell.size_bytes))
    shape, colour, is_filled = MARKS[cell.verdict]
    low, high = axes.get_xlim()
    axes.plot([cell.low, cell.high], [row, row], color=colour, linewidth=1.4, zorder=2)
    # An interval that goes on beyond the axis ends in matplotlib's caretleft or caretright.
    for limit, is_cut, arrow in ((low, cell.low < low, 4), (high, cell.high > high, 5)):
        if is_cut:
            axes.plot(limit, row, marker=arrow, color=colour, markersize=6, clip_on=False, zorder=3)
    axes.plot(
        np.clip(cell.ratio, low, high),
        row,
        marker=shape,
        color=colour,
        markersize=5.5,
        zorder=4,
        markerfacecolor=colour if is_filled else "white",
        clip_on=False,
    )
    texts = figures(cell)
    axes.text(
        1.05,
        row,
        f"{texts['verdict']:13}{texts['ratio [95 %]']}",
        va="center",
        fontsize=8,
        transform=axes.get_yaxis_transform(),
        family="monospace",
        color=colour if is_filled else "#333333",
    )
