"""Reads run files, complete or cut off, and other files of JSON lines. The cases of a run without
an end are built from its blocks. `schema` describes the records; `writing` writes them."""

import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from reports.store import foreign
from reports.store.build import build_cases
from reports.store.case import BUS_FACTORS, CASE_KEY
from reports.store.checks import check_open_parts
from reports.store.exposed import TOGETHER
from reports.store.schema import KINDS, SCHEMA, Block, Case, End, Flight, LinkBlock, Result, Run

MAX_HEAD_BYTES = 50_000_000
PAGE_BYTES, COUNTERS_OFFSET = 4096, 2048  # of a flight record
ENDED_EARLY = "the run ended first"
NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
Kind = TypeVar("Kind", bound=msgspec.Struct)
_results: dict[Path, Result] | None = None  # in `read_once`


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


@contextmanager
def read_once() -> Iterator[None]:
    """Makes `read` read each file once within this context. Processes that are forked within the
    context share the results that were read before."""
    global _results
    _results = {}
    try:
        yield
    finally:
        _results = None


def read(path: Path | str) -> Result:
    """The run in the file `path`.

    Drops an incomplete last line; the run then counts as incomplete. Raises ResultError for a file
    that is no run file, that is damaged before its last line, or that has a newer schema;
    ImportedRunError for a run imported from a log.
    """
    path = Path(path)
    result = _results.get(path) if _results else None
    if result is None:
        result = _read(path)
    if _results is not None:
        _results[path] = result
    return result


def _read(path: Path) -> Result:
    if is_imported(path):
        raise ImportedRunError(
            f"{path} was imported from a log: `reports show` shows it, nothing judges it")
    lines = read_lines(path, "run file", KINDS, SCHEMA)
    [run], cases, ends = of_kind(Run, lines), of_kind(Case, lines), of_kind(End, lines)
    blocks, link_blocks = of_kind(Block, lines), of_kind(LinkBlock, lines)
    try:
        check_open_parts(run, cases)
    except msgspec.ValidationError as error:
        raise ResultError(f"{path} is not a run file of schema {SCHEMA} ({error})") from error
    collectives = {header.collective for header in run.cases}
    if unknown := collectives - BUS_FACTORS.keys() - set(TOGETHER):
        raise ResultError(f"{path}: unknown collective {min(unknown)!r}")
    if any(not 0 <= block.case < len(run.cases) for block in blocks):
        raise ResultError(f"{path}: a block belongs to a case that was not planned")
    if not ends:
        cases = build_cases(run, blocks, link_blocks, reason=ENDED_EARLY)
    elif not _are_cases_of(run, cases):
        raise ResultError(f"{path}: its cases differ from the planned ones")
    flight = read_flight(path.with_suffix(".flight"))
    return Result(path, run, cases, blocks, link_blocks, ends[-1] if ends else None, flight)


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


def read_lines(path: Path, file_type: str, kinds: Mapping[str, type[msgspec.Struct]],
               schema: int) -> list[msgspec.Struct]:
    """The records of a file of JSON lines.

    `kinds` are the known kinds, the kind of the head first. Skips lines of other kinds and an
    incomplete last line. Raises ResultError, with the file and the line, for anything else that
    does not fit `schema`; `file_type` names the expected file in the message.
    """
    records: list[msgspec.Struct] = []
    lines = content_of(path).split(b"\n")
    head = next(iter(kinds))
    for number, line in enumerate(lines, 1):
        place = f"{path}, line {number}"
        if not line:
            continue
        try:
            raw = foreign.printable_in(msgspec.json.decode(line))
        except NOT_JSON as error:
            if number == len(lines) and records:
                break
            raise ResultError(f"{place}: not a line of a {file_type} ({error})") from error
        kind = raw.get("kind") if isinstance(raw, dict) else None
        if (kind == head) == bool(records):
            raise ResultError(f"{place}: a {file_type} has one `{head}` line, its first")
        if isinstance(kind, str) and kind in kinds:
            records.append(_record(place, raw, kinds[kind], schema))
    if not records:
        raise ResultError(f"{path} is empty, not a {file_type}")
    return records


def _record(place: str, raw: dict[str, Any], kind: type[Kind], schema: int) -> Kind:
    newer = raw.get("schema")
    if isinstance(newer, int) and newer > schema:
        raise NewerSchemaError(
            f"{place}: schema {newer} is newer than this program's {schema}; use a newer program")
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        raise ResultError(
            f"{place}: not a `{raw['kind']}` line of schema {schema} ({error})") from error


def of_kind(kind: type[Kind], records: Sequence[msgspec.Struct]) -> list[Kind]:
    """The records of one kind."""
    return [record for record in records if isinstance(record, kind)]


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
