"""Runs imported from logs of other benchmarks: a `run` line, its cases and an `end`, with null for
fields that a log lacks. Their measurement follows other rules: they are shown, never judged, and
`result.read` refuses them."""

import contextlib
from pathlib import Path
from typing import NamedTuple, TypedDict

import msgspec

from reports.store.result import ResultError, content_of, is_imported, of_kind, read, read_lines
from reports.store.schema import SCHEMA, Count, End, NotNegative, Positive, Result
from reports.store.writing import to_line, write_errors, write_whole


class ImportedRank(TypedDict):
    rank: int
    gpu: str


class LoggedWorld(TypedDict):
    size: Positive | None  # None if it is uncertain
    ranks: list[ImportedRank]  # those whose GPU the log names


class ImportedWorld(LoggedWorld, total=False):
    hosts: Positive | None  # their number; None if the log does not name them


class ImportedFrom(msgspec.Struct, kw_only=True):
    """The log: its file's name, its writer (`nccl-tests`, `OSU 7.1`, ...) and the test's lines."""

    file: str
    format: str
    first_line: int
    last_line: int


class ImportedRun(msgspec.Struct, kw_only=True, tag="run", tag_field="kind"):
    """The head. `footer_avg_bus_bw` (GB/s) and `out_of_bounds` (`0 OK`, `2 FAILED`) are as printed.
    `statistic` describes `time_us.mean`: runs that differ in it are not comparable."""

    schema: int = SCHEMA
    run_id: str
    benchmark: str
    imported_from: ImportedFrom
    statistic: str
    world: ImportedWorld
    footer_avg_bus_bw: float | None = None
    out_of_bounds: str | None = None


class ImportedSummary(msgspec.Struct, kw_only=True):
    """Microseconds. Logs print means over `n` iterations, so `median` is None."""

    median: NotNegative | None = None
    mean: NotNegative | None = None
    n: int | None = None


class ImportedCase(msgspec.Struct, kw_only=True, tag="case", tag_field="kind"):
    """One printed half of a row, as docs/import.md describes. Bandwidths are in GB/s, `line` is the
    line of the log. `over_ranks_us` is the mean time of the fastest rank (`min`), of all ranks
    (`avg`) and of the slowest rank (`max`). Older programs print `max_error` for `n_wrong`."""

    case: int
    collective: str | None
    size_bytes: Count | None
    count: Count | None = None
    datatype: str | None = None
    redop: str | None = None
    root: int | None = None
    in_place: bool = False
    status: str = "ok"
    reason: str | None = None
    library: str | None = None
    time_us: ImportedSummary | None = None
    over_ranks_us: dict[str, NotNegative | None] | None = None
    alg_bw_gb_s: float | None = None
    bus_bw_gb_s: float | None = None
    reported_alg_bw_gb_s: float | None = None
    reported_bus_bw_gb_s: float | None = None
    n_wrong: Count | None = None
    max_error: float | None = None
    suspect: bool = False
    line: int | None = None


class Imported(NamedTuple):
    """An imported run; the status of `end` is `complete`, `incomplete` or `failed`."""

    path: Path
    run: ImportedRun
    cases: list[ImportedCase]
    end: End


def read_imported(path: Path) -> Imported:
    """The imported run at `path`. Raises ResultError for anything else, also for measured runs."""
    records = read_lines(path, "run imported from a log", (ImportedRun, ImportedCase, End), SCHEMA)
    ends = of_kind(End, records)

    if not ends:
        raise ResultError(f"{path} was cut off: import its log again")

    [run], cases = of_kind(ImportedRun, records), of_kind(ImportedCase, records)
    return Imported(path, run, cases, ends[-1])


def read_any(path: Path) -> Result | Imported:
    """The measured or imported run at `path`. Raises ResultError."""
    return read_imported(path) if is_imported(path) else read(path)


def write_imported(
    folder: Path, run: ImportedRun, cases: list[ImportedCase], end: End
) -> tuple[Path, str]:
    """Writes the run to `folder`, which it creates, and returns the path and `new`, `is there
    already` or `written anew`. Raises ResultError if the file cannot be written."""
    path, content = folder / f"{run.run_id}.jsonl", b"".join(map(to_line, (run, *cases, end)))
    with contextlib.suppress(ResultError):
        if content_of(path) == content:
            return path, "is there already"

    state = "written anew" if path.exists() else "new"
    with write_errors(path):
        folder.mkdir(parents=True, exist_ok=True)

    write_whole(path, content)
    return path, state
