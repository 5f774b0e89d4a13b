"""`procure`: candidate machines side by side as text, as a page and as a spreadsheet."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from rich.table import Table

from reports.advice.procure_runs import Figure, Machine
from reports.advice.procurement import Procurement, evaluate
from reports.store.foreign import printable, spreadsheet_cell
from reports.store.writing import write_named
from reports.tables.console import lay_out
from reports.tables.page import Page, Row, Section, to_html

MOST_COLUMNS = 4  # candidates in one table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("spec", metavar="SPEC.toml", type=Path,
                        help="candidates, prices and requirements; docs/buy.md has an example")
    parser.add_argument("runs", metavar="RUN", nargs="*",
                        help="NAME=RUN: another run, folder or quoted glob of that candidate; RUN "
                        "alone if there is one candidate")
    parser.add_argument("--candidate", metavar="NAME", help="show and judge only this one")
    parser.add_argument("--html", metavar="FILE", type=Path, help="also write a page")
    parser.add_argument("--csv", metavar="FILE", type=Path,
                        help="also write a row for each candidate")
    parser.epilog = (f"{parser.epilog}; exit status: 0 every requirement passes, 1 one fails, 2 "
                     "the command line, the spec or a run is unusable, 3 one is undecided")


def procure(arguments: argparse.Namespace) -> int:
    """Prints the table and returns the exit status. Raises ResultError for an unusable spec or run,
    and for a file that cannot be written."""
    procurement = evaluate(arguments.spec, arguments.runs, arguments.candidate)
    if arguments.html:
        write_named(arguments.html, to_html(as_page(procurement, _command(arguments))).encode())
    if arguments.csv:
        write_named(arguments.csv, as_csv(procurement).encode())
    sys.stdout.write(as_text(procurement))
    return 1 if procurement.verdicts["FAIL"] else 3 if procurement.verdicts["UNDECIDED"] else 0


def _command(arguments: argparse.Namespace) -> str:
    """The command line without folders, which the page may not disclose."""
    words = ["python", "-m", "reports", "procure", arguments.spec.name]
    for run in arguments.runs:
        name, equals, path = run.rpartition("=")
        words.append(f"{name}{equals}{Path(path).name}")
    for option in ("candidate", "html", "csv"):
        value = getattr(arguments, option)
        words += [f"--{option}", getattr(value, "name", value)] if value else []
    return printable(shlex.join(words))


def as_text(procurement: Procurement) -> str:
    """At most 80 columns, four candidates in a table."""
    machines = procurement.machines
    tables = [("", _table(machines[first : first + MOST_COLUMNS]))
              for first in range(0, len(machines), MOST_COLUMNS)]
    reasons = [f"{machine.name}, {judgement.requirement}: {judgement.verdict}, {judgement.reason}"
               for machine in machines for judgement in machine.judgements]
    return lay_out(None, [procurement.headline], tables, [*reasons, *procurement.sentences])


def _table(machines: list[Machine]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("", overflow="fold", max_width=20)
    for machine in machines:
        table.add_column(machine.name, justify="right", overflow="fold", max_width=14)
    table.add_row("launches", *(machine.runs_text for machine in machines))
    for judgements in zip(*(machine.judgements for machine in machines), strict=True):
        table.add_row(judgements[0].requirement, *(judgement.verdict for judgement in judgements))
    for figures in zip(*(machine.figures for machine in machines), strict=True):
        table.add_row(figures[0].label, *map(_cell, figures))
    return table


def _cell(figure: Figure) -> str:
    return "\n".join(filter(None, [figure.text, figure.interval, figure.note]))


def as_page(procurement: Procurement, command: str) -> Page:
    """The candidates side by side; `command` made the page."""
    machines = procurement.machines
    names = [machine.name for machine in machines]
    requirements: list[Row] = [
        {"requirement": row[0].requirement,
         **{name: f"{each.verdict}\n{each.reason}" for name, each in zip(names, row, strict=True)}}
        for row in zip(*(machine.judgements for machine in machines), strict=True)]
    figures: list[Row] = [
        {"figure": "launches", **{machine.name: machine.runs_text for machine in machines}}]
    for row in zip(*(machine.figures for machine in machines), strict=True):
        figures.append({"figure": row[0].label, **dict(zip(names, map(_cell, row), strict=True))})
    runs = [f"{machine.name}: {run_id}" for machine in machines for run_id in machine.run_ids]
    return Page(f"Procurement: {procurement.headline}", [f"From {procurement.title}."], [
        Section("Requirements", table="requirements", rows=requirements),
        Section("Figures, with their intervals over launches", table="figures", rows=figures),
        Section("How to read this", procurement.sentences)],
        {"command, without folders": command, "run ids": "\n".join(runs)})


def as_csv(procurement: Procurement) -> str:
    """A row for each candidate with units in the names of columns; no cell is a formula."""
    import pandas as pd

    rows: list[dict[str, object]] = []
    for machine in procurement.machines:
        row = {"candidate": machine.name, "launches": len(machine.launches),
               "imported logs": len(machine.logs), "currency": machine.currency}
        for figure in machine.figures:
            name, unit = figure.name, "in currency" if figure.is_money else figure.unit
            row |= {f"{name} {unit}": figure.value, f"{name} low {unit}": figure.low,
                    f"{name} high {unit}": figure.high, f"{name} from": figure.note}
        for judgement in machine.judgements:
            row |= {judgement.requirement: judgement.verdict,
                    f"{judgement.requirement} why": judgement.reason}
        rows.append(row)
    frame = pd.DataFrame(rows).map(spreadsheet_cell).rename(columns=spreadsheet_cell)
    return frame.to_csv(index=False, lineterminator="\n")
