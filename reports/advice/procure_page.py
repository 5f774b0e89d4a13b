"""The page of candidates side by side, for `procure --html` and for the dashboard."""

from collections.abc import Sequence

from reports.advice.candidates import Machine
from reports.tables.page import Page, Row, Section


def procure_page(headline: str, machines: Sequence[Machine], sentences: Sequence[str],
                 command: str) -> Page:
    """The requirements and the figures of `machines`; `command` made the page."""
    names = [machine.name for machine in machines]
    requirements: list[Row] = [
        {"requirement": row[0].requirement,
         **{name: f"{each.verdict}\n{each.reason}" for name, each in zip(names, row, strict=True)}}
        for row in zip(*(machine.judgements for machine in machines), strict=True)]
    figures: list[Row] = [
        {"figure": "launches", **{machine.name: machine.runs_text for machine in machines}}]
    for row in zip(*(machine.figures for machine in machines), strict=True):
        cells = ("\n".join(filter(None, [each.text, each.interval, each.note])) for each in row)
        figures.append({"figure": row[0].label, **dict(zip(names, cells, strict=True))})
    runs = [f"{machine.name}: {run_id}" for machine in machines for run_id in machine.run_ids]
    return Page(f"Procurement: {headline}", sections=[
        Section("Requirements", table="requirements", rows=requirements),
        Section("Figures, with their intervals over launches", table="figures", rows=figures),
        Section("How to read this", sentences)],
        reproduce={"command, without folders": command, "run ids": "\n".join(runs)})
