"""The command `regress`: the gate's outcome as text, JUnit XML, Markdown, HTML and exit status."""

import argparse
import re
from collections.abc import Callable
from pathlib import Path

from reports.store.result import ResultError
from reports.store.writing import write_named
from reports.tables.sentences import wrapped
from reports.verdicts import gate
from reports.verdicts.accept import UNUSABLE, baseline_side, faults_of
from reports.verdicts.cells import Comparison
from reports.verdicts.compare import add_allow, percent
from reports.verdicts.comparison import NothingInCommon, compare
from reports.verdicts.sides import Side, notes_of, side_of
from reports.verdicts.verdict_table import head, warnings

SCREEN_LINES = 24
FILES = {"junit": "JUnit XML", "markdown": "GitHub's Markdown",
         "html": "one page with plot and table"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--baseline", metavar="X", required=True, help="FOLDER/VARIANT of a "
                        "campaign; or a run, a folder or quoted glob of runs, a folder kept by "
                        "`accept`")
    parser.add_argument("--current", metavar="Y", required=True,
                        help="likewise; of the same campaign, where possible")
    parser.add_argument("--min-effect", metavar="PERCENT", type=percent,
                        help="a slowdown below this passes (1)")
    parser.add_argument("--sizes", metavar="SIZES", type=_size_filter, default=lambda size: True,
                        help="these alone: 16K,1M or 16K:1M (all)")
    parser.add_argument("--on-inconclusive", choices=["fail", "pass"], default="fail",
                        help="the result if such a slowdown could hide (fail)")
    add_allow(parser)
    for name, content in FILES.items():
        parser.add_argument(f"--{name}", metavar="FILE", type=Path, help=f"also write {content}")
    parser.epilog = (f"{parser.epilog}; exit status: 0 no regression, 1 regression, 2 the command "
                     "line or a file, 3 not enough data to tell, 4 not comparable, 5 the current "
                     "is wrong, incomplete or lacks a case")


def _size_filter(text: str) -> Callable[[int], bool]:
    """A test for sizes in bytes, from a list such as `16K,1M` or a range such as `16K:1M`."""
    size = r"(\d{1,12})([KMG]?)"
    if not re.fullmatch(f"{size}(:{size}|(,{size})*)", text.upper()):
        raise argparse.ArgumentTypeError(f"{text!r} are no sizes such as 16K,1M or 16K:1M")
    sizes = [int(digits) << 10 * " KMG".index(unit or " ")
             for digits, unit in re.findall(size, text.upper())]
    if ":" in text:
        return lambda size: sizes[0] <= size <= sizes[1]
    return lambda size: size in sizes


def regress(arguments: argparse.Namespace) -> int:
    """Prints the outcome, writes the files and returns the gate's exit status. Raises Incomparable
    for sides that measured different things, ResultError for files; the files then have that
    sentence."""
    faults: list[tuple[str, str]] = []
    try:
        current = side_of(arguments.current)
        faults = faults_of(current)
        comparison = _compare(arguments, current)
        outcome = gate.judge(comparison, faults, arguments.min_effect,
                             arguments.on_inconclusive == "pass")
    except ResultError as error:
        sentence, is_unusable = str(error), bool(faults) or isinstance(error, NothingInCommon)
        if is_unusable:
            reasons = [*(fault for _, fault in faults[:1]), sentence]
            sentence = f"UNUSABLE: {'; '.join(reasons)} (exit status {UNUSABLE})"
        _write(arguments, gate.Outcome(sentence, UNUSABLE, [("comparison", sentence)]))
        if not is_unusable:
            raise
        print("\n".join(wrapped([sentence])))
        return UNUSABLE
    _write(arguments, outcome)
    # As many lines as fit on a screen with one more below.
    lines = wrapped([outcome.headline, *comparison.allowed, *outcome.findings, head(comparison)[0],
                     *warnings(comparison)[len(comparison.allowed):]])[:SCREEN_LINES - 2]
    command = f"python -m reports compare {arguments.baseline} {arguments.current}"
    print("\n".join([*lines, f"all cells: {command}"]))
    return outcome.status


def _compare(arguments: argparse.Namespace, current: Side) -> Comparison:
    if not current.launches:
        raise NothingInCommon(f"{current.name} has no launch that finished")
    baseline = baseline_side(arguments.baseline, current)
    if baseline.name == current.name:
        baseline.name, current.name = arguments.baseline, arguments.current
    (comparison,) = compare([baseline, current], arguments.allow, is_chosen=arguments.sizes)
    comparison.notes += notes_of([current, baseline])
    return comparison


def _write(arguments: argparse.Namespace, outcome: gate.Outcome) -> None:
    for kind in FILES:
        if path := getattr(arguments, kind):
            write_named(path, getattr(gate, kind)(outcome).encode())
