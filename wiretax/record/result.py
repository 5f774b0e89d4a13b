"""Reads the files of runs, complete or cut off. `schema` describes the records; `writing` writes
them."""

import ctypes
import signal
import sys
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cache, reduce
from operator import attrgetter, or_
from pathlib import Path
from typing import Any

import msgspec

from wiretax.common import untrusted
from wiretax.common.grouped import grouped
from wiretax.record.blocks import count_blocks, describe_link
from wiretax.record.case import BUS_FACTORS, CASE_KEY, COMPUTE_BENCHMARKS
from wiretax.record.histogram import placed_steps
from wiretax.record.open_parts import check_open_parts
from wiretax.record.schema import (
    SCHEMA,
    Block,
    Case,
    Counted,
    End,
    Line,
    LinkBlock,
    Result,
    Run,
    Winner,
)
from wiretax.record.summarise import TIME_RAN_OUT, build_cases
from wiretax.record.tails import check_tail
from wiretax.record.traced import TracedSteps
from wiretax.record.wrong import mark_wrong

MOST_CLOCK_DIFFERENCE = timedelta(days=1)  # of two machines
FUTURE = "dated in the future"  # why a run is left out

MOST_LINES, MOST_RUN_BYTES = 1_000_000, 55_000_000  # of a file; a run stays below 50 MB
MOST_LINE_BYTES = 16_000_000  # a value of two bytes takes 100 bytes of memory
ENDED_EARLY = "the run ended first"
NOT_JSON = ValueError, RecursionError  # as msgspec raises them
KEY_OF = attrgetter(*CASE_KEY)
KINDS = Run, Block, LinkBlock, TracedSteps, Case, Winner, End


class ResultError(Exception):
    """A file that cannot be read or written, in one sentence that names it."""

    exit_status = 2  # of a command that fails with it


def content_of(path: Path, most_bytes: int = untrusted.MOST_BYTES) -> bytes:
    """The content of a regular file, also of one inside an archive of a survey. Raises ResultError
    if it cannot be read or is too long."""
    try:
        content = untrusted.read_bytes(path, most_bytes=most_bytes)
    except OSError as error:
        from wiretax.record import packed  # not at the top: archives are read by this

        inside = packed.content_in(path) if isinstance(error, NotADirectoryError) else None
        if inside is None:
            raise ResultError(f"{path} cannot be read: {error.strerror}") from error
        if reason := untrusted.too_large(len(inside), most_bytes):
            raise ResultError(f"{path} cannot be read: {reason}") from error
        content = inside

    if content.count(b"\n") > MOST_LINES:
        raise ResultError(f"{path} has more than the {MOST_LINES:,} lines that are read")

    return content


def end_with_parent() -> None:
    """Initializes a pool's process, which would wait forever once its parent is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def read(path: Path | str) -> Result:
    """The run in the file `path`, incomplete if its last line is; a case is wrong if any line says
    so. Raises ResultError for a file that is no run, is damaged earlier or has a newer schema."""
    path = Path(path)
    lines = read_lines(path, "run file", KINDS, SCHEMA)
    [run], cases, ends = lines[Run], lines[Case], lines[End]
    blocks, link_blocks = lines[Block], lines[LinkBlock]
    try:
        check_open_parts(run, cases)
    except msgspec.ValidationError as error:
        raise ResultError(f"{path} is not a run file of schema {SCHEMA} ({error})") from error

    possible = {run.benchmark} if run.benchmark in COMPUTE_BENCHMARKS else BUS_FACTORS.keys()
    unknown = {header.collective for header in run.cases} - possible
    if unknown and not run.imported_from:
        raise ResultError(f"{path}: unknown collective {min(unknown)!r}")
    if any(not 0 <= each.case < len(run.cases) for each in (*blocks, *lines[TracedSteps])):
        raise ResultError(f"{path}: a block belongs to a case that was not planned")

    if len({(block.case, block.round) for block in blocks}) < len(blocks):
        raise ResultError(f"{path}: a case has two blocks in one round")

    try:
        for _ in placed_steps([block for block in blocks if block.steps]):
            pass  # which checks them
        for case in cases:
            check_tail(case)
    except ValueError as error:
        raise ResultError(f"{path}: its steps are damaged: {error}") from error

    counted = count_blocks(run, blocks)
    end = ends[-1] if ends else None
    if end is None:
        cases = build_cases(run, counted, blocks, link_blocks, ENDED_EARLY)
    elif [(case.case, KEY_OF(case)) for case in cases] != list(enumerate(map(KEY_OF, run.cases))):
        raise ResultError(f"{path}: its cases differ from the planned ones")
    elif has_links(cases, counted):
        built = build_cases(run, counted, blocks, link_blocks, TIME_RAN_OUT)
        # What the run says of a case that is wrong, or was not measured, stands.
        cases = [
            again if case.status == "ok" and case.case in counted.chain_links else case
            for case, again in zip(cases, built, strict=True)
        ]

    mark_wrong(cases, blocks, *ends)
    if end:
        describe_link(end, counted)
    more = lines[Winner], lines[TracedSteps]
    return Result(path, run, cases, counted, blocks, link_blocks, end, *more)


def has_links(cases: Sequence[Case], counted: Counted) -> bool:
    """Whether times of these cases contain the link of a leading chain, as older runs stored
    them."""
    of_chains = [case for case in cases if case.case in counted.chain_links]
    return any(case.time_us and case.with_link_us is None for case in of_chains)


def read_lines(
    path: Path, file_type: str, kinds: Sequence[type[Line]], schema: int
) -> defaultdict[Any, list[Any]]:
    """The records by their kinds, without lines of other kinds and an incomplete last line; the
    first kind is the head's. Raises ResultError for a line that does not fit `schema`; `file_type`
    names the file."""
    records: list[Line] = []
    head = kinds[0].__struct_config__.tag
    by_tag = {each.__struct_config__.tag: each for each in kinds}
    first, _, rest = content_of(path, MOST_RUN_BYTES).partition(b"\n")
    # Almost every file can be decoded at once. Errors, and what is rare, come from the loop.
    others: list[Line] = []
    if len(rest) <= MOST_LINE_BYTES and b'"schema"' not in rest:
        with suppress(*NOT_JSON):
            if _is_plain(rest):
                others, rest = _decoder(*kinds[1:]).decode_lines(rest), b""

    lines = [first, *rest.split(b"\n")]
    for number, line in enumerate(lines, 1):
        place = f"{path}, line {number}"
        if not line:
            continue
        if len(line) > MOST_LINE_BYTES:
            raise ResultError(
                f"{place}: its {len(line) / 1e6:.0f} MB are more than the "
                f"{MOST_LINE_BYTES / 1e6:.0f} MB that are read"
            )
        try:
            raw = msgspec.json.decode(line)
            raw = raw if _is_plain(line) else untrusted.printable_in(raw)
        except NOT_JSON as error:
            if number == len(lines) and records:
                break
            raise ResultError(f"{place}: not a line of a {file_type} ({error})") from error
        tag = raw.get("kind") if isinstance(raw, dict) else None
        if (tag == head) == bool(records):
            raise ResultError(f"{place}: a {file_type} has one `{head}` line, its first")
        if not isinstance(tag, str) or tag not in by_tag:
            continue
        if isinstance(newer := raw.get("schema"), int) and newer > schema:
            raise ResultError(
                f"{place}: schema {newer} is newer than this program's "
                f"{schema}; use a newer program"
            )
        try:
            records.append(msgspec.convert(raw, by_tag[tag]))
        except msgspec.ValidationError as error:
            raise ResultError(
                f"{place}: not a `{tag}` line of schema {schema} ({error})"
            ) from error

    if not records:
        raise ResultError(f"{path} is empty, not a {file_type}")

    return defaultdict(list, grouped(records + others, type))


@cache
def _decoder(*kinds: type[Line]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(reduce(or_, kinds))


def _is_plain(text: bytes) -> bool:
    """Whether `printable_in` would leave all strings of this JSON as they are: it has no escape
    sequence, and nowhere too many letters without a quotation mark."""
    if not text.isascii() or b"\\" in text or b"\x7f" in text:
        return False

    start = 0
    while len(text) - start > untrusted.MOST_LETTERS:
        quote = text.rfind(b'"', start, start + untrusted.MOST_LETTERS)
        if quote < 0:
            return False
        start = quote + 1

    return True


def time_of(run_id: str) -> datetime | None:
    """The UTC start time in a run_id, if it has one."""
    try:
        return datetime.strptime(run_id[:20], "%Y-%m-%dT%H-%M-%S%z")
    except ValueError:
        return None


def is_future(run_id: str) -> bool:
    """Whether it starts later than the clocks of two machines may differ: it would stay the newest
    run until then."""
    started = time_of(run_id)
    return started is not None and started > datetime.now(UTC) + MOST_CLOCK_DIFFERENCE


def by_time(run_id: str) -> tuple[bool, str]:
    """The key that sorts runs by time, oldest first; runs without a time come first."""
    return time_of(run_id) is not None, run_id
