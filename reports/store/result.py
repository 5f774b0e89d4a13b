"""The store of runs: one run, one JSON-lines file, written as the run goes and read back whole.

`RunFile` writes: the head, then each block on disk before the next is measured, then the cases with their samples
beside the file, then the end. `read` reads any such file, cut off or not: of a run without an end the cases are built
from its blocks. Whoever needs the records themselves finds them here too; `schema` says what they hold.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
from numpy.typing import NDArray

from reports.store import foreign
from reports.store.case import BUS_FACTORS, CASE_KEY, Samples, build_cases
from reports.store.exposed import TOGETHER
from reports.store.once import remembered
from reports.store.schema import (
    KINDS,
    SCHEMA,
    Block,
    Case,
    CaseHeader,
    End,
    FirstWrong,
    Flight,
    LinkBlock,
    NotNegative,
    Parts,
    Range,
    Record,
    Result,
    Routing,
    Run,
    Shape,
    State,
    Summary,
    World,
    from_dict,
    to_dict,
    to_line,
)

__all__ = [
    "SCHEMA",
    "Block",
    "Case",
    "CaseHeader",
    "End",
    "FirstWrong",
    "Flight",
    "ImportedRunError",
    "LinkBlock",
    "NewerSchemaError",
    "Range",
    "Record",
    "Result",
    "ResultError",
    "Run",
    "RunFile",
    "State",
    "Summary",
    "build_cases",
    "content_of",
    "followed",
    "is_imported",
    "is_stream",
    "read",
    "read_flight",
    "to_dict",
    "write_named",
    "write_whole",
]

MAX_SAMPLED_ITERATIONS = 20_000
MAX_SAMPLES_BYTES = 40_000_000
MAX_HEAD_BYTES = 50_000_000
PAGE_BYTES, COUNTERS_OFFSET = 4096, 2048  # of a flight record
ENDED_EARLY = "the run ended first"


class ResultError(Exception):
    """A run file that cannot be read or written; the message is one sentence that names it. `exit_status` is what a
    command that ends with it leaves."""

    exit_status = 2


class ImportedRunError(ResultError):
    """A run that was imported from a log, where a measured one is needed."""


class NewerSchemaError(ResultError):
    """A file that a later version of this program wrote."""


def content_of(path: Path, most_bytes: int = foreign.MOST_BYTES) -> bytes:
    """What an ordinary file holds. Raises ResultError where it cannot be read."""
    try:
        return foreign.read_bytes(path, most_bytes=most_bytes)
    except OSError as error:
        raise ResultError(f"{path} cannot be read: {error.strerror}") from error


def is_stream(path: Path) -> bool:
    """Whether what is written to `path` goes somewhere else, as to /dev/stdout: nothing can take its place."""
    return path.parent == Path("/dev") or (path.exists() and not path.is_file())


def followed(path: Path) -> Path:
    """Where the link at `path` leads, at last; `path` itself where there is none. The folders stay as they are named:
    a link of /proc/PID/root leads elsewhere than it says."""
    for _ in range(40):  # as many as the kernel follows
        if not path.is_symlink():
            break
        path = path.parent / os.readlink(path)
    return path


def write_named(path: Path, content: bytes) -> None:
    """Writes what the user has named: through his link, into a pipe or a device, else whole as `write_whole` does it;
    but where only the file may be written and not its folder, the file itself, and then not whole. Raises ResultError
    where it cannot be written."""
    try:
        if is_stream(path):
            path.write_bytes(content)
            return
        target = followed(path)
        try:
            write_whole(target, content)
        except ResultError as error:
            if not (isinstance(error.__cause__, PermissionError) and target.is_file()):
                raise
            target.write_bytes(content)
    except OSError as error:
        raise ResultError(f"{path} cannot be written: {error.strerror}") from error


def write_whole(path: Path, content: bytes) -> None:
    """Whoever looks finds the former content or all of the new, with the mode of a file of ours that it replaces. A
    link or a pipe there, which a stranger may have put into a folder that he shares, is replaced likewise. Raises
    ResultError where it cannot be written."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        try:
            unfinished.unlink(missing_ok=True)
            with unfinished.open("xb") as file:  # never through a link
                with contextlib.suppress(FileNotFoundError):
                    former = path.lstat()
                    if stat.S_ISREG(former.st_mode) and former.st_uid == os.getuid():
                        os.fchmod(file.fileno(), former.st_mode & 0o777)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise ResultError(f"{path} cannot be written: {error.strerror}") from error


class RunFile:
    """A run being written to `file`. Every line is on disk when `append` returns."""

    def __init__(self, path: Path, run: Run, file: BinaryIO) -> None:
        self.path = path
        self.run = run
        self.blocks: list[Block] = []
        self.link_blocks: list[LinkBlock] = []
        self._file = file

    @classmethod
    def create(cls, folder: Path, run: Run) -> RunFile:
        """Start `<run_id>.jsonl` in `folder` (made where missing), where it appears when its head is whole. Raises
        ResultError when it cannot be written or is there already."""
        path = Path(folder) / f"{run.run_id}.jsonl"
        unfinished = path.with_name(f"{path.name}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = cls(path, run, unfinished.open("xb"))
            try:
                file._write(run)
                # Whoever else has this name has `.part` as long as he has not `.jsonl`: of two one is refused.
                if path.exists():
                    raise ResultError(f"{path} cannot be written: File exists")
                unfinished.rename(path)
            finally:
                unfinished.unlink(missing_ok=True)
            # Not for a folder that may not be read, and some file systems over a network refuse it for any.
            with contextlib.suppress(OSError):
                listing = os.open(path.parent, os.O_RDONLY)
                try:
                    os.fsync(listing)  # else a power cut may take the name of a file whose content is there
                finally:
                    os.close(listing)
        except OSError as error:
            raise ResultError(f"{path} cannot be written: {error.strerror}") from error
        return file

    def append(self, record: Block | LinkBlock) -> None:
        """Add a block's line. Raises ValueError for a figure that is not finite, ResultError when the disk is full."""
        self._write(record)
        if isinstance(record, Block):
            self.blocks.append(record)
        else:
            self.link_blocks.append(record)

    def finish(self, samples: Samples, status: str, reason: str | None, measuring_s: float, elapsed_s: float,
               steal_share: float | None = None, keep_samples: bool = True) -> Result:
        """Build the cases, write their samples unless `keep_samples` is off, their lines and the end; the result as
        `read` would give it.

        `samples[case]` has shape (rows, 5): block, rank, time_us, consume_us, arrival_skew_us. `status` is `complete`
        or `incomplete`; both times are in seconds, `steal_share` from 0 to 1.
        """
        unmeasured = "time ran out" if status == "complete" else ENDED_EARLY
        cases = build_cases(self.run, self.blocks, self.link_blocks, samples, unmeasured)
        ranks, columns = self.run.world["size"], 5
        affordable = MAX_SAMPLES_BYTES // (max(len(cases), 1) * ranks * columns * np.dtype(np.float32).itemsize)
        for case in cases:
            if keep_samples and case.case in samples:
                kept = whole_blocks(samples[case.case], min(MAX_SAMPLED_ITERATIONS, affordable))
                if len(kept):
                    if not any(other.samples for other in cases):
                        self._make_samples()
                    case.samples = self._save(f"case-{case.case:04d}.npy", kept)
            self._write(case)
        wrong = [case.n_wrong for case in cases if case.n_wrong is not None]
        end = End(status=status, reason=reason, n_wrong=sum(wrong) if wrong else None, elapsed_s=elapsed_s,
                  measuring_s=measuring_s, steal_share=steal_share)
        self._write(end)
        self._file.close()
        return Result(self.path, self.run, cases, self.blocks, self.link_blocks, end)

    def _write(self, record: Record) -> None:
        line = to_line(record)
        try:
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise ResultError(f"{self.path} cannot be written: {error.strerror}") from error

    def _make_samples(self) -> None:
        """The folder of this run's samples, new: what another user has put there, as a link, is not written into."""
        folder = self.path.with_suffix(".samples")
        try:
            folder.mkdir()
        except OSError as error:
            raise ResultError(f"{folder} cannot be made: {error.strerror}") from error

    def _save(self, name: str, rows: NDArray[Any]) -> str:
        path, content = self.path.with_suffix(".samples") / name, io.BytesIO()
        np.save(content, rows.astype(np.float32))
        write_whole(path, content.getvalue())
        return name


def whole_blocks(samples: NDArray[Any], limit: int) -> NDArray[Any]:
    """The rows of as many blocks, spread over the run, as stay within `limit` iterations a rank; whole blocks only."""
    blocks, rows_of = np.unique(samples[:, 0], return_counts=True)
    ranks = len(np.unique(samples[:, 1]))
    for n_kept in range(len(blocks), 0, -1):
        kept = np.linspace(0, len(blocks) - 1, n_kept).round().astype(int)
        if rows_of[kept].sum() <= limit * ranks:
            return samples[np.isin(samples[:, 0], blocks[kept])]
    return samples[:0]


@remembered
def read(path: Path | str) -> Result:
    """The run that is stored at `path`.

    A last line that was cut off is dropped and the run counts as incomplete. Raises ResultError, with the file and the
    line, for what is not a run file, is damaged further up, or was written by a newer schema; ImportedRunError for a
    run that was imported from a log.
    """
    path = Path(path)
    if is_imported(path):
        raise ImportedRunError(f"{path} was imported from a log: `reports show` shows it, nothing judges it")
    records: dict[type[Record], list[Any]] = {kind: [] for kind in KINDS.values()}
    for where, record in read_lines(path, "run file", KINDS, SCHEMA):
        records[type(record)].append(record)
        try:
            for case in [record] if isinstance(record, Case) else record.cases if isinstance(record, Run) else []:
                msgspec.convert(case.shape, Shape | None)
                msgspec.convert(case.routing, Routing | None)
                msgspec.convert(case.bound_parts if isinstance(case, CaseHeader) else None, Parts | None)
            if isinstance(record, Run):
                msgspec.convert(record.world, World)
                msgspec.convert(record.link.get("overhead_us", 0), NotNegative)
        except msgspec.ValidationError as error:
            raise ResultError(f"{where}: not a shape of a case, or a world of ranks ({error})") from error
        planned = record.cases if isinstance(record, Run) else []
        if unknown := {case.collective for case in planned} - BUS_FACTORS.keys() - set(TOGETHER):
            raise ResultError(f"{where}: unknown collective {min(unknown)!r}")
    return _assemble(path, records[Run][0], records)


def is_imported(path: Path | str) -> bool:
    """Whether the file is a run that was imported from a log, by its first line alone."""
    try:
        with foreign.open_file(Path(path)) as file:
            line = file.readline(MAX_HEAD_BYTES)
        head = msgspec.json.decode(line) if b'"imported_from"' in line else None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return isinstance(head, dict) and head.get("kind") == "run" and "imported_from" in head


def read_lines(path: Path, what: str, kinds: Mapping[str, type[Record]], schema: int) -> Iterator[tuple[str, Record]]:
    """The records of a file of JSON lines, each with where it stands. `kinds` are the known ones, the head's first;
    lines of others are passed over, and so is a last line that was cut off. Raises ResultError for all else that is
    not `what` as `schema` has it."""
    lines = content_of(path).split(b"\n")
    head, is_first = next(iter(kinds)), True
    for number, line in enumerate(lines, 1):
        where = f"{path}, line {number}"
        if not line:
            continue
        try:
            raw = foreign.printable_in(msgspec.json.decode(line))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            if number == len(lines) and not is_first:
                break
            raise ResultError(f"{where}: not a line of a {what} ({error})") from error
        kind = raw.get("kind") if isinstance(raw, dict) else None
        if (kind == head) != is_first:
            raise ResultError(f"{where}: a {what} has one `{head}` line, its first")
        is_first = False
        if not isinstance(kind, str) or kind not in kinds:
            continue
        newer = raw.get("schema")
        if isinstance(newer, int) and newer > schema:
            raise NewerSchemaError(f"{where}: schema {newer} is newer than this program's {schema}; use a newer "
                                   "program")
        try:
            record = from_dict(raw, kinds[kind])
        except msgspec.ValidationError as error:
            raise ResultError(f"{where}: not a `{kind}` line as schema {schema} has it ({error})") from error
        yield where, record
    if is_first:
        raise ResultError(f"{path} is empty, not a {what}")


def _assemble(path: Path, run: Run, records: dict[type[Record], list[Any]]) -> Result:
    blocks, cases = records[Block], records[Case]
    end: End | None = records[End][-1] if records[End] else None
    if any(not 0 <= block.case < len(run.cases) for block in blocks):
        raise ResultError(f"{path}: a block belongs to a case that was not planned")
    if end is None:
        cases = build_cases(run, blocks, records[LinkBlock], unmeasured=ENDED_EARLY)
    elif len(cases) != len(run.cases) or any(
            case.case != at or getattr(case, name) != getattr(run.cases[at], name)
            for at, case in enumerate(cases) for name in CASE_KEY):
        raise ResultError(f"{path}: its cases are not those that were planned")
    return Result(path, run, cases, blocks, records[LinkBlock], end, read_flight(path.with_suffix(".flight")))


def read_flight(folder: Path) -> Flight | None:
    """What the ranks of a run left in `folder`, None where there is nothing. A page that was torn in the middle of an
    update says nothing of use, so that rank is left out."""
    if not os.path.isdir(folder) or os.path.islink(folder) or not os.access(folder, os.R_OK | os.X_OK):
        return None
    pages: dict[str, dict[str, Any]] = {}
    for page in sorted(folder.iterdir()):
        try:
            page_bytes = foreign.read_bytes(page, follow=False, most_bytes=PAGE_BYTES)
            content = foreign.printable_in(msgspec.json.decode(page_bytes.split(b"\0", 1)[0]))
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue
        if isinstance(content, dict):
            names = content.pop("counters", None)
            if isinstance(names, list) and len(page_bytes) >= COUNTERS_OFFSET + 8 * len(names):
                counted = struct.unpack_from(f"<{len(names)}Q", page_bytes, COUNTERS_OFFSET)
                content["counters"] = dict(zip(map(str, names), counted, strict=True))
            pages[page.name] = content
    ranks = {int(name[5:]): page for name, page in pages.items() if name.startswith("rank-") and name[5:].isdecimal()}
    return Flight(ranks=ranks, ended=pages.get("ended"))
