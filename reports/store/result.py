"""Reads run files, complete or cut off, and other files of JSON lines. The cases of a run without
an end are built from its blocks. `schema` describes the records; `run_file` writes them."""

import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from reports.store import foreign
from reports.store.build import build_cases
from reports.store.case import BUS_FACTORS, CASE_KEY
from reports.store.exposed import TOGETHER
from reports.store.once import remembered
from reports.store.records import Record, from_dict
from reports.store.schema import KINDS, SCHEMA, Block, Case, End, Flight, LinkBlock, Result, Run

MAX_HEAD_BYTES = 50_000_000
PAGE_BYTES, COUNTERS_OFFSET = 4096, 2048  # of a flight record
ENDED_EARLY = "the run ended first"
NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class ResultError(Exception):
    """A file that cannot be read or written. The message is one sentence that names the file;
    `exit_status` is the exit status of a command that fails with it."""

    exit_status = 2


class ImportedRunError(ResultError):
    """A run imported from a log, which a command cannot use in place of a measured run."""


class NewerSchemaError(ResultError):
    """A file from a later version of this program."""


def content_of(path: Path, most_bytes: int = foreign.MOST_BYTES) -> bytes:
    """The content of a regular file. Raises ResultError if it cannot be read."""
    try:
        return foreign.read_bytes(path, most_bytes=most_bytes)
    except OSError as error:
        raise ResultError(f"{path} cannot be read: {error.strerror}") from error


@remembered
def read(path: Path | str) -> Result:
    """The run in the file `path`.

    Drops an incomplete last line; the run then counts as incomplete. Raises ResultError, with the
    file and the line, for a file that is no run file, that is damaged before its last line, or that
    has a newer schema; ImportedRunError for a run imported from a log.
    """
    path = Path(path)
    if is_imported(path):
        raise ImportedRunError(
            f"{path} was imported from a log: `reports show` shows it, nothing judges it")
    records: dict[type[Record], list[Any]] = {kind: [] for kind in KINDS.values()}
    for _, record in read_lines(path, "run file", KINDS, SCHEMA):
        records[type(record)].append(record)
    run: Run = records[Run][0]
    cases: list[Case] = records[Case]
    end: End | None = records[End][-1] if records[End] else None
    collectives = {header.collective for header in run.cases}
    if unknown := collectives - BUS_FACTORS.keys() - set(TOGETHER):
        raise ResultError(f"{path}: unknown collective {min(unknown)!r}")
    if any(not 0 <= block.case < len(run.cases) for block in records[Block]):
        raise ResultError(f"{path}: a block belongs to a case that was not planned")
    if end is None:
        cases = build_cases(run, records[Block], records[LinkBlock], reason=ENDED_EARLY)
    elif not _are_cases_of(run, cases):
        raise ResultError(f"{path}: its cases differ from the planned ones")
    flight = read_flight(path.with_suffix(".flight"))
    return Result(path, run, cases, records[Block], records[LinkBlock], end, flight)


def _are_cases_of(run: Run, cases: list[Case]) -> bool:
    return [case.case for case in cases] == list(range(len(run.cases))) and all(
        getattr(case, name) == getattr(header, name)
        for case, header in zip(cases, run.cases, strict=True) for name in CASE_KEY)


def is_imported(path: Path | str) -> bool:
    """Whether the first line of the file is the head of a run imported from a log."""
    try:
        with foreign.open_file(Path(path)) as file:
            line = file.readline(MAX_HEAD_BYTES)
        head = msgspec.json.decode(line) if b'"imported_from"' in line else None
    except (OSError, *NOT_JSON):
        return False
    return isinstance(head, dict) and head.get("kind") == "run" and "imported_from" in head


def read_lines(path: Path, file_type: str, kinds: Mapping[str, type[Record]],
               schema: int) -> Iterator[tuple[str, Record]]:
    """The records of a file of JSON lines, each with its file and line number.

    `kinds` are the known kinds, the kind of the head first. Skips lines of other kinds and an
    incomplete last line. Raises ResultError for anything else that does not fit `schema`;
    `file_type` names the expected file in the message.
    """
    lines = content_of(path).split(b"\n")
    head, is_first = next(iter(kinds)), True
    for number, line in enumerate(lines, 1):
        place = f"{path}, line {number}"
        if not line:
            continue
        try:
            raw = foreign.printable_in(msgspec.json.decode(line))
        except NOT_JSON as error:
            if number == len(lines) and not is_first:
                break
            raise ResultError(f"{place}: not a line of a {file_type} ({error})") from error
        kind = raw.get("kind") if isinstance(raw, dict) else None
        if (kind == head) != is_first:
            raise ResultError(f"{place}: a {file_type} has one `{head}` line, its first")
        is_first = False
        if isinstance(kind, str) and kind in kinds:
            yield place, _record(place, raw, kinds[kind], schema)
    if is_first:
        raise ResultError(f"{path} is empty, not a {file_type}")


def _record(place: str, raw: dict[str, Any], kind: type[Record], schema: int) -> Record:
    newer = raw.get("schema")
    if isinstance(newer, int) and newer > schema:
        raise NewerSchemaError(
            f"{place}: schema {newer} is newer than this program's {schema}; use a newer program")
    try:
        return from_dict(raw, kind)
    except msgspec.ValidationError as error:
        raise ResultError(
            f"{place}: not a `{raw['kind']}` line of schema {schema} ({error})") from error


def read_flight(folder: Path) -> Flight | None:
    """The flight records in `folder`, one page of each rank; None without a readable folder. Leaves
    out a rank whose page was torn during an update."""
    if folder.is_symlink() or not folder.is_dir() or not os.access(folder, os.R_OK | os.X_OK):
        return None
    pages = {path.name: page for path in sorted(folder.iterdir()) if (page := _read_page(path))}
    ranks = {int(name[5:]): page for name, page in pages.items()
             if name.startswith("rank-") and name[5:].isdecimal()}
    return Flight(ranks=ranks, ended=pages.get("ended"))


def _read_page(path: Path) -> dict[str, Any] | None:
    """One page: JSON, zeros, and at COUNTERS_OFFSET the 64-bit counters that the JSON names."""
    try:
        page_bytes = foreign.read_bytes(path, follow=False, most_bytes=PAGE_BYTES)
        page = foreign.printable_in(msgspec.json.decode(page_bytes.split(b"\0", 1)[0]))
    except (OSError, *NOT_JSON):
        return None
    if not isinstance(page, dict):
        return None
    names = page.pop("counters", None)
    if isinstance(names, list) and len(page_bytes) >= COUNTERS_OFFSET + 8 * len(names):
        counters = struct.unpack_from(f"<{len(names)}Q", page_bytes, COUNTERS_OFFSET)
        page["counters"] = dict(zip(map(str, names), counters, strict=True))
    return page
