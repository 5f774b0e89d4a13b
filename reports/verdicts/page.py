"""What the gate leaves beside its exit status: JUnit XML, GitHub's Markdown, an HTML page that needs nothing else."""

from __future__ import annotations

import io
import re
from xml.etree import ElementTree

from markupsafe import Markup

from reports.store.foreign import markdown_text
from reports.tables import templates
from reports.verdicts.forest import plot
from reports.verdicts.gate import Outcome, findings, headline
from reports.verdicts.verdict_table import COLUMNS, as_markdown, closing, figures, grouped, head, warnings

MOST_ROWS_BYTES = 50_000  # GitHub refuses a comment above 65,536 characters


def markdown(outcome: Outcome) -> str:
    """The outcome, and the whole table folded away."""
    found = "".join(f"- {markdown_text(line)}\n" for line in findings(outcome))
    table = as_markdown([outcome.comparison], MOST_ROWS_BYTES)
    return (f"## {markdown_text(headline(outcome))}\n\n{found}\n"
            f"<details><summary>all cells</summary>\n\n{table}\n</details>\n")


def junit(outcome: Outcome) -> str:
    """A test suite; a test case a cell, and one for each fault of the current."""
    comparison, current = outcome.comparison, outcome.comparison.variant.launches
    run = current[0].result.run
    suites = ElementTree.Element("testsuites")
    suite = ElementTree.SubElement(suites, "testsuite", name=headline(outcome))
    facts = {"baseline": comparison.baseline.name, "current": comparison.variant.name, "machine_id": run.machine_id,
             "seeds": " ".join(str(launch.result.run.seed) for launch in current),
             "run_ids": " ".join(launch.result.run.run_id for launch in current),
             "allowed": "; ".join(comparison.allowed)}
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in facts.items():
        ElementTree.SubElement(properties, "property", name=name, value=value)
    for name, sentence in outcome.faults:
        case = ElementTree.SubElement(suite, "testcase", name=name, classname=run.benchmark, time="0")
        ElementTree.SubElement(case, "error", type="unusable", message=sentence)
    for name, cell in outcome.cells:
        said, place = " ".join(figures(cell)[3:5]), f"{run.benchmark}.{cell.case.mode}"
        case = ElementTree.SubElement(suite, "testcase", name=name, classname=place, time="0")
        if (name, cell) in outcome.slower:
            ElementTree.SubElement(case, "failure", type="regression", message=said)
        elif (name, cell) in outcome.hidden and outcome.passes_hidden:
            ElementTree.SubElement(case, "skipped", message=f"inconclusive: {said}")
        elif (name, cell) in outcome.hidden:
            ElementTree.SubElement(case, "failure", type="inconclusive", message=said)
    for count, tag in (("tests", "testcase"), ("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(count, str(sum(1 for _ in suite.iter(tag))))
    ElementTree.indent(suites)
    return _xml(suites)


def _xml(suites: ElementTree.Element) -> str:
    """Without the control characters that XML has no way to hold."""
    text = ElementTree.tostring(suites, encoding="unicode", xml_declaration=True)
    return re.sub(r"[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "?", text) + "\n"


def refusal(kind: str, sentence: str) -> str:
    """Of each kind, a file with nothing but the sentence that there was nothing to judge."""
    if kind == "markdown":
        return f"## {markdown_text(sentence)}\n"
    if kind == "html":
        return templates.render("gate.html", headline=sentence, findings=[], picture="", columns=COLUMNS, head=[],
                                rows=[])
    suites = ElementTree.Element("testsuites")
    suite = ElementTree.SubElement(suites, "testsuite", name=sentence, tests="1", errors="1", failures="0", skipped="0")
    case = ElementTree.SubElement(suite, "testcase", name="comparison", classname="regress", time="0")
    ElementTree.SubElement(case, "error", type="unusable", message=sentence)
    return _xml(suites)


def html(outcome: Outcome) -> str:
    """The outcome, the head with everything that was allowed to differ, the plot and the table."""
    comparison, drawn = outcome.comparison, io.StringIO()
    plot([comparison], drawn)
    # Within a page a picture has no prolog and no namespaces.
    picture = re.sub(r' xmlns(:\w+)?="[^"]*"', "", drawn.getvalue().partition("<svg")[2])
    return templates.render(
        "gate.html", headline=headline(outcome), findings=findings(outcome), picture=Markup(f"<svg{picture}"),
        columns=COLUMNS,
        head=[*head(comparison), *warnings(comparison), *closing(comparison)],
        rows=[(name, figures(cell)) for name, cells in grouped(comparison).items() for cell in cells])
