"""The gate: `judge` decides whether the current is slower than the baseline; the rest writes its
files: JUnit XML, GitHub's Markdown, and an HTML page without external resources.

Exit status, the first that applies: 5 the current is wrong, incomplete, or lacks a case of the
baseline; 4 the two cannot be compared; 1 a regression; 3 not enough data; 0.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element, SubElement, indent, tostring

import numpy as np

from reports.store.foreign import markdown_text
from reports.store.result import ResultError
from reports.tables.page import Page, to_html
from reports.tables.sentences import size_text, some
from reports.verdicts import verdict_table as table
from reports.verdicts.accept import UNUSABLE
from reports.verdicts.cells import Comparison, case_names
from reports.verdicts.forest import sections
from reports.verdicts.sides import key_of
from reports.verdicts.verdict import FASTER, SAME, SLOWER

if TYPE_CHECKING:
    import pandas as pd

REGRESSION, INCONCLUSIVE = 1, 3
MOST_LISTED = 5
MOST_ROWS_BYTES = 50_000  # GitHub refuses a comment above 65,536 characters
NOT_XML = re.compile(r"[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass
class Outcome:
    """The gate's result: one sentence, further lines, and the exit status; `faults` are (name,
    sentence) of each reason why the current is unusable. Without a comparison the sentence says why
    there is none."""

    headline: str
    status: int
    faults: Sequence[tuple[str, str]]
    findings: list[str] = field(default_factory=list)
    comparison: Comparison | None = None


def judge(comparison: Comparison, faults: Sequence[tuple[str, str]] = (),
          least: float | None = None, passes_hidden: bool = False) -> Outcome:
    """The outcome. `least`, the smallest slowdown that counts, is a share, by default the margin;
    raises ResultError if it is below, where no cell gets a verdict.

    Adds the column `outcome` to the cells: `regression` if a cell is slower by that much,
    `inconclusive` if that much could hide, `skipped` if that may pass, otherwise empty."""
    margin = comparison.margin
    least = margin if least is None else least
    if least < margin:
        raise ResultError(f"--min-effect {least:.2%} is within the margin, {margin:.2%}: no cell "
                          "would be called")
    faults = [*faults, *((name, f"{name} of the baseline was not measured")
                         for name in _missing(comparison))]
    cells = comparison.cells
    is_slower = (cells.verdict == SLOWER) & (cells.ratio >= 1 + least)
    can_hide = ~is_slower & ~cells.verdict.isin([SAME, FASTER]) & ~(cells.high < 1 + least)
    # With too few pairs for any verdict there is nothing to pass.
    passes_hidden &= bool(np.isfinite(cells.detectable).any())
    word = "skipped" if passes_hidden else "inconclusive"
    cells["outcome"] = np.select([is_slower, can_hide], ["regression", word], "")
    of_cells, effect = f"of {len(cells)} cells", f"{least:.1%}"
    status, text = 0, f"PASS: 0 {of_cells} slower by {effect} or more"
    if faults:
        status, text = UNUSABLE, f"UNUSABLE: {some([sentence for _, sentence in faults], 1)}"
    elif is_slower.any():
        status = REGRESSION
        text = f"REGRESSION: {is_slower.sum()} {of_cells} slower by {effect} or more"
    elif can_hide.any() and not passes_hidden:
        status = INCONCLUSIVE
        text = f"INCONCLUSIVE: in {can_hide.sum()} {of_cells} a slowdown of {effect} could hide"
    findings = [sentence for _, sentence in faults[1:MOST_LISTED]]
    slower, hidden, faster = (worst_first(cells[is_listed]) for is_listed in (
        is_slower, can_hide, cells.verdict == FASTER))
    findings += _findings(slower, hidden, faster, of_cells)
    return Outcome(f"{text} (exit status {status})", status, faults, findings, comparison)


def worst_first(cells: "pd.DataFrame") -> list[Any]:
    """The rows, the largest ratio first."""
    return list(cells.sort_values("ratio", ascending=False, kind="stable").itertuples())


def _missing(comparison: Comparison) -> list[str]:
    """The baseline's cells that the current did not plan or did not measure."""
    measured = {key_of(case) for launch in comparison.variant.launches
                for case in launch.result.cases if case.status != "not measured"}
    planned = comparison.cells.case
    cases = comparison.lacking + [case for case in planned if key_of(case) not in measured]
    return [f"{size_text(case.size_bytes)} {name}"
            for case, name in zip(cases, case_names(cases), strict=True)]


def _findings(slower: list[Any], hidden: list[Any], faster: list[Any],
              of_cells: str) -> list[str]:
    """The worst cells, and summaries of hidden and faster cells."""
    lines = [f"{cell.title}: {table.outcome_text(cell)}" for cell in slower[:MOST_LISTED]]
    if len(slower) > MOST_LISTED:
        lines.append(f"and {len(slower) - MOST_LISTED} more slower")
    if hidden:
        line = f"inconclusive: {len(hidden)} {of_cells} leave a slowdown open"
        highs = [(cell.high, cell.title) for cell in hidden if np.isfinite(cell.high)]
        if highs:
            line += f"; the most is {max(highs)[0] - 1:.1%}, in {max(highs)[1]}"
        if len(highs) < len(hidden):
            line += (f"; {len(hidden) - len(highs)} have no interval (unreplicated, or too "
                     "few pairs)")
        lines.append(line)
    if faster:
        titles = some([cell.title for cell in reversed(faster)])
        lines.append(f"baseline is stale: FASTER in {len(faster)} {of_cells}: {titles}; "
                     "`python -m reports accept` moves it")
    return lines


def markdown(outcome: Outcome) -> str:
    """The outcome, and the whole table folded."""
    title = f"## {markdown_text(outcome.headline)}\n"
    if outcome.comparison is None:
        return title
    lines = "".join(f"- {markdown_text(line)}\n" for line in outcome.findings)
    rows = table.as_markdown([outcome.comparison], MOST_ROWS_BYTES)
    return f"{title}\n{lines}\n<details><summary>all cells</summary>\n\n{rows}\n</details>\n"


def junit(outcome: Outcome) -> str:
    """A test suite with a test case for each fault of the current and for each cell. `?` replaces
    control characters, which XML cannot contain."""
    suites = Element("testsuites")
    suite = SubElement(suites, "testsuite", name=outcome.headline)
    benchmark, comparison, cells = "regress", outcome.comparison, []
    if comparison:
        benchmark = comparison.variant.launches[0].result.run.benchmark
        properties = SubElement(suite, "properties")
        for name, value in _facts(comparison).items():
            SubElement(properties, "property", name=name, value=value)
        cells = [(cell.title, f"{benchmark}.{cell.mode}", cell.outcome, table.outcome_text(cell))
                 for cell in worst_first(comparison.cells)]
    faults = [(name, benchmark, "unusable", sentence) for name, sentence in outcome.faults]
    for name, group, word, text in [*faults, *cells]:
        case = SubElement(suite, "testcase", name=name, classname=group, time="0")
        if word == "skipped":
            SubElement(case, "skipped", message=f"inconclusive: {text}")
        elif word:
            tag = "error" if word == "unusable" else "failure"
            SubElement(case, tag, type=word, message=text)
    counts = {"tests": "testcase", "failures": "failure", "errors": "error", "skipped": "skipped"}
    for name, tag in counts.items():
        suite.set(name, str(len(list(suite.iter(tag)))))
    indent(suites)
    return NOT_XML.sub("?", tostring(suites, encoding="unicode", xml_declaration=True)) + "\n"


def _facts(comparison: Comparison) -> dict[str, str]:
    runs = [launch.result.run for launch in comparison.variant.launches]
    return {"baseline": comparison.baseline.name, "current": comparison.variant.name,
            "machine_id": runs[0].machine_id, "seeds": " ".join(str(run.seed) for run in runs),
            "run_ids": " ".join(run.run_id for run in runs),
            "allowed": "; ".join(comparison.allowed)}


def html(outcome: Outcome) -> str:
    """The outcome, and the plot, sentences and table of its comparison."""
    parts = sections([outcome.comparison]) if outcome.comparison else []
    return to_html(Page(outcome.headline, outcome.findings, parts))
