"""`show`: a stored run as its table, or as a picture. A benchmark that is not a sweep over sizes
has its text and its headline's figures in a file of its own, and a line in KINDS."""

import argparse
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import msgspec

from reports.tables import exposed, link_table, table, tune_table
from reports.tables.headline import headline
from reports.tables.plot import draw_sweep
from reports.tables.sentences import left_out_lines
from wiretax.common.program import answer, complain, on_ranks
from wiretax.record import packed
from wiretax.record.case import COMPUTE_BENCHMARKS
from wiretax.record.manifest import runs_by_time
from wiretax.record.result import FUTURE, ResultError, is_future, read
from wiretax.record.schema import Result

NEWEST = Path("results")  # where benchmarks put their runs


# The benchmarks that are no sweep over sizes, with the module that has `render`, their text, and
# `points`, the figures of their headline; `table` has those of a sweep.
KINDS = {"link": link_table, "tune": tune_table, **dict.fromkeys(COMPUTE_BENCHMARKS, exposed)}


def kind_of(result: Result) -> ModuleType:
    return table if result.run.imported_from else KINDS.get(result.run.benchmark, table)


def is_sweep(result: Result) -> bool:
    """Whether a run times sizes, and neither a link, layers nor routed calls."""
    return kind_of(result) is table and not any(case.routing for case in result.cases)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run",
        metavar="RUN",
        type=Path,
        nargs="?",
        default=NEWEST,
        help="a run file, or a folder or a survey's archive: the newest run in it (results)",
    )
    parser.add_argument(
        "--plot", metavar="OUT", type=Path, help="draw speed-up and busbw by size; .svg or .png"
    )
    parser.add_argument(
        "--long", action="store_true", help="one row for each algorithm, variant, mode and size"
    )


def show(arguments: argparse.Namespace) -> int:
    """Prints the run; the exit status, 0. Raises ResultError for a file that cannot be read or
    drawn, for a folder without runs, or for two forms at once."""
    if arguments.json and arguments.long:
        raise ResultError("--json and --long each print the run in another form: choose one")

    result = read_newest(arguments.run)
    if arguments.plot:
        if not is_sweep(result):
            raise ResultError(f"{result.path}: only a sweep over sizes has a picture")
        draw_sweep(result, arguments.plot)

    run, said = msgspec.to_builtins(result.run), text(result, arguments.long)
    if arguments.plot:
        said = f"{said.rstrip()}\nthe picture: {arguments.plot}"
    del run["cases"]  # the plan of the cases that follow
    answer(arguments, said, run=run, cases=result.cases, end=result.end)
    return 0


def read_newest(path: Path, fits: Callable[[Result], object] = bool) -> Result:
    """The run of a file, or below a folder or in an archive the newest that `fits`, or else the
    newest. Raises ResultError."""
    is_folder = path == NEWEST or packed.is_folder(path)
    files = runs_by_time(path) if is_folder else [path]
    if not files and (archives := packed.archives_in(path)):
        raise ResultError(f"{path} holds archives and no run: name one, such as {archives[0]}")
    if not files:
        raise ResultError(f"{path} holds no run yet: type {on_ranks(2, 'allreduce')}")

    if is_folder:
        files = without_future(files)
    return next(filter(fits, map(read, reversed(files))), None) or read(files[-1])


def without_future(files: list[Path]) -> list[Path]:
    """The runs or records whose names date them until now, and complains of the others; all of them
    if there are no such."""
    present = [file for file in files if not is_future(file.name)]
    complain(*left_out_lines((file, FUTURE) for file in files if is_future(file.name)))
    return present or files


def headline_of(*results: Result) -> str:
    """The headline of a run, or of several launches of one command."""
    return headline(results, lambda result: kind_of(result).points(result))


def text(result: Result, long: bool = False, brief: bool = False) -> str:
    """The run as tables and sentences."""
    kind = table if long else kind_of(result)
    return table.render(result, long, brief) if kind is table else kind.render(result)
