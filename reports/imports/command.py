"""`import`: logs of other benchmarks into the store, an ordinary run file for each test."""

import argparse
import hashlib
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from reports.imports.logged import LoggedTest
from reports.imports.runs import FORMATS, content_of_run, find_tests, run_of
from reports.store.program import complain, write_json
from reports.store.result import ResultError, content_of
from reports.store.untrusted import MOST_BYTES, printable
from reports.store.writing import write_whole


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
    parser.add_argument(
        "--ranks", metavar="N", type=int, help="the number of ranks, where a log does not say"
    )


def import_logs(arguments: argparse.Namespace) -> int:
    """Writes and prints the run files. Raises ResultError if the folder is not writable."""
    if arguments.ranks is not None and not 0 < arguments.ranks < 10**9:
        raise ResultError(f"--ranks {arguments.ranks} is not a number of ranks")

    status, records = 0, list[dict[str, Any]]()
    for path in arguments.files:
        try:
            tests = find_tests(path, content := content_of(path))
            records += store(tests, path, content, arguments)
        except ResultError as error:
            complain(str(error))
            status = 2
            continue
        if unread := sorted({line for test in tests for line in test.unread}):
            numbers = ", ".join(map(str, unread[:20]))
            listed = f"rows that could not be read: {numbers} ({len(unread)} in all)"
            complain(f"{path}: {listed}")

        for note in dict.fromkeys(note for test in tests for note in test.notes):
            complain(f"{path}: {note}")

    if arguments.json:
        write_json("import", tests=records)
    else:
        print("".join(map(sentence, records)), end="")

    return status


def store(
    tests: Sequence[LoggedTest], path: Path, content: bytes, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """Writes the run file of each test in the log at `path`. Returns their records for `--json`.
    Raises ResultError, before it writes anything, for a test that lacks the number of ranks, and
    for one whose run no report would read."""
    digest = hashlib.sha256(content).hexdigest()[:12]
    written = datetime.fromtimestamp(path.stat().st_mtime, timezone.utc)
    runs = dict[Path, bytes]()
    for place, test in enumerate(tests, 1):
        test.world_size = test.world_size or arguments.ranks
        name = f"import-{digest}-{place:04}"
        run_id = f"{test.date or written:%Y-%m-%dT%H-%M-%SZ}-{name}"
        if not test.date:  # a copy of the log may have another date
            run_id = next(
                (file.stem for file in arguments.out.glob(f"[0-9]*Z-{name}.jsonl")), run_id
            )
        notes = [] if test.date else ["The log has no date: the run has that of its file."]
        run = run_of([test], run_id, printable(path.name), notes=notes)
        runs[arguments.out / run.path] = content_of_run(run)

    for file, run_content in runs.items():
        write_whole(file, run_content)

    return [
        {
            "log": printable(path.name),
            "file": str(file),
            "format": test.format,
            "collective": test.collective,
            "ranks": test.world_size,
            "rows": len({row.line for row in test.rows}),
            "status": test.status,
            "reason": test.reason,
            "unread": test.unread,
        }
        for test, file in zip(tests, runs, strict=True)
    ]


def sentence(record: dict[str, Any]) -> str:
    """A line: `a.log: nccl-tests all_reduce: ranks 2, rows 25, complete: FILE`."""
    test = f"{record['log']}: {record['format']} {record['collective'] or 'unknown'}"
    ranks = record["ranks"] or "unknown (no busbw: --ranks N says how many)"
    return f"{test}: ranks {ranks}, rows {record['rows']}, {record['status']}: {record['file']}\n"
