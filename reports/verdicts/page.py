"""The gate's files: JUnit XML, GitHub's Markdown, and an HTML page without external resources."""

import io
import re
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from markupsafe import Markup

from reports.store.foreign import markdown_text
from reports.tables import templates
from reports.verdicts.cells import Cell
from reports.verdicts.forest import plot
from reports.verdicts.gate import Outcome, findings, headline
from reports.verdicts.verdict_table import (
    COLUMNS,
    as_markdown,
    closing,
    figures,
    grouped,
    head,
    warnings,
)

MOST_ROWS_BYTES = 50_000  # GitHub refuses a comment above 65,536 characters
NOT_XML = re.compile(r"[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def markdown(outcome: Outcome) -> str:
    """The outcome, and the whole table folded."""
    lines = "".join(f"- {markdown_text(line)}\n" for line in findings(outcome))
    table = as_markdown([outcome.comparison], MOST_ROWS_BYTES)
    return (f"## {markdown_text(headline(outcome))}\n\n{lines}\n"
            f"<details><summary>all cells</summary>\n\n{table}\n</details>\n")


def junit(outcome: Outcome) -> str:
    """A test suite with a test case for each fault of the current and for each cell."""
    comparison, launches = outcome.comparison, outcome.comparison.variant.launches
    run = launches[0].result.run
    suite = Element("testsuite", name=headline(outcome))
    facts = {"baseline": comparison.baseline.name, "current": comparison.variant.name,
             "machine_id": run.machine_id,
             "seeds": " ".join(str(launch.result.run.seed) for launch in launches),
             "run_ids": " ".join(launch.result.run.run_id for launch in launches),
             "allowed": "; ".join(comparison.allowed)}
    properties = SubElement(suite, "properties")
    for name, value in facts.items():
        SubElement(properties, "property", name=name, value=value)
    for name, sentence in outcome.faults:
        _add_error(suite, name, run.benchmark, sentence)
    for cell in outcome.cells:
        _add_cell(suite, cell, run.benchmark, outcome)
    return _xml(suite)


def _add_error(suite: Element, name: str, group: str, sentence: str) -> None:
    case = SubElement(suite, "testcase", name=name, classname=group, time="0")
    SubElement(case, "error", type="unusable", message=sentence)


def _add_cell(suite: Element, cell: Cell, benchmark: str, outcome: Outcome) -> None:
    group, text = f"{benchmark}.{cell.case.mode}", " ".join(figures(cell)[3:5])
    case = SubElement(suite, "testcase", name=cell.title, classname=group, time="0")
    if cell in outcome.slower:
        SubElement(case, "failure", type="regression", message=text)
    elif cell in outcome.hidden and outcome.passes_hidden:
        SubElement(case, "skipped", message=f"inconclusive: {text}")
    elif cell in outcome.hidden:
        SubElement(case, "failure", type="inconclusive", message=text)


def _xml(suite: Element) -> str:
    """The file with this suite; `?` replaces control characters, which XML cannot contain."""
    counts = {"tests": "testcase", "failures": "failure", "errors": "error", "skipped": "skipped"}
    for name, tag in counts.items():
        suite.set(name, str(len(list(suite.iter(tag)))))
    suites = Element("testsuites")
    suites.append(suite)
    indent(suites)
    return NOT_XML.sub("?", tostring(suites, encoding="unicode", xml_declaration=True)) + "\n"


def refusal(kind: str, sentence: str) -> str:
    """A file of this kind with only the sentence why there is no outcome."""
    if kind == "markdown":
        return f"## {markdown_text(sentence)}\n"
    if kind == "html":
        return templates.render("gate.html", headline=sentence, findings=[], picture="",
                                columns=COLUMNS, head=[], rows=[])
    suite = Element("testsuite", name=sentence)
    _add_error(suite, "comparison", "regress", sentence)
    return _xml(suite)


def html(outcome: Outcome) -> str:
    """The outcome, the table's sentences, the plot and the table."""
    comparison, drawing = outcome.comparison, io.StringIO()
    plot([comparison], drawing)
    # Inline SVG needs no prolog and no namespaces.
    picture = re.sub(r' xmlns(:\w+)?="[^"]*"', "", drawing.getvalue().partition("<svg")[2])
    return templates.render(
        "gate.html", headline=headline(outcome), findings=findings(outcome),
        picture=Markup(f"<svg{picture}"), columns=COLUMNS,
        head=[*head(comparison), *warnings(comparison), *closing(comparison)],
        rows=[(name, figures(cell))
              for name, cells in grouped(comparison).items() for cell in cells])
