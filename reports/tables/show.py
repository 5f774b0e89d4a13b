"""`show`: a stored run as the table that it printed, in another program's format, or as a
picture."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from reports.imports.imported import read_imported
from reports.store.case import FUSED_BENCHMARKS
from reports.store.result import ImportedRunError, is_imported, read
from reports.store.schema import Result
from reports.tables import exposed_table, imported_table, link, steps, tune
from reports.tables.formats import as_csv, as_nccl_tests
from reports.tables.table import render

RENDER: dict[str, Callable[[Result], str]] = {
    "tune": tune.render, link.BENCHMARK: link.render,
    **dict.fromkeys(FUSED_BENCHMARKS, exposed_table.render),
    **dict.fromkeys(steps.BENCHMARKS, steps.render)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `show`."""
    parser.add_argument("run", metavar="RUN", type=Path,
                        help="a run file, such as results/2026-...-1a2b3c.jsonl")
    parser.add_argument("--plot", metavar="OUT", type=Path,
                        help="draw time and busbw against size; .svg or .png")
    parser.add_argument("--long", action="store_true",
                        help="one row for each algorithm, variant, mode and size")
    parser.add_argument("--format", choices=["table", "nccl-tests", "csv"], default="table")


def show(arguments: argparse.Namespace) -> int:
    """Prints the run; the exit status, 0. Raises ResultError for a file that cannot be read or
    drawn."""
    if is_imported(arguments.run):
        if arguments.plot or arguments.format != "table":
            raise ImportedRunError(
                f"{arguments.run} was imported from a log: it is shown as a table alone")
        sys.stdout.write(imported_table.render(read_imported(arguments.run)))
        return 0
    result = read(arguments.run)
    if arguments.plot:
        from reports.tables.plot import plot

        plot(result, arguments.plot)
    sys.stdout.write(text(result, arguments.format, arguments.long))
    return 0


def text(result: Result, format: str = "table", long: bool = False) -> str:
    """The run in `format`: `table`, `nccl-tests` or `csv`; `long` is for the table only."""
    if format == "csv":
        return as_csv(result)
    if format == "nccl-tests":
        return as_nccl_tests(result)
    return render(result, long) if long else RENDER.get(result.run.benchmark, render)(result)
