"""`import`: logs of other benchmarks into the store, a run file for each test. The exit status is 2
if a file is unreadable or has an unknown format; the other files are imported."""

import argparse
import hashlib
import sys
from itertools import pairwise
from pathlib import Path

import msgspec

from reports.imports.imported import ImportedFrom, ImportedRun, write_imported
from reports.imports.logged import LoggedTest, clean_line
from reports.imports.mpi import parse_mpi
from reports.imports.nccl_tests import parse_json, parse_nccl
from reports.store.foreign import MOST_BYTES, printable
from reports.store.result import ResultError, content_of
from reports.store.schema import End

FORMATS = "nccl-tests and rccl-tests (text or JSON), NCCL 1.x, mscclpp-test, OSU, IMB"
MOST_LISTED = 20  # unreadable lines of a file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", metavar="FILE", nargs="+", type=Path,
                        help=f"a log of at most {MOST_BYTES // 10**6} MB: {FORMATS}")
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("results"),
                        help="folder of the run files (results/)")


def import_logs(arguments: argparse.Namespace) -> int:
    """Writes and prints the run files. Raises ResultError if the folder is not writable."""
    status = 0
    for path in arguments.files:
        try:
            content = content_of(path)
            tests = find_tests(path, content)
            if not tests:
                raise ResultError(f"{path} is not a known format; known are {FORMATS}")
        except ResultError as error:
            print(f"reports: {printable(str(error))}", file=sys.stderr)
            status = 2
            continue
        store(path, content, tests, arguments.out)
        unread = sorted({line for test in tests for line in test.unread})
        if unread:
            unit = "results" if tests[0].format.endswith("JSON") else "lines"
            numbers = ", ".join(map(str, unread[:MOST_LISTED]))
            more = ", ..." * (len(unread) > MOST_LISTED)
            print(f"reports: {printable(str(path))}: {unit} that look like data and could not be "
                  f"read: {numbers}{more} ({len(unread)} in all)", file=sys.stderr)
    return status


def find_tests(path: Path, content: bytes) -> list[LoggedTest]:
    """The tests in the log, in order; empty for an unknown format. Raises ResultError for an empty
    or binary file, and for JSON that is damaged or not of nccl-tests."""
    if not content.strip(b"\0 \t\r\n"):
        raise ResultError(f"{path} is empty")
    text = decode(path, content)
    if text.lstrip()[:1] == "{":
        try:
            return [parse_json(text.strip())]
        except (msgspec.DecodeError, RecursionError) as error:
            raise ResultError(f"{path} is JSON that is cut off or damaged ({error})") from error
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ResultError(f"{path} is JSON, but not what nccl-tests writes for -J") from error
    lines = text.split("\n")
    clean = [clean_line(line) for line in lines]
    tests: list[LoggedTest] = [*parse_nccl(clean, lines), *parse_mpi(clean)]
    tests.sort(key=lambda test: test.first_line)
    for test, after in pairwise(tests):
        test.unread = [line for line in test.unread if line < after.first_line]
    for test in tests[-1:]:
        # If the last figure of a log has fewer decimals than the one above, the log was cut off
        # there. A cut whole number is not noticed.
        whole = [case for case in test.cases if case.line != len(lines)]
        if whole and len(whole) < len(test.cases):
            last, above = (clean[number - 1].split()[-1].partition(".")[2]
                           for number in (len(lines), whole[-1].line or 0))
            if len(last) < len(above):
                test.cases = whole
                test.unread.append(len(lines))
        if len(lines) in test.unread and test.status == "complete":
            test.end("incomplete", "the log ends within a row")
    return tests


def decode(path: Path, content: bytes) -> str:
    """The text in UTF-8, UTF-16 (also without a byte order mark) or Latin-1, without NULs that a
    crash leaves at the end. Raises ResultError for binary files."""
    head = content[:1024]
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return content.decode("utf-16", errors="replace").rstrip("\0")
    for encoding, first in (("utf-16-le", 0), ("utf-16-be", 1)):
        characters, nulls = head[first::2], head[1 - first :: 2]
        if all(characters) and nulls and not any(nulls):
            return content.decode(encoding, errors="replace").rstrip("\0")
    content = content.rstrip(b"\0")
    if b"\0" in content:
        raise ResultError(f"{path} is binary, not a log")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def store(path: Path, content: bytes, tests: list[LoggedTest], folder: Path) -> None:
    """Writes a run file for each test and prints a line."""
    digest = hashlib.sha256(content).hexdigest()[:12]
    for position, test in enumerate(tests, 1):
        program = test.format if test.format == "NCCL 1.x" else test.format.split()[0]
        run = ImportedRun(
            run_id=f"import-{digest}-{position}",
            benchmark=" ".join(filter(None, [program, test.collective])),
            imported_from=ImportedFrom(
                file=printable(path.name), format=test.format, first_line=test.first_line,
                last_line=max(test.first_line, test.last_line)),
            statistic=test.statistic,
            world={"size": test.world_size, "ranks": [
                {"rank": rank, "gpu": gpu} for rank, gpu in sorted(test.gpus.items())]},
            footer_avg_bus_bw=test.footer_avg_bus_bw, out_of_bounds=test.out_of_bounds)
        wrong = [case.n_wrong for case in test.cases if case.n_wrong is not None]
        end = End(status=test.status, reason=test.reason, n_wrong=sum(wrong) if wrong else None)
        file, state = write_imported(folder, run, test.cases, end)
        size = "unknown" if test.world_size is None else test.world_size
        rows = max(sum(case.in_place == place for case in test.cases) for place in (False, True))
        note = "" if state == "new" else f" ({state})"
        print(f"{test.format} {test.collective or 'unknown'}, {size} rank{'s' * (size != 1)}, "
              f"{rows} row{'s' * (rows != 1)}, {test.status}: {file}{note}")
