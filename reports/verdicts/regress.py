"""`regress`: the gate's outcome in one screen of text, JUnit XML, Markdown and HTML; its exit status is `gate`'s."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path

from reports.store.result import ResultError
from reports.store.writing import write_named
from reports.verdicts import page
from reports.verdicts.accept import UNUSABLE, baseline_side, faults_of
from reports.verdicts.compare import add_allow, percent
from reports.verdicts.comparison import NothingInCommon, compare
from reports.verdicts.gate import findings, headline, judge
from reports.verdicts.sides import side_of
from reports.verdicts.verdict_table import head, warnings, wrapped

SCREEN_LINES = 24
FILES = {"junit": "JUnit XML", "markdown": "GitHub's Markdown", "html": "one page with plot and table"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `regress` takes."""
    parser.add_argument("--baseline", metavar="X", required=True, help="FOLDER/VARIANT of a campaign; or a run, a "
                        "folder or quoted glob of runs, a folder kept by `accept`")
    parser.add_argument("--current", metavar="Y", required=True, help="likewise; of the same campaign, where possible")
    parser.add_argument("--min-effect", metavar="PERCENT", type=percent, help="a slowdown below this passes (1)")
    parser.add_argument("--sizes", metavar="SIZES", type=_sizes, help="these alone: 16K,1M or 16K:1M (all)")
    parser.add_argument("--on-inconclusive", choices=["fail", "pass"], default="fail", help="what to do where such a "
                        "slowdown could hide (fail)")
    add_allow(parser)
    for name, what in FILES.items():
        parser.add_argument(f"--{name}", metavar="FILE", type=Path, help=f"also write {what}")
    parser.epilog = (f"{parser.epilog}; exit status: 0 no regression, 1 regression, 2 the command line or a file, 3 "
                     "not enough data to tell, 4 not comparable, 5 the current is wrong, incomplete or lacks a case")


def _sizes(text: str) -> Callable[[int], bool]:
    size = r"(\d{1,12})([KMG]?)"
    if not re.fullmatch(f"{size}(:{size}|(,{size})*)", text.upper()):
        raise argparse.ArgumentTypeError(f"{text!r} are no sizes such as 16K,1M or 16K:1M")
    sizes = [int(digits) << 10 * " KMG".index(unit or " ") for digits, unit in re.findall(size, text.upper())]
    return (lambda size: sizes[0] <= size <= sizes[1]) if ":" in text else (lambda size: size in sizes)


def regress(arguments: argparse.Namespace) -> int:
    """Prints the outcome and writes the files that were asked for; the exit status. Raises Incomparable for sides that
    measured different things, ResultError for what cannot be read or written; the files then hold that sentence."""
    notes: list[str] = []
    faults: list[tuple[str, str]] = []
    try:
        current = side_of(arguments.current, notes)
        faults = faults_of(current)
        if not current.launches:
            raise NothingInCommon(f"{current.name} has no launch that finished")
        baseline = baseline_side(arguments.baseline, current, notes)
        if baseline.name == current.name:
            baseline.name, current.name = arguments.baseline, arguments.current
        (comparison,) = compare([baseline, current], arguments.allow, is_chosen=arguments.sizes or (lambda size: True))
        comparison.notes += dict.fromkeys(notes)
        outcome = judge(comparison, faults, arguments.min_effect, arguments.on_inconclusive == "pass")
    except ResultError as error:
        said, is_unusable = str(error), bool(faults) or isinstance(error, NothingInCommon)
        if is_unusable:
            said = f"UNUSABLE: {'; '.join([*(fault for _, fault in faults[:1]), said])} (exit status {UNUSABLE})"
        _write(arguments, lambda name: page.refusal(name, said))
        if not is_unusable:
            raise
        print("\n".join(wrapped([said])))
        return UNUSABLE
    _write(arguments, lambda name: getattr(page, name)(outcome))
    more = f"all cells: python -m reports compare {arguments.baseline} {arguments.current}"
    lines = wrapped([headline(outcome), *comparison.allowed, *findings(outcome), *head(comparison)[:1],
                     *warnings(comparison)[len(comparison.allowed):]])
    print("\n".join([*lines[:SCREEN_LINES - 2], more]))
    return outcome.status


def _write(arguments: argparse.Namespace, content: Callable[[str], str]) -> None:
    for name in FILES:
        if path := getattr(arguments, name):
            write_named(path, content(name).encode())
