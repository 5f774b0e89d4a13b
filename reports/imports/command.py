"""`import`: logs of other benchmarks into the store, a run file for each test."""

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from reports.imports.imported import ImportedFrom, ImportedRun, write_imported
from reports.imports.logged import IN_SECONDS, SECONDS, LoggedTest, clean_line
from reports.imports.mpi import parse_mpi
from reports.imports.nccl_tests import parse_json, parse_nccl
from reports.store.report_json import write_json
from reports.store.result import ResultError, content_of
from reports.store.schema import End
from reports.store.untrusted import MOST_BYTES, printable

FORMATS = "nccl-tests and rccl-tests (text or JSON), NCCL 1.x, mscclpp-test, OSU, IMB"
# Of a log; a row takes 0.1 ms and 700 bytes of a run file, a test its own run file.
MOST_ROWS, MOST_TESTS = 50_000, 2000
MOST_LISTED = 20  # unreadable lines of a file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files",
        metavar="FILE",
        nargs="+",
        type=Path,
        help=f"a log of at most {MOST_BYTES // 10**6} MB: {FORMATS}",
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        default=Path("results"),
        help="folder of the run files (results/)",
    )


def import_logs(arguments: argparse.Namespace) -> int:
    """Writes and prints the run files. Raises ResultError if the folder is not writable."""
    status, stored = 0, list[dict[str, Any]]()
    for path in arguments.files:
        try:
            content = content_of(path)
            tests = find_tests(path, content)
            if not tests:
                raise ResultError(f"{path} is not a known format; known are {FORMATS}")
            if len(tests) > MOST_TESTS or sum(len(test.cases) for test in tests) > 2 * MOST_ROWS:
                raise ResultError(
                    f"{path} has more than {MOST_TESTS:,} tests or {MOST_ROWS:,} rows"
                )
        except ResultError as error:
            print(f"reports: {printable(str(error))}", file=sys.stderr)
            status = 2
            continue
        unread = sorted({line for test in tests for line in test.unread})
        stored += store(path, content, tests, arguments.out)
        if not arguments.json:
            print("\n".join(record.pop("text") for record in stored[-len(tests) :]))
        if unread:
            unit = "results" if tests[0].format.endswith("JSON") else "lines"
            numbers = ", ".join(map(str, unread[:MOST_LISTED]))
            more = ", ..." * (len(unread) > MOST_LISTED)
            print(
                f"reports: {printable(str(path))}: {unit} that look like data and could not be "
                f"read: {numbers}{more} ({len(unread)} in all)",
                file=sys.stderr,
            )
    if arguments.json:
        write_json("import", tests=[record for record in stored if record.pop("text")])
    return status


def find_tests(path: Path, content: bytes) -> Sequence[LoggedTest]:
    """The tests in the log, in order; empty for an unknown format. Raises ResultError for an empty
    or binary file, and for JSON that is damaged or not of nccl-tests."""
    if not content.strip(b"\0 \t\r\n"):
        raise ResultError(f"{path} is empty")
    text = decode(path, content)
    if text.lstrip(" \r\n\t[")[:1] == "{":
        if len(content) > 20_000_000:  # they take ten times as much memory
            raise ResultError(f"{path} has more than 20 MB of JSON")
        try:
            return parse_json(text.strip())
        except (json.JSONDecodeError, RecursionError) as error:
            raise ResultError(f"{path} is JSON that is cut off or damaged ({error})") from error
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ResultError(f"{path} is JSON, but not what nccl-tests writes for -J") from error
    lines = (SECONDS.sub("", text) if IN_SECONDS.search(text) else text).split("\n")
    clean = [clean_line(line) for line in lines]
    if sum(line.lstrip(" #")[:1].isdigit() for line in clean) > MOST_ROWS:
        raise ResultError(f"{path} has more than {MOST_ROWS:,} rows")
    tests: list[LoggedTest] = [*parse_nccl(clean, lines), *parse_mpi(clean)]
    tests.sort(key=lambda test: test.first_line)
    for test, after in pairwise(tests):
        test.unread = [line for line in test.unread if line < after.first_line]
    for test in tests[-1:]:
        whole = [case for case in test.cases if case.line != len(lines)]
        rows = [clean[(case.line or 0) - 1] for case in whole]
        if len(whole) < len(test.cases) and is_cut(clean[-1], rows):
            test.cases = whole
            test.unread.append(len(lines))
        if len(lines) in test.unread and test.status == "complete":
            test.end("incomplete", "the log ends within a row")
    return tests


def is_cut(last: str, rows: Sequence[str]) -> bool:
    """Whether the last line of a log lacks its end: it has fewer decimals than the row above it, or
    ends further left than at least two rows, which all end in the same column."""
    if not rows:
        return last.endswith(".")
    decimals, expected = (len(row.split()[-1].partition(".")[2]) for row in (last, rows[-1]))
    ends = {len(row.rstrip()) for row in rows} if len(set(rows)) > 1 else {0}
    return decimals < expected or (len(ends) == 1 and len(last.rstrip()) < min(ends))


def decode(path: Path, content: bytes) -> str:
    """The text in UTF-8 or Latin-1, without NULs that a crash leaves at the end. Raises ResultError
    for binary files, among them UTF-16."""
    content = content.rstrip(b"\0")
    if b"\0" in content:
        raise ResultError(f"{path} is binary, not a log")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def store(
    path: Path, content: bytes, tests: Sequence[LoggedTest], folder: Path
) -> list[dict[str, Any]]:
    """Writes a run file for each test. Returns a record of each, with the line about it."""
    records: list[dict[str, Any]] = []
    digest = hashlib.sha256(content).hexdigest()[:12]
    for position, test in enumerate(tests, 1):
        program = test.format if test.format == "NCCL 1.x" else test.format.split()[0]
        run = ImportedRun(
            run_id=f"import-{digest}-{position}",
            benchmark=" ".join(filter(None, [program, test.collective])),
            imported_from=ImportedFrom(
                file=printable(path.name),
                format=test.format,
                first_line=test.first_line,
                last_line=max(test.first_line, test.last_line),
            ),
            statistic=test.statistic,
            world={
                "size": test.world_size,
                "hosts": test.hosts,
                "ranks": [{"rank": rank, "gpu": gpu} for rank, gpu in sorted(test.gpus.items())],
            },
            footer_avg_bus_bw=test.footer_avg_bus_bw,
            out_of_bounds=test.out_of_bounds,
        )
        wrong = [case.n_wrong for case in test.cases if case.n_wrong is not None]
        end = End(status=test.status, reason=test.reason, n_wrong=sum(wrong) if wrong else None)
        file, state = write_imported(folder, run, test.cases, end)
        size = "unknown" if test.world_size is None else test.world_size
        rows = max(sum(case.in_place == place for case in test.cases) for place in (False, True))
        note = "" if state == "new" else f" ({state})"
        hosts = f" on {test.hosts} hosts" if (test.hosts or 1) > 1 else ""
        records.append(
            {
                "log": printable(path.name),
                "file": str(file),
                "run_id": run.run_id,
                "format": test.format,
                "collective": test.collective,
                "ranks": test.world_size,
                "hosts": test.hosts,
                "rows": rows,
                "status": test.status,
                "reason": test.reason,
                "stored": state,
                "unread": sorted(test.unread),
                "text": f"{test.format} {test.collective or 'unknown'}, "
                f"{size} rank{'s' * (size != 1)}{hosts}, {rows} row{'s' * (rows != 1)}, "
                f"{test.status}: {file}{note}",
            }
        )
    return records
