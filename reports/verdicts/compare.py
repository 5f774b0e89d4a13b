"""The command `compare`: prints the comparison of sides; docs/compare.md explains the table."""

import argparse
import re
import sys
from pathlib import Path

from reports.verdicts import comparison
from reports.verdicts.sides import notes_of, read_sides
from reports.verdicts.verdict_table import FORMATS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sides", metavar="SIDE", nargs="+", help="one campaign's folder; or the "
                        "baseline, then the other sides: runs, folders of runs, quoted globs, "
                        "FOLDER/VARIANT of a campaign")
    add_allow(parser)
    parser.add_argument("--margin", metavar="PERCENT", type=percent, help="a difference up to this "
                        "is none (the campaign's, else 1)")
    parser.add_argument("--plot", metavar="OUT", type=Path, help="draw the ratios; .svg or .png")
    parser.add_argument("--format", choices=FORMATS, default="text")


def compare(arguments: argparse.Namespace) -> int:
    """Prints the comparison and returns exit status 0. Raises Incomparable for sides that measured
    different things, ResultError for a file that cannot be read or drawn."""
    sides = read_sides(arguments.sides)
    comparisons = comparison.compare(sides, arguments.allow, arguments.margin)
    for note in notes_of(sides):
        print(f"reports: {note}", file=sys.stderr)
    if arguments.plot:
        from reports.verdicts.forest import plot

        plot(comparisons, arguments.plot)
    sys.stdout.write(FORMATS[arguments.format](comparisons))
    return 0


def add_allow(parser: argparse.ArgumentParser) -> None:
    """Adds the option that permits a difference in a fact that must be equal."""
    names = ", ".join(comparison.COMPARABLE)
    parser.add_argument("--allow", metavar="KEY", action="append", default=[],
                        choices=comparison.COMPARABLE,
                        help=f"compare although this differs: {names}; may be repeated")


def percent(text: str) -> float:
    """A percentage as a share."""
    if not re.fullmatch(r"\d{1,2}(\.\d+)?", text) or not float(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a percentage between 0 and 100")
    return float(text) / 100
