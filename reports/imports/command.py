"""`import`: logs of other benchmarks into the store, a run file for each test."""

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reports.imports.imported import ImportedFrom, ImportedRun, write_imported
from reports.imports.logged import LoggedTest, clean_line
from reports.imports.mpi import parse_mpi
from reports.imports.nccl_json import parse_json
from reports.imports.nccl_tests import parse_nccl
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
    status, records = 0, list[dict[str, Any]]()
    for path in arguments.files:
        try:
            content = content_of(path)
            tests = find_tests(path, content)
        except ResultError as error:
            print(f"reports: {printable(str(error))}", file=sys.stderr)
            status = 2
            continue
        for place, test in enumerate(tests, 1):
            name = f"import-{hashlib.sha256(content).hexdigest()[:12]}-{place}"
            record = store(test, name, path, arguments.out)
            records.append(record)
            if not arguments.json:
                print(sentence(record))
        unread = sorted({line for test in tests for line in test.unread})
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
        write_json("import", tests=records)

    return status


def find_tests(path: Path, content: bytes) -> Sequence[LoggedTest]:
    """The tests in the log, in order. Raises ResultError for a file that is empty, binary or of an
    unknown format, for JSON that is damaged or not of nccl-tests, and for too many rows."""
    if not content.strip(b"\0 \t\r\n"):
        raise ResultError(f"{path} is empty")

    text = decode(path, content)
    if text.lstrip(" \r\n\t[")[:1] == "{":
        tests = tests_of_json(path, text.strip())
    else:
        tests = tests_of_text(path, text)

    if not tests:
        raise ResultError(f"{path} is not a known format; known are {FORMATS}")
    if len(tests) > MOST_TESTS or sum(len(test.cases) for test in tests) > 2 * MOST_ROWS:
        raise ResultError(f"{path} has more than {MOST_TESTS:,} tests or {MOST_ROWS:,} rows")

    return tests


def tests_of_json(path: Path, text: str) -> Sequence[LoggedTest]:
    if len(text) > 20_000_000:  # they take ten times as much memory
        raise ResultError(f"{path} has more than 20 MB of JSON")

    try:
        return parse_json(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ResultError(f"{path} is JSON that is cut off or damaged ({error})") from error
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise ResultError(f"{path} is JSON, but not what nccl-tests writes for -J") from error


def tests_of_text(path: Path, text: str) -> Sequence[LoggedTest]:
    lines = [clean_line(line) for line in text.split("\n")]
    if sum(line.lstrip(" #")[:1].isdigit() for line in lines) > MOST_ROWS:
        raise ResultError(f"{path} has more than {MOST_ROWS:,} rows")

    tests: list[LoggedTest] = [*parse_nccl(lines), *parse_mpi(lines)]
    tests.sort(key=lambda test: test.first_line)

    for test in tests[-1:]:
        drop_cut_row(test, lines)

    return tests


def drop_cut_row(test: LoggedTest, lines: Sequence[str]) -> None:
    """Drops the last row of a test if it is the last line of the log and shorter than the row
    before: rows end in the same column, so that its end is lacking."""
    last = len(lines)
    before = [case.line for case in test.cases if case.line and case.line < last]

    if before and len(lines[-1].rstrip()) < len(lines[before[-1] - 1].rstrip()):
        test.unread += [last for case in test.cases if case.line == last]
        test.cases = [case for case in test.cases if case.line != last]

    if last in test.unread and test.status == "complete":
        test.end("incomplete", "the log ends within a row")


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


def store(test: LoggedTest, run_id: str, path: Path, folder: Path) -> dict[str, Any]:
    """Writes the run file of a test in the log at `path`. Returns its record for `--json`."""
    program = test.format if test.format == "NCCL 1.x" else test.format.split()[0]
    run = ImportedRun(
        run_id=run_id,
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
    return {
        "log": printable(path.name),
        "file": str(file),
        "run_id": run_id,
        "format": test.format,
        "collective": test.collective,
        "ranks": test.world_size,
        "hosts": test.hosts,
        "rows": max(sum(case.in_place == place for case in test.cases) for place in (False, True)),
        "status": test.status,
        "reason": test.reason,
        "stored": state,
        "unread": sorted(test.unread),
    }


def sentence(record: dict[str, Any]) -> str:
    """What was stored: `nccl-tests all_reduce: ranks 2, rows 25, complete: FILE`."""
    counts = [f"{name} {record[name]}" for name in ("ranks", "hosts", "rows") if record[name]]
    test = f"{record['format']} {record['collective'] or 'unknown'}"
    note = "" if record["stored"] == "new" else f" ({record['stored']})"
    return f"{test}: {', '.join([*counts, record['status']])}: {record['file']}{note}"
