"""The command `regress`: prints the gate's outcome, and writes it as JUnit, Markdown and HTML."""

import argparse
import re
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element, SubElement, tostring

from reports.kit.page import Page, banner_png, to_html
from reports.tables.figure import can_draw
from reports.tables.sentences import painted, that_fit, wrapped
from reports.tables.show import headline_of
from reports.verdicts.accept import baseline_side
from reports.verdicts.compare import explanations, notes
from reports.verdicts.gate_rule import (
    INCONCLUSIVE,
    PASS,
    STATUSES,
    UNUSABLE,
    Outcome,
    decide,
    exclusion_of,
)
from reports.verdicts.judge import compare
from reports.verdicts.match import NothingInCommon
from reports.verdicts.quantile import add_quantile, judged_quantile, option_of
from reports.verdicts.sides import add_allow, faults_of, launched_text, side_of
from reports.verdicts.verdict_pages import sorted_cells, verdict_page
from wiretax.common.arguments import percent
from wiretax.common.program import REPORTS, RUN, answer
from wiretax.common.untrusted import markdown_text
from wiretax.record.result import ResultError
from wiretax.record.writing import write_named

MOST_LINES = 22  # a screen has 24
MOST_SHOWN = 6  # rows of a comment on a pull request, in view
MOST_ROWS = 300  # GitHub refuses a comment above 65,536 characters
MOST_LETTERS = 60  # of its heading, which a phone shows in two lines
NOT_XML = re.compile(r"[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# The elements of JUnit for the outcomes that have one.
TAGS = {
    "changed": "failure",
    "wrong": "failure",
    "unusable": "error",
    "regression": "failure",
    "inconclusive": "skipped",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option(
        "--baseline",
        metavar="X",
        required=True,
        help="FOLDER/VARIANT of a campaign, runs as for `compare`, or a folder of `accept`",
    )
    option(
        "--current",
        metavar="Y",
        required=True,
        help="named likewise; if possible, of the same campaign",
    )
    add_rule(parser)
    add_quantile(parser)
    add_files(parser)
    meanings = ", ".join(f"{status} {meaning}" for status, meaning in enumerate(STATUSES))
    parser.epilog = f"{parser.epilog}; exit status: {meanings}"


def add_rule(parser: argparse.ArgumentParser) -> None:
    """Adds what a gate takes for a regression, and for comparable."""
    parser.add_argument(
        "--min-effect",
        metavar="PERCENT",
        type=percent,
        help="the slowdown that fails, and that a pass excludes in every cell (1 fails; a pass "
        "excludes what the launches decide, beside a kept baseline 5, of a percentile 100)",
    )
    add_allow(parser)


def add_files(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the files that a verdict can be written to."""
    contents = {
        "junit": "JUnit XML",
        "markdown": "GitHub's Markdown",
        "html": "one page with all of it, and its picture",
    }
    for name, content in contents.items():
        parser.add_argument(f"--{name}", metavar="FILE", type=Path, help=f"also write {content}")


def regress(arguments: argparse.Namespace) -> int:
    """Prints the outcome, writes the files and returns the gate's exit status. Raises Incomparable
    for sides that measured different things, ResultError for files, after writing that sentence."""
    files = arguments.junit, arguments.markdown, arguments.html
    try:
        outcome = judge(
            arguments.baseline,
            arguments.current,
            arguments.allow,
            arguments.min_effect,
            arguments.quantile,
        )
    except ResultError as error:
        write_files(Outcome(error.exit_status, str(error)), *files)
        raise

    write_files(outcome, *files)
    answer(
        arguments,
        as_text(outcome),
        status=outcome.status,
        headline=outcome.headline,
        findings=outcome.findings,
        faults=outcome.faults,
        quantile=outcome.comparison and outcome.comparison.quantile,
        **exclusion_of(outcome),
        cells=outcome.cells,
    )
    return outcome.status


def judge(
    baseline: str,
    current: str,
    allowed: Sequence[str] = (),
    min_effect: float | None = None,
    quantile: float | None = None,
) -> Outcome:
    """The outcome for two sides as they are named on the command line, by a quantile of their
    steps if one is given, or if their campaign has one. Raises Incomparable for
    sides that measured different things, ResultError for files."""
    ours = side_of(current)
    faults = faults_of(ours)
    try:
        if not ours.launches:
            raise NothingInCommon(f"{ours.name} has no launch that finished")

        theirs = baseline_side(baseline, ours)
        quantile = judged_quantile(theirs, quantile)
        (comparison,) = compare([theirs, ours], allowed, quantile=quantile)
        if comparison.cells.is_library.all():
            raise ResultError(
                f"every cell is the library's, which no gate judges: `{REPORTS} compare` shows them"
            )
        return decide(comparison, min_effect)
    except ResultError as error:
        if not faults and not isinstance(error, NothingInCommon):
            raise
        return Outcome(UNUSABLE, "; ".join([*faults[:1], str(error)]))


def write_files(
    outcome: Outcome,
    junit: Path | None = None,
    markdown: Path | None = None,
    html: Path | None = None,
) -> None:
    """Writes the outcome to the paths that are given. Raises ResultError."""
    if junit:
        write_named(junit, gate_junit(outcome).encode())
    if markdown:
        write_named(markdown, as_markdown(outcome).encode())
    if html:
        write_page(verdict_page(outcome.headline, [outcome]), html)


def as_text(outcome: Outcome) -> str:
    """At most a screen."""
    said = [outcome.headline]
    if comparison := outcome.comparison:
        said += [
            headline_of(*comparison.variant.launches),
            *outcome.findings,
            *notes(comparison),
        ]
    lines = wrapped(that_fit(said, MOST_LINES))
    if comparison:
        places = comparison.baseline.place, comparison.variant.place
        options = option_of(comparison.quantile)
        lines.append(f"all cells: {RUN}{REPORTS} compare {shlex.join([*places, *options])}")

    return painted("\n".join(lines))


class JunitCase(NamedTuple):
    """A test case of JUnit. One that failed has one of TAGS as its `word`. Its time is what it
    measured: that of an iteration, or of all launches."""

    name: str
    group: str
    word: str
    text: str
    time_s: float = 0.0


def gate_junit(outcome: Outcome) -> str:
    """The suite of a gate: a test case for the faults and for each cell, with names that every gate
    of this command has."""
    faults, said = "\n".join(outcome.faults), [outcome.headline]
    word = "unusable" if faults else ""
    cases = [JunitCase("both sides can be judged", "gate", word, faults, outcome.elapsed_s)]
    if comparison := outcome.comparison:
        run, cells = comparison.variant.launches[0].run, outcome.cells
        groups = f"{run.benchmark}." + cells["mode"]
        times_s = cells.variant_us.fillna(0) / 1e6
        texts = cells.title, groups, cells.outcome, cells.text, times_s
        cases += [JunitCase(*each) for each in zip(*texts, strict=True)]
        said += [f"machine {run.machine_id}", *outcome.findings]

    said += map(launched_text, outcome.sides)
    facts = {
        f"{side.name}.{name}": value
        for side in outcome.sides
        for name, value in {
            "commit": side.known_commit,
            "branch": side.branch,
            "command": shlex.join(side.argv),
        }.items()
        if value
    }
    return as_junit("gate", cases, said, facts)


def as_junit(
    suite_name: str,
    cases: Sequence[JunitCase],
    said: Sequence[str],
    facts: Mapping[str, str] | None = None,
) -> str:
    """The suite of these test cases, with facts as its properties; `?` replaces characters that XML
    cannot contain."""
    tags = [TAGS.get(each.word) for each in cases]
    suite = Element(
        "testsuite",
        name=f"wiretax {suite_name}",
        tests=str(len(cases)),
        failures=str(tags.count("failure")),
        errors=str(tags.count("error")),
        skipped=str(tags.count("skipped")),
        time=_seconds(sum(each.time_s for each in cases)),
    )
    if facts:
        properties = SubElement(suite, "properties")
        for name, value in facts.items():
            SubElement(properties, "property", name=name, value=value)
    SubElement(suite, "system-out").text = "\n".join(said)

    for each in cases:
        case = SubElement(
            suite,
            "testcase",
            name=each.name,
            classname=each.group,
            time=_seconds(each.time_s),
        )
        if each.word in TAGS:
            SubElement(case, TAGS[each.word], type=each.word, message=each.text)

    return NOT_XML.sub("?", tostring(suite, encoding="unicode", xml_declaration=True)) + "\n"


def _seconds(time_s: float) -> str:
    return f"{time_s:.9f}".rstrip("0").rstrip(".")


def as_markdown(outcome: Outcome) -> str:
    """The outcome, and the cells in the order of the page."""
    sign = {PASS: "✓", INCONCLUSIVE: "?"}.get(outcome.status, "✗")
    title, comparison = f"{sign} {outcome.headline}", outcome.comparison
    sides = [*map(launched_text, outcome.sides)]
    if not comparison:
        return to_markdown(title, sides)

    said = [headline_of(*comparison.variant.launches), *outcome.findings, *sides]
    return to_markdown(title, said, explanations(comparison), [*sorted_cells(comparison).text])


def to_markdown(
    title: str,
    said: Sequence[str] = (),
    details: Sequence[str] = (),
    rows: Sequence[Mapping[str, str]] = (),
) -> str:
    """A verdict: the beginning of its title as a heading, and the whole, if that is longer;
    sentences; the first rows of a table, by their headings; and folded, details and, if not all
    are in view, the rows. At most 20 lines are in view."""
    first, *rest = textwrap.wrap(title, MOST_LETTERS - len(" ..."), break_on_hyphens=False)
    lines = [f"## {markdown_text(first)}"]
    if rest:
        lines = [f"{lines[0]} ...", "", markdown_text(title)]
    lines += ["", *_listed(said), ""]
    if rows:
        hidden = len(rows) - MOST_ROWS
        more = [f"{hidden} more rows do not fit here"] if hidden > 0 else []
        folded, summary = [*_listed([*details, *more]), ""], "notes"
        if len(rows) > MOST_SHOWN:
            folded, summary = [*folded, *_table_of(rows[:MOST_ROWS]), ""], "all rows"
        lines += [*_table_of(rows[:MOST_SHOWN]), "", f"<details><summary>{summary}</summary>", ""]
        lines += [*folded, "</details>"]

    return "\n".join([*lines, ""])


def _listed(texts: Sequence[str]) -> list[str]:
    return [f"- {markdown_text(text)}" for text in texts]


def _table_of(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """The lines of a table of rows by their headings."""
    cells = [[*rows[0]], *([*row.values()] for row in rows)]
    lines = [f"| {' | '.join(map(markdown_text, texts))} |" for texts in cells]
    return [lines[0], "|---" * len(rows[0]) + "|", *lines[1:]]


def write_page(page: Page, path: Path) -> None:
    """Writes the page and, beside a file.html, the picture that chats show with a link to it, where
    pictures can be drawn."""
    if path.suffix == ".html" and can_draw():
        page.picture = f"{path.name}.png"
        write_named(path.with_name(page.picture), banner_png(page))

    write_named(path, to_html(page).encode())
