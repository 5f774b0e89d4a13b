"""`show`: a stored run as its table, in another program's format, or as a picture."""

import argparse
import sys
from pathlib import Path

import msgspec

from reports.imports.imported import Imported, ImportedCase, read_imported
from reports.store.manifest import runs_by_time
from reports.store.report_json import write_json
from reports.store.result import ImportedRunError, ResultError, is_imported, read
from reports.store.schema import Result
from reports.tables.formats import as_csv, as_nccl_tests
from reports.tables.frame import case_rows
from reports.tables.headline import headline
from reports.tables.kinds import SWEEP, is_sweep, kind_of
from reports.tables.plot import draw_sweep
from reports.tables.sentences import counted, lay_out, number, plain_table, size_text
from reports.tables.table import render

NEWEST = Path("results")  # where benchmarks put their runs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run",
        metavar="RUN",
        type=Path,
        nargs="?",
        default=NEWEST,
        help="a run file, or a folder: the newest run below it (results)",
    )
    parser.add_argument(
        "--plot", metavar="OUT", type=Path, help="draw speed-up and busbw by size; .svg or .png"
    )
    parser.add_argument(
        "--long", action="store_true", help="one row for each algorithm, variant, mode and size"
    )
    parser.add_argument("--format", choices=["table", "nccl-tests", "csv"], default="table")


def show(arguments: argparse.Namespace) -> int:
    """Prints the run; the exit status, 0. Raises ResultError for a file that cannot be read or
    drawn, for a folder without runs, or for two forms at once."""
    if arguments.json + arguments.long + (arguments.format != "table") > 1:
        raise ResultError(
            "--json, --long and --format each print the run in another form: choose one"
        )

    if arguments.run.is_dir() or arguments.run == NEWEST:
        if not (files := runs_by_time(arguments.run)):
            command = "mpirun -n 2 python -m bench.allreduce"
            raise ResultError(f"{arguments.run} holds no run yet: type {command}")
        arguments.run = files[-1]

    if is_imported(arguments.run):
        if arguments.plot or arguments.format != "table":
            raise ImportedRunError(
                f"{arguments.run} was imported from a log: it is shown as a table alone"
            )
        imported = read_imported(arguments.run)
        if arguments.json:
            write_json("show", run=imported.run, cases=imported.cases, end=imported.end)
        else:
            sys.stdout.write(imported_text(imported))
        return 0

    result = read(arguments.run)
    if arguments.plot:
        plot(result, arguments.plot)

    if arguments.json:
        run = msgspec.to_builtins(result.run)
        del run["cases"]  # the plan of the cases that follow
        write_json("show", run=run, cases=result.cases, end=result.end)
    elif arguments.format == "csv":
        sys.stdout.write(as_csv(case_rows(result)))
    elif arguments.format == "nccl-tests":
        sys.stdout.write(as_nccl_tests(result))
    else:
        sys.stdout.write(text(result, arguments.long))

    return 0


def headline_of(*results: Result) -> str:
    """The headline of a run, or of several launches of one command."""
    return headline(results, (kind_of(results[0]) if results else SWEEP).points)


def text(result: Result, long: bool = False, brief: bool = False) -> str:
    """The run as tables and sentences."""
    own = None if long else kind_of(result).text
    return own(result) if own else render(result, long, brief)


def plot(result: Result, path: Path) -> None:
    """Draws a sweep over sizes into `path`. Raises ResultError for another suffix than .svg and
    .png, another run, one without a measured case, or a file that cannot be written."""
    if not is_sweep(result):
        raise ResultError(f"{result.path}: only a sweep over sizes has a picture")

    draw_sweep(result, path)


def imported_text(imported: Imported) -> str:
    """An imported run as a table of at most 80 columns with its origin and its status."""
    run, end, origin = imported.run, imported.end, imported.run.imported_from
    gpus = " and ".join(dict.fromkeys(rank["gpu"] for rank in run.world["ranks"]))
    hosts = run.world.get("hosts") or 0
    head = [
        f"{run.benchmark}: {run.world['size'] or 'an unknown number of'} ranks"
        + f" on {counted(hosts, 'host')}" * bool(hosts)
        + f", {gpus}" * bool(gpus),
        f"imported from {origin.file}, lines {origin.first_line} to {origin.last_line}, by "
        f"{origin.format}: shown, never judged",
        f"{end.status}: {end.reason}" if end.reason else end.status,
        f"us = {run.statistic}",
    ]
    is_checked = any(case.n_wrong is not None for case in imported.cases)
    cells = [_imported_cells(case, is_checked) for case in imported.cases]
    is_suspect = any(case.suspect for case in imported.cases)
    average, wrong = run.footer_avg_bus_bw, run.out_of_bounds
    marks = [
        *["! suspect: one rank alone, or a busbw that no machine has"] * is_suspect,
        *[f"as printed: average busbw {average}{'!' * is_suspect} GB/s"] * (average is not None),
        *[f"as printed: out of bounds values {wrong}"] * (wrong is not None),
    ]
    table = plain_table(cells[0] if cells else (), [row.values() for row in cells])
    return lay_out([], head, [("", table)], marks)


def _imported_cells(case: ImportedCase, is_checked: bool) -> dict[str, str]:
    mark, errors = "!" * case.suspect, case.n_wrong if is_checked else case.max_error
    return {
        "size": "-" if case.size_bytes is None else size_text(case.size_bytes),
        "collective": case.collective or "-",
        "type": case.datatype or "-",
        "redop": case.redop or "-",
        "place": "in" if case.in_place else "out",
        "us": number(case.time_us.mean if case.time_us else None) + mark,
        "algbw\nGB/s": number(case.alg_bw_gb_s) + mark,
        "busbw\nGB/s": "WRONG" if case.status == "wrong" else number(case.bus_bw_gb_s) + mark,
        "#wrong" if is_checked else "max\nerror": "-" if errors is None else f"{errors:g}",
    }
