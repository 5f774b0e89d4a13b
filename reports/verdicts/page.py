"""The gate's files: JUnit XML, GitHub's Markdown, and an HTML page without external resources."""

import io
import re
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from markupsafe import Markup

from reports.store.foreign import markdown_text
from reports.tables import templates
from reports.verdicts import verdict_table as table
from reports.verdicts.cells import Comparison
from reports.verdicts.forest import plot
from reports.verdicts.gate import Outcome, worst_first

MOST_ROWS_BYTES = 50_000  # GitHub refuses a comment above 65,536 characters
NOT_XML = re.compile(r"[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


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
        cells = [(cell.title, f"{benchmark}.{cell.mode}", cell.outcome,
                  " ".join(table.figures(cell)[3:5])) for cell in worst_first(comparison.cells)]
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
    """The outcome, the table's sentences, the plot and the table."""
    drawing = io.StringIO()
    if outcome.comparison:
        plot([outcome.comparison], drawing)
    # Inline SVG needs no prolog and no namespaces.
    _, start, svg = drawing.getvalue().partition("<svg")
    picture = Markup(start + re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg))
    return templates.render("gate.html", outcome=outcome, table=table, picture=picture)
