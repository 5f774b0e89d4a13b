"""Runs that were imported from other benchmarks' logs: their records, how they are written and read.

Such a run is a file of the store like any other (a `run` line, its cases, an `end`), but what its log does not say is
null, and nothing in it was measured by the rules of ours. So its records are types of their own: imports are shown,
never judged. `result.read` refuses them, and with it everything that compares.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import msgspec

from reports.store.checks import NotNegative
from reports.store.records import Record
from reports.store.result import ResultError, content_of, read_lines
from reports.store.schema import SCHEMA, End
from reports.store.writing import write_whole


class ImportedRank(TypedDict):
    """A rank of which the log names the GPU."""

    rank: int
    gpu: str


class ImportedWorld(TypedDict):
    """How many ranks there were, None where the log does not say it for certain, and those that it lists."""

    size: int | None
    ranks: list[ImportedRank]


class ImportedFrom(msgspec.Struct, kw_only=True):
    """The log: its file's name, what wrote it (`nccl-tests`, `OSU 7.1`, ...), and the lines that are this test."""

    file: str
    format: str
    first_line: int
    last_line: int


class ImportedRun(Record, kw_only=True, tag="run", tag_field="kind"):
    """The head. `footer_avg_bus_bw` (GB/s) and `out_of_bounds` (`0 OK`, `2 FAILED`) are as printed. `statistic` says
    what `time_us.mean` is a mean of: runs that differ in it are not comparable."""

    schema: int = SCHEMA
    run_id: str
    benchmark: str
    imported_from: ImportedFrom
    statistic: str
    world: ImportedWorld
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


NAME = re.compile(rb'\A([^\n]{0,1000}"imported_from":\{"file":)"(?:[^"\\\x00-\x1f]|\\["\\])*"')
KINDS: dict[str, type[Record]] = {"run": ImportedRun, "case": ImportedCase, "end": End}


def read_imported(path: Path | str) -> Imported:
    """The imported run at `path`. Raises ResultError, in one sentence, for everything else, measured runs included."""
    path = Path(path)
    run, *records = (record for _, record in read_lines(path, "run imported from a log", KINDS, SCHEMA))
    ends = [record for record in records if isinstance(record, End)]
    if not ends:
        raise ResultError(f"{path} was cut off: import its log again")
    assert isinstance(run, ImportedRun)
    return Imported(path, run, [record for record in records if isinstance(record, ImportedCase)], ends[-1])


def write_imported(folder: Path, run: ImportedRun, cases: Sequence[ImportedCase], end: End) -> tuple[Path, str]:
    """The file of the run in `folder` (made where missing), and `new`, `is there already` or `written anew`: one that
    is there stays only where it differs from what would be written at most in the name that the log had. Whole or not
    at all. Raises ResultError where it cannot be written."""
    path, content = folder / f"{run.run_id}.jsonl", b"".join(map(_line, (run, *cases, end)))
    is_there = path.exists()
    if is_there and _without_name(_content(path)) == _without_name(content):
        return path, "is there already"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResultError(f"{path} cannot be written: {error.strerror}") from error
    write_whole(path, content)
    return path, "written anew" if is_there else "new"


def _content(path: Path) -> bytes:
    try:
        return content_of(path)
    except ResultError:
        return b""


def _without_name(content: bytes) -> bytes:
    return NAME.sub(rb"\1", content, count=1)


def _line(record: Record) -> bytes:
    fields = msgspec.to_builtins(record)  # twenty thousand cases are written faster so than by schema.to_line
    del fields["extra"]
    return msgspec.json.encode(fields) + b"\n"
