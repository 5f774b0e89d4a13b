"""The command `regress`, the gate: is the current slower than the baseline?"""

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any
from xml.etree.ElementTree import Element, SubElement, indent, tostring

import numpy as np

from reports.site.page import Page, Section, draw_picture, to_html
from reports.store.case import key_of
from reports.store.report_json import write_json
from reports.store.result import ResultError
from reports.store.untrusted import markdown_text
from reports.store.writing import write_named
from reports.tables.sentences import size_text, some, wrapped
from reports.tables.show import headline_of
from reports.verdicts import compare as table
from reports.verdicts.accept import UNUSABLE, baseline_side
from reports.verdicts.compare import add_allow, percent
from reports.verdicts.comparison import Comparison, NothingInCommon, compare
from reports.verdicts.sides import case_names, faults_of, label, notes_of, side_of
from reports.verdicts.verdict import FASTER, SLOWER, pairs_needed

MOST_LISTED = 5
MOST_ROWS_BYTES = 50_000  # GitHub refuses a comment above 65,536 characters
NOT_XML = re.compile(r"[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


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
        help="likewise; of the same campaign, where possible",
    )
    option(
        "--min-effect",
        metavar="PERCENT",
        type=percent,
        help="a slowdown below this passes (what the campaign decides)",
    )
    option(
        "--sizes",
        metavar="SIZES",
        type=_size_filter,
        default=lambda size: True,
        help="these alone: 16K,1M or 16K:1M (all)",
    )
    option(
        "--on-inconclusive",
        choices=["fail", "pass"],
        default="fail",
        help="the result if such a slowdown could hide (fail)",
    )
    add_allow(parser)
    for name, (content, _) in FILES.items():
        option(f"--{name}", metavar="FILE", type=Path, help=f"also write {content}")
    parser.epilog = (
        f"{parser.epilog}; exit status: 0 no regression, 1 regression, 2 the command "
        "line or a file, 3 not enough data to tell, 4 not comparable, 5 the current "
        "is wrong, incomplete or lacks a case"
    )


def _size_filter(text: str) -> Callable[[int], bool]:
    """A test for sizes in bytes, from a list such as `16K,1M` or a range such as `16K:1M`."""
    size = r"(\d{1,12})([KMG]?)"
    if not re.fullmatch(f"{size}(:{size}|(,{size})*)", text.upper()):
        raise argparse.ArgumentTypeError(f"{text!r} are no sizes such as 16K,1M or 16K:1M")
    sizes = [
        int(digits) << 10 * " KMG".index(unit or " ")
        for digits, unit in re.findall(size, text.upper())
    ]
    if ":" in text:
        return lambda size: sizes[0] <= size <= sizes[1]
    return lambda size: size in sizes


@dataclass
class Outcome:
    """The gate's result: one sentence, the exit status, (name, sentence) of each reason why the
    current is unusable, further lines, and the cells, worst first, with `text`, their figures, and
    `outcome`: `regression`, `inconclusive` if a slowdown could hide, `skipped` if it may, `control`
    for a cell of the library, which decides nothing."""

    headline: str
    status: int
    faults: Sequence[tuple[str, str]]
    findings: list[str] = field(default_factory=list)
    rows: list[Any] = field(default_factory=list)
    comparison: Comparison | None = None


def regress(arguments: argparse.Namespace) -> int:
    """Prints the outcome, writes the files and returns the gate's exit status. Raises Incomparable
    for sides that measured different things, ResultError for files, after writing that sentence."""
    faults: list[tuple[str, str]] = []
    problem = None
    try:
        current = side_of(arguments.current)
        faults = faults_of(current)
        if not current.launches:
            raise NothingInCommon(f"{current.name} has no launch that finished")
        baseline = baseline_side(arguments.baseline, current)
        if baseline.name == current.name:
            baseline.name, current.name = arguments.baseline, arguments.current
        (comparison,) = compare([baseline, current], arguments.allow, is_chosen=arguments.sizes)
        comparison.notes += notes_of([current, baseline])
        outcome = judge(
            comparison, faults, arguments.min_effect, arguments.on_inconclusive == "pass"
        )
    except ResultError as error:
        problem, sentence = error, str(error)
        if faults or isinstance(error, NothingInCommon):
            reasons = [*(fault for _, fault in faults[:1]), sentence]
            problem, sentence = None, f"UNUSABLE: {'; '.join(reasons)} (exit status {UNUSABLE})"
        outcome = Outcome(sentence, UNUSABLE, [("comparison", sentence)])
    for name, (_, content) in FILES.items():
        if path := getattr(arguments, name):
            write_named(path, content(outcome).encode())
    if problem:
        raise problem
    if arguments.json:
        write_json("regress", **record(outcome))
        return outcome.status
    lines = wrapped([outcome.headline])
    if outcome.comparison:
        allowed, notes = comparison.allowed, table.warnings(comparison)[len(comparison.allowed) :]
        lines = wrapped(
            [
                *lines,
                *figures_of(outcome),
                *allowed,
                *outcome.findings,
                table.head(comparison)[0],
                *notes,
            ]
        )
        # A screen has 24 lines.
        lines[22:] = [
            f"all cells: python -m reports compare {quote(arguments.baseline)} "
            f"{quote(arguments.current)}"
        ]
    print("\n".join(lines))
    return outcome.status


def record(outcome: Outcome) -> dict[str, Any]:
    """The outcome for `--json`."""
    figures = "mode", "outcome", "verdict", "baseline_us", "variant_us", "ratio", "low", "high"
    return {
        "status": outcome.status,
        "headline": outcome.headline,
        "findings": outcome.findings,
        "faults": [{"name": name, "sentence": sentence} for name, sentence in outcome.faults],
        "cells": [
            {"case": cell.title} | {name: getattr(cell, name) for name in figures}
            for cell in outcome.rows
        ],
    }


def judge(
    comparison: Comparison,
    faults: Sequence[tuple[str, str]] = (),
    min_effect: float | None = None,
    passes_hidden: bool = False,
) -> Outcome:
    """The outcome. `min_effect`, the smallest slowdown that counts, is a share. By default every
    certain slowdown beyond the margin counts, and the resolvable one must be ruled out. Raises
    ResultError if it is below the margin, and for cells of a library alone."""
    cells, margin = comparison.cells, comparison.margin
    if cells.is_library.all():
        raise ResultError(
            "every cell is the library's, which no gate judges: `reports compare` shows them"
        )
    must_rule_out, source = (
        (min_effect, "of --min-effect") if min_effect else comparison.resolvable_slowdown
    )
    fails_from = min_effect or margin
    if fails_from < margin:
        raise ResultError(f"--min-effect {fails_from:.2%} is within the margin, {margin:.2%}")
    faults = [*faults, *_unmeasured(comparison)]
    is_slower, can_hide = comparison.gate(fails_from, must_rule_out)
    # With too few pairs for any verdict there is nothing to pass.
    passes_hidden &= bool(np.isfinite(cells.detectable[comparison.is_judged]).any())
    word = "skipped" if passes_hidden else "inconclusive"
    texts = map(table.figures, cells.itertuples())
    cells = cells.assign(
        outcome=np.select(
            [is_slower, can_hide, cells.is_library], ["regression", word, "control"], ""
        ),
        text=[f"{text['ratio [95 %]']} {text['verdict']}" for text in texts],
    )
    rows = list(cells.sort_values("ratio", ascending=False, kind="stable").itertuples())
    of_cells = f"of {comparison.is_judged.sum()} cells"
    slower = f"{is_slower.sum()} {of_cells} slower by {fails_from:.1%} or more"
    hidden = f"in {can_hide.sum()} {of_cells} a slowdown of {must_rule_out:.1%} could hide"
    summary = comparison.summary(must_rule_out)
    has_slower = SLOWER in {*cells.verdict[comparison.is_judged]}
    passed = f"{slower}; {summary}" if has_slower else summary
    sentences = [sentence for _, sentence in faults]
    status, text = next(
        (status, text)
        for status, applies, text in (
            (UNUSABLE, faults, f"UNUSABLE: {some(sentences, 1)}"),
            (1, is_slower.any(), f"REGRESSION: {comparison.difference(is_slower)}; {slower}"),
            (3, can_hide.any() and not passes_hidden, f"INCONCLUSIVE: {hidden}"),
            (0, True, f"PASS: {passed}"),
        )
        if applies
    )
    findings = [*sentences[1:MOST_LISTED], *_findings(rows)]
    if can_hide.any():
        findings += [summary, _remedy(comparison, can_hide, must_rule_out)]
    elif status != 0 and comparison.library_sentence:
        findings.append(comparison.library_sentence)
    findings.append(f"the slowdown to exclude: {must_rule_out:.1%}, {source}")
    return Outcome(f"{text} (exit status {status})", status, faults, findings, rows, comparison)


def _unmeasured(comparison: Comparison) -> list[tuple[str, str]]:
    """(name, sentence) of each case of the baseline that no launch of the current measured."""
    measured = {
        key_of(case)
        for launch in comparison.variant.launches
        for case in launch.result.cases
        if case.status != "not measured"
    }
    cases = comparison.lacking
    cases = cases + [case for case in comparison.cells.case if key_of(case) not in measured]
    titles = [
        f"{size_text(case.size_bytes)} {name}"
        for case, name in zip(cases, case_names(cases), strict=True)
    ]
    return [(title, f"{title} of the baseline was not measured") for title in titles]


def _remedy(comparison: Comparison, can_hide: Any, slowdown: float) -> str:
    """What would decide the cells in which this slowdown can hide."""
    campaign, cells = comparison.baseline.campaign, comparison.cells[can_hide]
    cells = cells.assign(estimate=np.log(cells.ratio))
    pairs = np.max(pairs_needed(cells, cells.alpha, slowdown))
    if not comparison.is_interleaved or not campaign:
        return "launches in turn decide more: python -m bench.campaign"
    if not np.isfinite(pairs):
        return "more pairs decide more: a larger --budget or --pairs of the campaign"
    ran_s = [launch.elapsed_s for launch in campaign.launches if launch.stage == "first"]
    minutes = pairs / max(len(comparison.pairs), 1) * sum(ran_s) / 60
    return f"about {pairs:.0f} pairs would decide, in {max(minutes, 1):.0f} min"


def _findings(rows: Sequence[Any]) -> list[str]:
    rows = [cell for cell in rows if cell.outcome != "control"]
    of_cells = f"of {len(rows)} cells"
    slower = [f"{cell.title}: {cell.text}" for cell in rows if cell.outcome == "regression"]
    faster = [cell.title for cell in reversed(rows) if cell.verdict == FASTER]
    hidden = [cell for cell in rows if cell.outcome in ("inconclusive", "skipped")]
    lines = slower[:MOST_LISTED]
    if len(slower) > MOST_LISTED:
        lines.append(f"and {len(slower) - MOST_LISTED} more slower")
    if hidden:
        lines.append(f"inconclusive: {len(hidden)} {of_cells} leave a slowdown open")
        ends = sorted((cell.high, cell.title) for cell in hidden if np.isfinite(cell.high))
        if ends:
            lines[-1] += f"; the most is {ends[-1][0] - 1:.1%}, in {ends[-1][1]}"
        if lacking := len(hidden) - len(ends):
            lines[-1] += f"; {lacking} have no interval (unreplicated, or too few pairs)"
    if faster:
        lines.append(
            f"baseline is stale: FASTER in {len(faster)} {of_cells}: {some(faster)}; "
            "`python -m reports accept` moves it"
        )
    return lines


def markdown(outcome: Outcome) -> str:
    """The outcome, and the whole table folded."""
    title = f"## {markdown_text(outcome.headline)}\n"
    if outcome.comparison is None:
        return title
    title += "".join(f"\n**{markdown_text(line)}**\n" for line in figures_of(outcome))
    lines = "".join(f"- {markdown_text(line)}\n" for line in outcome.findings)
    rows = table.as_markdown([outcome.comparison], MOST_ROWS_BYTES)
    return f"{title}\n{lines}\n<details><summary>all cells</summary>\n\n{rows}\n</details>\n"


def figures_of(outcome: Outcome) -> list[str]:
    """The headline of the current's launches, and its ratios to the baseline."""
    if outcome.comparison is None:
        return []
    launches = [launch.result for launch in outcome.comparison.variant.launches]
    return [headline_of(*launches), *filter(None, [outcome.comparison.ratios])]


def junit(outcome: Outcome) -> str:
    """A test case for each fault and cell; `?` replaces characters that XML cannot contain."""
    suites = Element("testsuites")
    suite = SubElement(suites, "testsuite", name=outcome.headline)
    benchmark, cells = "regress", []
    if comparison := outcome.comparison:
        runs = [launch.result.run for launch in comparison.variant.launches]
        benchmark = runs[0].benchmark
        facts = {
            "baseline": comparison.baseline.name,
            "current": comparison.variant.name,
            "machine_id": runs[0].machine_id,
            "seeds": " ".join(str(run.seed) for run in runs),
            "run_ids": " ".join(run.run_id for run in runs),
            "allowed": "; ".join(comparison.allowed),
        }
        properties = SubElement(suite, "properties")
        for name, value in facts.items():
            SubElement(properties, "property", name=name, value=value)
        cells = [
            (cell.title, f"{benchmark}.{cell.mode}", cell.outcome, cell.text)
            for cell in outcome.rows
        ]
    faults = [(name, benchmark, "unusable", sentence) for name, sentence in outcome.faults]
    for name, group, word, text in [*faults, *cells]:
        case = SubElement(suite, "testcase", name=name, classname=group, time="0")
        if word == "skipped":
            SubElement(case, "skipped", message=f"inconclusive: {text}")
        elif word and word != "control":
            tag = "error" if word == "unusable" else "failure"
            SubElement(case, tag, type=word, message=text)
    counts = {"tests": "testcase", "failures": "failure", "errors": "error", "skipped": "skipped"}
    for name, tag in counts.items():
        suite.set(name, str(len(list(suite.iter(tag)))))
    indent(suites)
    return NOT_XML.sub("?", tostring(suites, encoding="unicode", xml_declaration=True)) + "\n"


def sections_of(comparisons: Sequence[Comparison]) -> list[Section]:
    """The parts of a page: the plot, then the sentences and the table of each comparison."""
    picture = draw_picture(
        "forest",
        lambda target: table.plot(comparisons, target),
        "Ratio of each cell, variant over baseline, with its 95 % interval",
        "cells-0",
    )
    return [Section("Ratios", pictures=[picture])] + [
        Section(
            f"{label(each.variant)} against {label(each.baseline)}",
            table.sentences(each),
            table=f"cells-{place}",
            rows=[*map(table.figures, each.cells.itertuples())],
        )
        for place, each in enumerate(comparisons)
    ]


def html(outcome: Outcome) -> str:
    """The outcome, and the plot, sentences and table of its comparison."""
    sections = sections_of([outcome.comparison]) if outcome.comparison else []
    return to_html(Page(outcome.headline, [*figures_of(outcome), *outcome.findings], sections))


FILES: dict[str, tuple[str, Callable[[Outcome], str]]] = {
    "junit": ("JUnit XML", junit),
    "markdown": ("GitHub's Markdown", markdown),
    "html": ("one page with plot and table", html),
}
