"""The command `compare`: each side against the first, as tables of at most 80 columns or JSON."""

import argparse
from collections.abc import Sequence
from functools import partial

from reports.store.arguments import percent, positive_number, whole_number
from reports.store.program import answer, complain
from reports.store.result import ResultError
from reports.tables.sentences import interval_text, lay_out, number, plain_table
from reports.verdicts import judge
from reports.verdicts.judge import Comparison
from reports.verdicts.render import rows_of, sentences
from reports.verdicts.sides import add_allow, notes_of, read_sides
from reports.verdicts.verdict import FASTER, SLOWER


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
        type=partial(whole_number, 1, most=10**6),
        help="calls in a token, such as 161",
    )


def compare(arguments: argparse.Namespace) -> int:
    """Prints the comparison and returns exit status 0. Raises Incomparable for sides that measured
    different things, ResultError for a file that cannot be read."""
    if (arguments.tpot_ms is None) != (arguments.calls is None):
        raise ResultError("compare needs both --tpot-ms and --calls, or neither")

    sides = read_sides(arguments.sides)
    comparisons = judge.compare(sides, arguments.allow, arguments.margin)

    complain(*notes_of(sides))

    values = [
        worth(each, arguments.tpot_ms, arguments.calls) if arguments.calls else []
        for each in comparisons
    ]
    parts = [
        {
            "baseline": each.baseline.name,
            "compared": each.variant.name,
            "margin": each.margin,
            "sentences": sentences(each) + said,
            "cells": each.cells,
        }
        for each, said in zip(comparisons, values, strict=True)
    ]
    answer(arguments, "\n".join(map(as_text, comparisons, values)), comparisons=parts)
    return 0


def worth(comparison: Comparison, tpot_ms: float, calls: int) -> list[str]:
    """What so many calls of each judged cell that differs are worth of a served token of `tpot_ms`,
    with the interval; cells whose calls do not fit into the token are left out."""
    cells = comparison.cells
    differs = comparison.is_judged & cells.verdict.isin([SLOWER, FASTER])
    us = cells[["ratio", "low", "high"]].sub(1).mul(cells.baseline_us, axis=0)
    is_short = calls * cells.baseline_us <= 1e3 * tpot_ms
    ms, titles = calls / 1e3 * us[differs & is_short], cells.title[differs & is_short]
    said = [
        f"{title}: {interval_text(own, '{:+.3f}'.format)} ms by {calls} calls, "
        f"{own[0] / tpot_ms:+.2%} of a token of {number(tpot_ms)} ms"
        for title, own in zip(titles, ms.itertuples(index=False, name=None), strict=True)
    ]
    return said or [
        f"no cell is slower or faster whose {calls} calls fit into {number(tpot_ms)} ms"
    ]


def as_text(comparison: Comparison, values: Sequence[str]) -> str:
    """The table below its sentences; `values` are those of `worth`."""
    rows = rows_of(comparison)
    return lay_out([], sentences(comparison), [("", plain_table(rows[0], rows))], values)
