"""Finds the tests in another harness's output, and makes an ordinary run of them."""

import hashlib
import json
import re
from bisect import bisect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from collectives.collective import DATATYPES
from reports.imports.formats import JSON_FORMATS, JSON_NAMES, NAMES, parse_text
from reports.imports.logged import (
    MEAN,
    LoggedRow,
    LoggedTest,
    check,
    clean_lines,
    dates_of,
    separator_of,
)
from reports.imports.serving_logs import READERS
from reports.imports.timing_lines import FORMAT, MARK, parse_timing_lines
from wiretax.record.blocks import count_blocks
from wiretax.record.case import UNKNOWN, is_own_work
from wiretax.record.result import MOST_LINE_BYTES, MOST_RUN_BYTES, ResultError
from wiretax.record.schema import Block, CaseHeader, End, Result, Run
from wiretax.record.summarise import build_cases
from wiretax.record.writing import to_line

LLAMA_TABLE = re.compile(r"^\| model .*\| +t/s \|", re.MULTILINE)  # in Markdown, its default
LOST = (
    "{}: timed by its own clock ({}); the state of the link is unknown, and in place and out of "
    "place are separate cases."
)


def find_tests(path: Path, content: bytes) -> Sequence[LoggedTest]:
    """The tests in the log, in order. Raises ResultError for a file of an unknown format, for JSON
    that is damaged or of no known harness, and for more than MOST."""
    try:
        if not content.isascii():  # an emoji makes each letter of a text take four bytes
            check("bytes with other letters than ASCII", len(content))
        text = content.decode("utf-8-sig", errors="replace")
        is_json = text.lstrip(" \r\n\t[")[:1] == "{" and MARK not in text
        tests = tests_of_json(text.strip()) if is_json else tests_of_text(text)
        check("tests", len(tests))
        check("rows", sum(len(test.rows) for test in tests))
    except ResultError as error:
        raise ResultError(f"{path}: {error}") from error

    if not tests or (text.startswith("#!") and not any(test.rows for test in tests)):
        if LLAMA_TABLE.search(text):
            raise ResultError(f"{path} is llama-bench's table: repeat it with -o json > FILE.json")
        raise ResultError(f"{path} has no timings; known are {NAMES}")

    return tests


def tests_of_json(text: str) -> Sequence[LoggedTest]:
    check("bytes of JSON", len(text))
    check("rows", text.count("{") // 3)  # a row is three objects

    try:
        documents = documents_of(text)
        for each in JSON_FORMATS:
            if tests := each.parse(documents):
                for test in tests:
                    test.set_status()
                return tests
    except (
        AttributeError,
        KeyError,
        OverflowError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        raise ResultError(
            f"it is JSON that is cut off, damaged, or not what {JSON_NAMES} write ({error})"
        ) from error
    raise ResultError(
        f"it is JSON of no known version of {JSON_NAMES}, and has no timing lines; a serving bench "
        f"is known by one of these fields: {', '.join(READERS)}"
    )


def documents_of(text: str) -> list[Any]:
    """The JSON values of an array, of a single object, or of lines. Raises JSONDecodeError."""
    try:
        documents = json.loads(text)
    except ValueError:
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    return documents if isinstance(documents, list) else [documents]


def tests_of_text(text: str) -> Sequence[LoggedTest]:
    """The tests with their dates: the last one before a test, or else the first after it."""
    raw = text.split("\n")
    lines = clean_lines(raw)
    check("rows", sum(line.lstrip(" #")[:1].isdigit() for line in lines))

    timed, unread, fault = parse_timing_lines(raw)
    tests: list[LoggedTest] = [*parse_text(lines), *timed]
    if fault and not tests:
        raise ResultError(fault)
    if not tests:
        return []
    tests.sort(key=lambda test: test.first_line)
    for test in tests:
        if test.rows and separator_of(raw[test.rows[-1].line - 1]):
            test.has_footer = False  # a spreadsheet keeps the table alone
    drop_cut_row(tests[-1], lines)
    for test in tests:
        test.set_status()
    if timed and fault:
        # A line that is no timing line may be anybody's: it is told, and makes no test incomplete.
        timed[0].unread = unread
        timed[0].notes.append(fault)
    dates = dict(dates_of(raw))
    dated = list(dates)

    if dated:
        for test in tests:
            before = bisect(dated, test.first_line)
            test.date = dates[dated[max(0, before - 1)]]

    return tests


def drop_cut_row(test: LoggedTest, lines: Sequence[str]) -> None:
    """Drops the last row of a test if it is the last line of the log and shorter than the row
    before: rows end in the same column, so that its end is lacking."""
    last = len(lines)
    rows = [row for row in test.rows if row.line < last]
    is_shorter = rows and len(lines[-1].rstrip()) < len(lines[rows[-1].line - 1].rstrip())
    if test.format != FORMAT and is_shorter and len(rows) < len(test.rows):
        if any(row.block.n_wrong for row in test.rows[len(rows) :]):
            test.status = "failed"  # whatever else of the row is lacking
        test.rows = rows
        test.unread.append(last)


def run_of(
    tests: Sequence[LoggedTest], run_id: str, file: str, machine_id: str, **facts: Any
) -> Result:
    """The run of these tests. Its sizes are of all ranks, or as printed if their number is unknown.
    `file` names their origin; `facts` are further fields of the head. Raises ResultError for tests
    of different numbers of ranks."""
    first, sizes = tests[0], sorted({test.world_size or 0 for test in tests})
    if len(sizes) > 1:
        raise ResultError(f"{file}: its tests have {' and '.join(map(str, sizes))} ranks")

    planned, blocks = dict[Any, tuple[int, CaseHeader]](), list[Block]()
    for test in tests:
        for row in test.rows:
            header = _header(test, row)
            # Rows of a size are blocks, unless it was rounded to 0, or two runs are mixed up.
            is_exact = header.size_bytes or is_own_work(header)
            is_block = is_exact and test.status != "incomplete" and not test.lack
            line = None if is_block else row.line
            key = line, msgspec.json.encode(header)
            block = row.block
            block.case, _ = planned.setdefault(key, (len(planned), header))
            block.block = block.round = len(blocks)
            if MEAN in test.statistic:
                block.mean_us = block.mean_us or block.time_us
            blocks.append(block)

    harness = first.format.split()[0]
    names = {re.sub("^all_", "all", test.collective or UNKNOWN) for test in tests}  # not wall_time
    ranks = range(min(sizes[0], 4096))  # so that a hostile number fills no memory
    run = Run(
        run_id=run_id,
        benchmark=names.pop() if len(names) == 1 else harness,
        version=first.format,
        argv=[],
        seed=0,
        machine_id=machine_id,
        software_id=digest_of(first.format, first.library or ""),
        environment={},
        cases=[header for _, header in planned.values()],
        world={
            "size": sizes[0],
            "hosts": first.hosts,
            "ranks": [{"rank": rank, "gpu": first.gpus.get(rank)} for rank in ranks],
        },
        method={"harness": harness, "statistic": first.statistic},
        imported_from=file,
    )
    run = msgspec.structs.replace(run, **facts)
    run.notes.append(LOST.format(first.format, first.statistic))
    run.notes += [note for test in tests for note in test.notes]
    counted = count_blocks(run, blocks)
    cases = build_cases(run, counted, blocks, [])

    bad = next((test for test in tests if test.status != "complete"), first)
    end = End(status=bad.status, reason=bad.reason)
    return Result(Path(f"{run_id}.jsonl"), run, cases, counted, blocks, end=end)


def _header(test: LoggedTest, row: LoggedRow) -> CaseHeader:
    size_bytes = row.case["size_bytes"]
    if test.is_per_rank:
        size_bytes *= test.world_size or 1
    collective = test.collective or UNKNOWN
    datatype = DATATYPES.get(row.case.get("datatype", UNKNOWN))
    # Of a type that is not printed, the elements are bytes.
    count = size_bytes // datatype.size_bytes if datatype else size_bytes
    fields = {"algorithm": "library", "count": count, "datatype": UNKNOWN} | row.case
    fields["redop"] = fields.get("redop") or ("sum" if "reduce" in collective else "none")
    fields["size_bytes"] = size_bytes
    # The variant and the memory are those of the library's buffers in our own runs.
    return CaseHeader(
        collective=collective, library=test.library, variant="plain", memory="private", **fields
    )


def digest_of(*texts: str) -> str:
    """Twelve hexadecimal digits, as an id of a machine or of software has."""
    return hashlib.sha256("\n".join(texts).encode(errors="replace")).hexdigest()[:12]


def content_of_run(result: Result) -> bytes:
    """The run's file. Raises ResultError if no report would read it."""
    records: list[Any] = [result.run, *result.blocks, *result.cases, result.end]
    lines = [*map(to_line, records)]
    content = b"".join(lines)
    if len(content) > MOST_RUN_BYTES or max(map(len, lines)) > MOST_LINE_BYTES:
        raise ResultError(f"{result.run.imported_from}: a run of its cases is too large to read")

    return content
