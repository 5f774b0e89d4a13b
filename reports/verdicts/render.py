"""The command `compare`: the comparison of sides as text of at most 80 columns, Markdown and JSON.
`rows_of` has the texts of a table, `sentences` those around it; the gate and pages use both.
Verdicts are words."""

import argparse
import re
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd

from reports.store.program import complain
from reports.store.report_json import write_json
from reports.store.untrusted import markdown_text
from reports.tables.headline import ratios_text
from reports.tables.rows import is_noisy
from reports.tables.sentences import MOST_STEAL_SHARE, counted, number, size_text, some, wrapped
from reports.verdicts import judge
from reports.verdicts.judge import WRONG, Comparison
from reports.verdicts.sides import COMPARABLE, notes_of, read_sides
from reports.verdicts.verdict import AMBIGUOUS, FASTER, SLOWER

DRAWN = 25  # letters of an interval
LINE = "{1:>8} {2:>8} {3:>10} {4:>19}  {5:<14} {6:>6} {7:>5}"  # without the algorithm


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
    try:
        share = float(text) / 100
    except ValueError:
        share = 0.0

    if not 0 < share < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a percentage between 0 and 100")

    return share


def compare(arguments: argparse.Namespace) -> int:
    """Prints the comparison and returns exit status 0. Raises Incomparable for sides that measured
    different things, ResultError for a file that cannot be read."""
    sides = read_sides(arguments.sides)
    comparisons = judge.compare(sides, arguments.allow, arguments.margin)

    for note in notes_of(sides):
        complain(note)

    if not arguments.json:
        sys.stdout.write(as_text(comparisons))
        return 0

    parts = [
        {
            "baseline": each.baseline.name,
            "compared": each.variant.name,
            "margin": each.margin,
            "sentences": sentences(each),
            "cells": each.cells.assign(case=each.cells.title),
        }
        for each in comparisons
    ]
    write_json("compare", comparisons=parts)
    return 0


def as_text(comparisons: Sequence[Comparison]) -> str:
    """Tables of at most 80 columns."""
    lines = []
    for comparison in comparisons:
        rows = rows_of(comparison)
        lines += [*wrapped(opening(comparison)), "", LINE.format(*rows[0])]
        for name, of_name in groupby(rows, lambda row: row["algorithm"]):
            lines += [name, *(LINE.format(*row.values()) for row in of_name)]
        lines += ["", *wrapped(closing(comparison)), ""]

    return "\n".join(line.rstrip() for line in lines)


def as_markdown(comparison: Comparison, most_rows: int) -> str:
    """GitHub's Markdown: sentences as a list, and a table."""
    title, *lines = sentences(comparison)
    rows = rows_of(comparison)
    shown = [f"| {' | '.join(map(markdown_text, row.values()))} |" for row in rows[:most_rows]]
    if len(shown) < len(rows):
        lines.append(f"{len(rows) - len(shown)} more rows do not fit here")

    return "\n".join(
        [
            f"### {markdown_text(title)}",
            "",
            *(f"- {markdown_text(line)}" for line in lines),
            "",
            f"| {' | '.join(rows[0])} |",
            "|---|" + "---:|" * 4 + "---|" + "---:|" * 2,
            *shown,
            "",
        ]
    )


def forest_markdown(comparison: Comparison, most: int) -> str:
    """A table of judged cells, the largest effect first, with each interval as letters:
    `·······│····●··`, where `│` is 1. Empty without intervals."""
    cells = comparison.cells[comparison.is_judged & comparison.cells.high.notna()]
    cells = cells.sort_values("log_ratio", key=abs, ascending=False, kind="stable")[:most]
    reach = max(cells.log_high.max(), -cells.log_low.min(), 0.01)
    rows = ["| case | ratio | faster │ slower |", "|---|---:|---|"]
    places = np.linspace(-reach, reach, DRAWN)

    for cell in cells.itertuples():
        inside = (places >= cell.log_low) & (places <= cell.log_high)
        letters = np.where(inside, "-", "·")
        for value, letter in ((0, "│"), (cell.log_ratio, "●")):
            letters[np.abs(places - value).argmin()] = letter
        title = markdown_text(str(cell.title))
        rows.append(f"| {title} | {cell.ratio:.3f} | `{''.join(letters)}` |")

    return "\n".join(rows) * (len(cells) > 0)


def rows_of(comparison: Comparison) -> list[dict[str, str]]:
    """The texts of each cell by their headings."""
    cells = comparison.cells.itertuples()
    return [_row(cell, comparison.is_interleaved) for cell in cells]


def _row(cell: Any, is_interleaved: bool) -> dict[str, str]:
    noisy = is_noisy((cell.ratio, cell.low, cell.high))
    has_interval = np.isfinite(cell.low)
    ratio = "too noisy" if noisy else _ratio(cell.ratio)

    if has_interval and not noisy:
        ratio += f" [{_ratio(cell.low)} {_ratio(cell.high)}]"

    word = "WRONG" if cell.note.startswith(WRONG) else cell.verdict
    if word == AMBIGUOUS:
        reach = max(cell.high - 1, 1 - cell.low)
        word = f"within +-{reach:.1%}" if has_interval and not noisy else "undecided"
    elif word in (SLOWER, FASTER) and not is_interleaved:
        word = "differs"

    return {
        "algorithm": cell.name,
        "size": size_text(cell.size_bytes),
        "base us": number(cell.baseline_us),
        "variant us": number(cell.variant_us),
        "ratio [95 %]": ratio,
        "verdict": word,
        "MDE": f"{cell.detectable:.1%}" if cell.detectable < 1 else "-",
        "pairs": str(cell.pairs),
    }


def _ratio(value: float) -> str:
    if np.isnan(value):
        return "-"

    return f"{value:.3f}" if value < 10 else f"{value:.0f}"


def sentences(comparison: Comparison) -> list[str]:
    """All sentences on a comparison, the headline first."""
    return [*opening(comparison), *closing(comparison)]


def opening(comparison: Comparison) -> list[str]:
    """The sentences before the table."""
    return [headline(comparison), *head(comparison), *comparison.caveats, *notes(comparison)]


def headline(comparison: Comparison) -> str:
    """What was found, and the ratios of judged cells at two sizes."""
    found = summary(comparison, comparison.resolvable_slowdown[0])
    labels = comparison.baseline.label, comparison.variant.label
    ratios = ratios_text(comparison.cells[comparison.is_judged], *labels)
    return "; ".join(filter(None, [found, ratios]))


def summary(comparison: Comparison, slowdown: float) -> str:
    """One sentence on the judged cells: the wrong, the slower and the faster ones, the slowdown
    that the others exclude, and the cells in which this `slowdown` could hide; then whether the
    library's moved."""
    is_wrong = comparison.cells.note.str.startswith(WRONG)
    is_slower = comparison.cells.verdict == SLOWER
    is_open = comparison.can_hide(slowdown) & ~is_slower & ~is_wrong
    wrong, slower, undecided, others = (
        comparison.cells[comparison.is_judged & chosen]
        for chosen in (is_wrong, is_slower, is_open, ~is_wrong & ~is_slower & ~is_open)
    )
    excluded = max(others.high.max() - 1, 0)
    found = [f"WRONG: {some([*wrong.title])}"] if len(wrong) else []
    found += difference(comparison, slower)
    nothing = "nothing else" if found or len(undecided) else "nothing"
    found += difference(comparison, others[others.verdict == FASTER])

    if others.high.notna().any():
        found.append(f"{nothing} slower than {excluded:.1%} anywhere")
    if len(undecided):
        found.append(f"{some([*undecided.title])} undecided")

    return "; ".join([*found, *library_moved(comparison)])


def difference(comparison: Comparison, cells: pd.DataFrame) -> list[str]:
    """`SLOWER 4.9%: 16 KiB two-shot` of cells with one verdict, the largest difference first; none
    without cells."""
    if cells.empty:
        return []

    cells = cells.sort_values("log_ratio", key=abs, ascending=False, kind="stable")
    size = f"{'up to ' * (len(cells) > 1)}{abs(cells.ratio.iloc[0] - 1):.1%}"
    source = "" if comparison.is_interleaved else " by machine or code"
    return [f"{cells.verdict.iloc[0]} {size}{source}: {some([*cells.title])}"]


def library_moved(comparison: Comparison) -> list[str]:
    """Says that the machine or a setting moved if cells of the library differ."""
    cells = comparison.cells[~comparison.is_judged]
    moved = cells[cells.verdict.isin([SLOWER, FASTER])]

    if moved.empty:
        return []

    return [
        f"the machine or a setting moved: {len(moved)} of {len(cells)} cells of the library, "
        f"which the code cannot change, differ ({some([*moved.title])})"
    ]


def head(comparison: Comparison) -> list[str]:
    """The two sides, their launches, and the state of the link."""
    baseline, variant = comparison.baseline, comparison.variant
    launches = (
        f"{counted(len(variant.launches), 'launch')} against {len(baseline.launches)}, not "
        "interleaved: differences are by machine or code"
    )

    if comparison.is_interleaved:
        launches = f"{counted(len(comparison.pairs), 'interleaved pair')} of launches"
        if not (baseline.campaign and baseline.campaign.end):
            launches += "; THE CAMPAIGN IS NOT FINISHED: nothing is SLOWER yet"

    trips_ns = [f"{trip_ns:.0f}" for trip_ns in comparison.cells.rtt_ns.dropna().unique()]
    return [
        f"{variant.label} against {baseline.label}, the baseline: {launches}",
        *comparison.differing_fields.values(),
        "ratio = variant / baseline; above 1, the variant is slower",
        *[f"link: flag round trip {some(trips_ns)} ns"] * bool(trips_ns),
    ]


def notes(comparison: Comparison) -> list[str]:
    """Notes on the comparison and on its runs, these once without their figures: the load, for
    example, differs between launches."""
    launches = comparison.variant.launches + comparison.baseline.launches
    of_runs = {
        re.sub(r"[\d.]+", "", note): note
        for launch in launches
        for note in launch.run.notes
        if not note.startswith("Peer memory")
    }
    shown = [*comparison.notes, *of_runs.values()]
    steal = max((launch.end.steal_share or 0 for launch in launches if launch.end), default=0)

    if steal > MOST_STEAL_SHARE:
        shown.append(f"The hypervisor withheld up to {steal:.1%} of a launch's CPU time.")

    return [f"note: {note}" for note in shown]


def closing(comparison: Comparison) -> list[str]:
    """The number of cells with each verdict, and notes on single cells."""
    cells = comparison.cells
    words = Counter(row["verdict"].partition(" +-")[0] for row in rows_of(comparison))
    counts = [f"{word} {count}" for word, count in words.most_common()]
    of_cells = f"of {counted(len(cells), 'cell')}"
    lines = [f"{', '.join(counts)}; {of_cells}, with a margin of {comparison.margin:.1%}"]
    titles = cells[cells.note != ""].groupby("note", sort=False).title.agg(list)
    return lines + [f"note: {note}: {some(names)}" for note, names in titles.items()]
