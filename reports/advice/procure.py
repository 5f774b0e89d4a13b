"""`procure`: candidate machines side by side, as text, as a page to print and as a table for a spreadsheet, and whether
they are what was required."""

from __future__ import annotations

import argparse
import csv
import io
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import jinja2
from rich.table import Table

from reports.advice.procurement import Procurement, evaluate
from reports.store.foreign import printable, spreadsheet_cell
from reports.store.result import write_named
from reports.tables.console import plain_console, printed
from reports.verdicts.verdict_table import WIDTH, wrapped

MOST_COLUMNS = 4  # candidates that fit beside each other


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `procure` takes."""
    parser.add_argument("spec", metavar="SPEC.toml", type=Path, help="the candidates, what they cost, and what is "
                        "required; docs/buy.md has one")
    parser.add_argument("runs", metavar="RUN", nargs="*", help="NAME=RUN: a run, folder or quoted glob more of that "
                        "candidate; RUN alone where there is one candidate")
    parser.add_argument("--candidate", metavar="NAME", help="show and judge this one alone")
    parser.add_argument("--html", metavar="FILE", type=Path, help="also write one page, to read or to print")
    parser.add_argument("--csv", metavar="FILE", type=Path, help="also write a row for each candidate")
    parser.epilog = (f"{parser.epilog}; exit status: 0 every requirement passes, 1 one fails, 2 the command line, the "
                     "spec or a run, 3 not enough data to tell")


def procure(arguments: argparse.Namespace) -> int:
    """Prints the table; the exit status. Raises ResultError for a spec or a run that cannot be used, and a file that
    cannot be written."""
    found = evaluate(arguments.spec, arguments.runs, arguments.candidate)
    for path, content in ((arguments.html, partial(as_html, command=_command(arguments))), (arguments.csv, as_csv)):
        if path:
            write_named(path, content(found).encode())
    sys.stdout.write(as_text(found))
    return found.status


def _command(arguments: argparse.Namespace) -> str:
    """The command line, its paths without their folders."""
    words = [arguments.spec.name]
    words += ["".join([*run.rpartition("=")[:2], Path(run.rpartition("=")[2]).name]) for run in arguments.runs]
    words += ["--candidate", arguments.candidate] if arguments.candidate else []
    words += [word for name in ("html", "csv") if (path := getattr(arguments, name))
              for word in (f"--{name}", path.name)]
    return printable(f"python -m reports procure {shlex.join(words)}")


def as_text(found: Procurement) -> str:
    """At most 80 columns, four candidates beside each other; ends with a newline."""
    console = plain_console(WIDTH)
    for first in range(0, len(found.machines), MOST_COLUMNS):
        machines = found.machines[first : first + MOST_COLUMNS]
        table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
        table.add_column("", overflow="fold", max_width=20)
        for machine in machines:
            table.add_column(machine.name, justify="right", overflow="fold", max_width=14)
        table.add_row("launches", *(machine.runs_text for machine in machines))
        for judged in zip(*(machine.judged for machine in machines), strict=True):
            table.add_row(judged[0].requirement, *(one.verdict for one in judged))
        for figures in zip(*(machine.figures for machine in machines), strict=True):
            table.add_row(figures[0].label, *("\n".join(filter(None, [one.text, one.interval, one.note]))
                                              for one in figures))
        console.print(table)
    reasons = [f"{machine.name}, {one.requirement}: {one.verdict}, {one.reason}"
               for machine in found.machines for one in machine.judged]
    return f"{found.headline}\n\n{printed(console)}\n" + "\n".join(wrapped([*reasons, *found.sentences])) + "\n"


def as_html(found: Procurement, command: str) -> str:
    """A page that needs nothing else."""
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True)
    return environment.get_template("procure.html").render(found=found, command=command)


def as_csv(found: Procurement) -> str:
    """A row for each candidate, units in the names of columns; no cell is a formula."""
    first = found.machines[0]
    names = ["candidate", "launches", "imported logs", "currency"]
    for figure in first.figures:
        unit = "in currency" if figure.is_money else figure.unit
        names += [f"{figure.name} {part}{unit}" for part in ("", "low ", "high ")] + [f"{figure.name} from"]
    names += [name for judged in first.judged for name in (judged.requirement, f"{judged.requirement} why")]
    rows: list[Sequence[object]] = [names]
    for machine in found.machines:
        row = [machine.name, machine.launches, machine.imports, machine.currency]
        row += [cell for one in machine.figures for cell in (one.value, one.low, one.high, one.note)]
        rows.append([*row, *(cell for one in machine.judged for cell in (one.verdict, one.reason))])
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([spreadsheet_cell(cell) for cell in row] for row in rows)
    return file.getvalue()
