"""`compare`: sides and how to show them; what the table says is docs/compare.md's matter."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from reports.verdicts import comparison
from reports.verdicts.sides import sides
from reports.verdicts.verdict_table import FORMATS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `compare` takes."""
    parser.add_argument("what", metavar="WHAT", nargs="+", help="one campaign's folder; or the baseline, then what is "
                        "compared with it: runs, folders of runs, quoted globs, FOLDER/VARIANT of a campaign")
    add_allow(parser)
    parser.add_argument("--margin", metavar="PERCENT", type=percent, help="a difference up to this is none (the "
                        "campaign's, else 1)")
    parser.add_argument("--plot", metavar="OUT", type=Path, help="draw the ratios; .svg or .png")
    parser.add_argument("--format", choices=FORMATS, default="text")


def compare(arguments: argparse.Namespace) -> int:
    """Prints the comparison; the exit status, 0. Raises Incomparable for sides that measured different things,
    ResultError for what cannot be read or drawn."""
    found, notes = sides(arguments.what)
    comparisons = comparison.compare(found, arguments.allow, arguments.margin)
    for note in notes:
        print(f"reports: {note}", file=sys.stderr)
    if arguments.plot:
        from reports.verdicts.forest import plot

        plot(comparisons, arguments.plot)
    sys.stdout.write(FORMATS[arguments.format](comparisons))
    return 0


def add_allow(parser: argparse.ArgumentParser) -> None:
    """The option by which what is not comparable is compared all the same."""
    parser.add_argument("--allow", metavar="KEY", action="append", default=[], choices=comparison.COMPARABLE,
                        help=f"compare although this differs: {', '.join(comparison.COMPARABLE)}; may be repeated")


def percent(text: str) -> float:
    """The share that a percentage is."""
    if not re.fullmatch(r"\d{1,2}(\.\d+)?", text) or not float(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a percentage between 0 and 100")
    return float(text) / 100
