"""Runs that were imported from other benchmarks' logs: their records, how they are written, read and shown.

Such a run is a file of the store like any other (a `run` line, its cases, an `end`), but what its log does not say is
null, and nothing in it was measured by the rules of ours. So its records are types of their own: imports are shown,
never judged. `result.read` refuses them, and with it everything that compares.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from rich.table import Table
from rich.text import Text

from reports.console import plain_console, printed
from reports.result import ResultError, is_imported, read_lines
from reports.schema import SCHEMA, End, NotNegative, Record
from reports.sentences import number, size_text

__all__ = ["Imported", "ImportedCase", "ImportedFrom", "ImportedRun", "ImportedSummary", "OverRanks", "is_imported",
           "plain", "read_imported", "render", "write_imported"]

WIDTH = 80


class ImportedFrom(msgspec.Struct, kw_only=True):
    """The log: its file's name, what wrote it (`nccl-tests`, `OSU 7.1`, ...), and the lines that are this test."""

    file: str
    format: str
    first_line: int
    last_line: int


class ImportedRun(Record, kw_only=True, tag="run", tag_field="kind"):
    """The head. `world` is {"size": int or None, "ranks": [{"rank", "gpu"}]}, ranks only where the log lists them.
    `footer_avg_bus_bw` (GB/s) and `out_of_bounds` (`0 OK`, `2 FAILED`) are as printed. `statistic` says what
    `time_us.mean` is a mean of: runs that differ in it are not comparable."""

    schema: int = SCHEMA
    run_id: str
    benchmark: str
    imported_from: ImportedFrom
    statistic: str
    world: dict[str, Any]
    footer_avg_bus_bw: float | None = None
    out_of_bounds: str | None = None
    version: str | None = None
    argv: list[str] | None = None
    seed: int | None = None
    machine_id: str | None = None
    software_id: str | None = None
    environment: dict[str, Any] | None = None


class ImportedSummary(msgspec.Struct, kw_only=True):
    """A time in microseconds. Logs print means over iterations, so `median` is None; `n` are iterations."""

    median: NotNegative | None = None
    mean: NotNegative | None = None
    min: NotNegative | None = None
    max: NotNegative | None = None
    p99: NotNegative | None = None
    n: int | None = None


class OverRanks(msgspec.Struct, kw_only=True):
    """A mean time in microseconds of the fastest rank, of all in the mean, and of the slowest."""

    min: NotNegative | None = None
    avg: NotNegative | None = None
    max: NotNegative | None = None


class ImportedCase(Record, kw_only=True, tag="case", tag_field="kind"):
    """One printed half of a row, with the fields of a measured `Case` as far as the log says them; bandwidths in GB/s,
    as printed.

    `size_bytes` is as printed (OSU and IMB print the size per rank); it is no key: it may repeat. A `status` of `wrong`
    has no bandwidth, only what was printed, in `reported_*`; so has a printed algbw that is not size over time.
    `n_wrong` counts elements, None where unchecked; `max_error` is the largest deviation that older programs print
    instead. `suspect`: one rank alone, or a busbw that no machine has; never to be ranked. `line` is that of the log.
    """

    case: int
    collective: str | None
    size_bytes: int | None
    count: int | None = None
    datatype: str | None = None
    redop: str | None = None
    root: int | None = None
    in_place: bool = False
    status: str = "ok"
    reason: str | None = None
    algorithm: str = "library"
    library: str | None = None
    variant: str | None = None
    memory: str | None = None
    mode: str | None = None
    shape: Any = None
    time_us: ImportedSummary | None = None
    over_ranks_us: OverRanks | None = None
    alg_bw_gb_s: float | None = None
    bus_bw_gb_s: float | None = None
    reported_alg_bw_gb_s: float | None = None
    reported_bus_bw_gb_s: float | None = None
    n_wrong: int | None = None
    max_error: float | None = None
    suspect: bool = False
    line: int | None = None


@dataclass
class Imported:
    """An imported run as it is read back; the status of `end` is `complete`, `incomplete` or `failed`."""

    path: Path
    run: ImportedRun
    cases: list[ImportedCase]
    end: End


KINDS: dict[str, type[Record]] = {"run": ImportedRun, "case": ImportedCase, "end": End}


def read_imported(path: Path | str) -> Imported:
    """The imported run at `path`. Raises ResultError, in one sentence, for everything else, measured runs included."""
    path = Path(path)
    run, cases, end = None, [], None
    for _, record in read_lines(path, "run imported from a log", KINDS, SCHEMA):
        if isinstance(record, ImportedRun):
            run = record
        elif isinstance(record, ImportedCase):
            cases.append(record)
        elif isinstance(record, End):
            end = record
    if run is None or end is None:
        raise ResultError(f"{path} was cut off: import its log again")
    return Imported(path, run, cases, end)


def write_imported(folder: Path, run: ImportedRun, cases: Sequence[ImportedCase], end: End) -> tuple[Path, bool]:
    """The file of the run in `folder` (made where missing), and whether it is new: one that is there already, of the
    same log, stays as it is. Whole or not at all. Raises ResultError where it cannot be written."""
    path = folder / f"{run.run_id}.jsonl"
    if path.exists():
        return path, False
    unfinished = path.with_name(f"{path.name}.part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as file:
            file.write(b"".join(map(_line, (run, *cases, end))))
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        raise ResultError(f"{path} cannot be written: {error.strerror}") from error
    return path, True


def _line(record: Record) -> bytes:
    fields = msgspec.to_builtins(record)  # twenty thousand cases are written faster so than by schema.to_line
    del fields["extra"]
    return msgspec.json.encode(fields) + b"\n"


def plain(text: str, longest: int = 80) -> str:
    """The text without what a terminal would obey: control, formatting and private characters."""
    return "".join(letter for letter in text[:longest] if letter.isprintable())


def render(imported: Imported) -> str:
    """The run as a table of at most 80 columns with its head; ends with a newline."""
    run, console = imported.run, plain_console(WIDTH)
    origin = run.imported_from
    size = run.world.get("size")
    gpus = dict.fromkeys(str(rank.get("gpu")) for rank in run.world.get("ranks", []) if rank.get("gpu"))
    on = f" on {' and '.join(gpus)}" if gpus else ""
    lines = [f"{run.benchmark}: {'an unknown number of' if size is None else size} {'rank' if size == 1 else 'ranks'}"
             + on,
             f"imported from {origin.file}, lines {origin.first_line} to {origin.last_line}, by {origin.format}: "
             "shown, never judged",
             f"{imported.end.status}" + (f": {imported.end.reason}" if imported.end.reason else ""),
             f"us = {run.statistic}"]
    for line in lines:
        console.print(Text(plain(line, 400)))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    checked = any(case.n_wrong is not None for case in imported.cases)
    for name in ("size", "collective", "type", "redop", "place", "us", "algbw\nGB/s", "busbw\nGB/s",
                 "#wrong" if checked else "max\nerror"):
        table.add_column(name, no_wrap=True, overflow="ellipsis", vertical="bottom",
                         justify="left" if name in ("collective", "type", "redop", "place") else "right")
    for case in imported.cases:
        table.add_row(*(Text(plain(cell)) for cell in _cells(case, checked)))
    console.print()
    console.print(table)
    marks = [("! suspect: one rank alone, or a busbw that no machine has", any(c.suspect for c in imported.cases)),
             ("WRONG: its bandwidth counts for nothing", any(c.status == "wrong" for c in imported.cases)),
             (f"as printed: average busbw {run.footer_avg_bus_bw} GB/s", run.footer_avg_bus_bw is not None),
             (f"as printed: out of bounds values {run.out_of_bounds}", run.out_of_bounds is not None)]
    for line in [text for text, holds in marks if holds]:
        console.print(Text(plain(line)))
    return printed(console)


def _cells(case: ImportedCase, checked: bool) -> list[str]:
    wrong = case.status == "wrong"
    errors = case.n_wrong if checked else case.max_error
    return ["-" if case.size_bytes is None else size_text(case.size_bytes), case.collective or "-",
            case.datatype or "-", case.redop or "-", "in" if case.in_place else "out",
            number(case.time_us.mean if case.time_us else None), number(case.alg_bw_gb_s),
            "WRONG" if wrong else number(case.bus_bw_gb_s) + "!" * case.suspect,
            "-" if errors is None else f"{errors:g}"]
