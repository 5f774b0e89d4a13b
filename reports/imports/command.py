"""`import`: logs of other benchmarks into the store, a run file for each test.

Exit status: 0 when every file's tests are in the store, also where lines that look like data could not be read (each is
reported with its number); 2 when a file could not be read or is of no known format, the other files being imported all
the same.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import msgspec

from reports.imports.imported import ImportedFrom, ImportedRank, ImportedRun, write_imported
from reports.imports.json_logs import parse_json
from reports.imports.logged import LoggedTest, cleaned
from reports.imports.mpi import parse_imb, parse_osu
from reports.imports.nccl_tests import parse_nccl
from reports.store.foreign import MOST_BYTES, printable
from reports.store.result import ResultError, content_of
from reports.store.schema import End

FORMATS = "nccl-tests and rccl-tests (text or JSON), NCCL 1.x, mscclpp-test, OSU, IMB"
MOST_REPORTED = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `import` takes."""
    parser.add_argument("files", metavar="FILE", nargs="+", type=Path,
                        help=f"a log, at most {MOST_BYTES // 10**6} MB: {FORMATS}".replace("%", "%%"))
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("results"),
                        help="folder of the run files (results/)")


def import_logs(arguments: argparse.Namespace) -> int:
    """Writes the run files, a line printed for each; the exit status. Raises ResultError for a DIR not to write in."""
    status = 0
    for path in arguments.files:
        name = printable(str(path))
        try:
            content = content_of(path)
            tests = find_tests(path, content)
            if not tests:
                raise ResultError(f"{path} is not a known format; known are {FORMATS}")
        except ResultError as error:
            print(f"reports: {printable(str(error))}", file=sys.stderr)
            status = 2
            continue
        for line in store(path, content, tests, arguments.out):
            print(line)
        unread = sorted({at for test in tests for at in test.unread})
        kind = "result" if tests[0].format.endswith("JSON") else "line"
        for at in unread[:MOST_REPORTED]:
            print(f"reports: {name}, {kind} {at}: looks like data and could not be read", file=sys.stderr)
        if unread:
            more = f", {len(unread) - MOST_REPORTED} of them not listed" if len(unread) > MOST_REPORTED else ""
            print(f"reports: {name}: {len(unread)} {kind}s look like data and could not be read{more}", file=sys.stderr)
    return status


def find_tests(path: Path, content: bytes) -> list[LoggedTest]:
    """The tests in the log, in order; none for an unknown format. Raises ResultError for what is empty or not text, or
    is JSON that is cut off or not of nccl-tests."""
    if not content.strip(b"\0 \t\r\n"):
        raise ResultError(f"{path} is empty")
    text = decoded(path, content)
    lines = text.split("\n")
    if text.lstrip()[:1] == "{":
        try:
            test = parse_json(text.strip())
        except (msgspec.DecodeError, RecursionError) as error:
            raise ResultError(f"{path} is JSON that is cut off or damaged ({error})") from error
        if test is None:
            raise ResultError(f"{path} is JSON, but not what nccl-tests writes for -J")
        return [test]
    clean = [cleaned(line) for line in lines]
    tests = sorted([*parse_nccl(clean, lines), *parse_osu(clean), *parse_imb(clean)], key=lambda test: test.first_line)
    for test, after in pairwise(tests):
        test.unread = [at for at in test.unread if at < after.first_line]
    if tests:
        drop_a_cut_row(tests[-1], clean)
    return tests


def drop_a_cut_row(test: LoggedTest, lines: Sequence[str]) -> None:
    """Where the log's last line has no end, and is a row whose last figure has fewer decimals than the row above it,
    that figure was cut off: the row counts as unread. A whole number that was cut off is not seen."""
    whole = [case for case in test.cases if case.line != len(lines)]
    if whole and len(whole) < len(test.cases):
        last, above = (lines[at - 1].split()[-1].partition(".")[2] for at in (len(lines), whole[-1].line or 0))
        if len(last) < len(above):
            test.cases = whole
            test.unread.append(len(lines))
    if len(lines) in test.unread and test.status == "complete":
        test.status, test.reason = "incomplete", "the log ends within a row"


def decoded(path: Path, content: bytes) -> str:
    """The text, in UTF-8, UTF-16 (by its mark, or every other byte of the first kilobyte being NUL), else Latin-1,
    without the NULs that a crash leaves at a file's end. Raises ResultError for what is no text."""
    head = content[:1024]
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return content.decode("utf-16", errors="replace").rstrip("\0")
    for encoding, first in (("utf-16-le", 0), ("utf-16-be", 1)):
        if all(head[first::2]) and head[1 - first :: 2] and not any(head[1 - first :: 2]):
            return content.decode(encoding, errors="replace").rstrip("\0")
    content = content.rstrip(b"\0")
    if b"\0" in content:
        raise ResultError(f"{path} is binary, not a log")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def store(path: Path, content: bytes, tests: Iterable[LoggedTest], folder: Path) -> Iterable[str]:
    """Writes the run files; of each the line to print."""
    digest = hashlib.sha256(content).hexdigest()[:12]
    for position, test in enumerate(tests, 1):
        origin = ImportedFrom(file=printable(path.name), format=test.format, first_line=test.first_line,
                              last_line=test.last_line)
        ranks: list[ImportedRank] = [{"rank": rank, "gpu": gpu} for rank, gpu in sorted(test.gpus.items())]
        run = ImportedRun(run_id=f"import-{digest}-{position}", benchmark=test.benchmark, imported_from=origin,
                          statistic=test.statistic, world={"size": test.world_size, "ranks": ranks},
                          footer_avg_bus_bw=test.footer_avg_bus_bw, out_of_bounds=test.out_of_bounds)
        wrong = [case.n_wrong for case in test.cases if case.n_wrong is not None]
        end = End(status=test.status, reason=test.reason, n_wrong=sum(wrong) if wrong else None)
        written, how = write_imported(folder, run, test.cases, end)
        size = "unknown ranks" if test.world_size is None else f"{test.world_size} rank{'s' * (test.world_size != 1)}"
        rows = max(sum(case.in_place == place for case in test.cases) for place in (False, True))
        yield (f"{test.format} {test.collective or 'unknown'}, {size}, {rows} row{'s' * (rows != 1)}, {test.status}: "
               f"{written}{'' if how == 'new' else f' ({how})'}")
