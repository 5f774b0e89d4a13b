"""The command `compare`: each side against the first, as tables of at most 80 columns or JSON."""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from itertools import groupby

from reports.store.arguments import percent, positive_number, whole
from reports.store.program import complain, write_json
from reports.store.result import ResultError
from reports.tables.sentences import wrapped
from reports.verdicts import judge, served
from reports.verdicts.judge import Comparison
from reports.verdicts.render import closing, opening, rows_of, sentences
from reports.verdicts.sides import add_allow, notes_of, read_sides

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
        help="differences up to this do not count (the campaign's margin, else 1)",
    )
    option(
        "--tpot-ms",
        metavar="MS",
        type=partial(positive_number, "ms", 10**6),
        help="with --calls: what the difference is worth of this measured time of a token",
    )
    option(
        "--calls",
        metavar="N",
        type=partial(whole, 1, 10**6),
        help="calls in a token, such as 161",
    )


def compare(arguments: argparse.Namespace) -> int:
    """Prints the comparison and returns exit status 0. Raises Incomparable for sides that measured
    different things, ResultError for a file that cannot be read."""
    token = arguments.tpot_ms, arguments.calls
    if (token[0] is None) != (token[1] is None):
        raise ResultError("compare needs both --tpot-ms and --calls, or neither")

    sides = read_sides(arguments.sides)
    comparisons = judge.compare(sides, arguments.allow, arguments.margin)

    complain(*notes_of(sides))

    if not arguments.json:
        sys.stdout.write(as_text(comparisons))
        for each in comparisons if token[0] else ():
            sys.stdout.write("\n" + served.as_text(each, *token))
        return 0

    parts = [
        {
            "baseline": each.baseline.name,
            "compared": each.variant.name,
            "margin": each.margin,
            "sentences": sentences(each),
            "cells": each.cells.assign(case=each.cells.title),
        }
        | (served.worth(each, *token) if token[0] else {})
        for each in comparisons
    ]
    write_json("compare", comparisons=parts)
    return 0


def as_text(comparisons: Sequence[Comparison]) -> str:
    lines = []
    for comparison in comparisons:
        rows = rows_of(comparison)
        lines += [*wrapped(opening(comparison)), "", LINE.format(*rows[0])]
        for name, of_name in groupby(rows, lambda row: row["algorithm"]):
            lines += [name, *(LINE.format(*row.values()) for row in of_name)]
        lines += ["", *wrapped(closing(comparison)), ""]

    return "\n".join(line.rstrip() for line in lines)
