"""`import`: logs of other benchmarks into the store, an ordinary run file for each test."""

import argparse
import hashlib
import re
from collections.abc import Sequence
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

from reports.imports.formats import NAMES
from reports.imports.logged import LoggedTest, collective_of
from reports.imports.runs import content_of_run, digest_of, find_tests, run_of
from wiretax.common.arguments import whole_number
from wiretax.common.program import complain, write_json
from wiretax.common.untrusted import MOST_BYTES, printable
from wiretax.record.case import BUS_FACTORS, UNKNOWN
from wiretax.record.result import ResultError, content_of
from wiretax.record.schema import UNDATED
from wiretax.record.writing import write_whole

UNSAID = {
    "collective": "--collective NAME",
    "ranks": "--ranks N (without it no busbw)",
    "machine": "--machine NAME (without it comparable with no other log)",
}
MACHINE = "[A-Za-z][A-Za-z0-9._-]{0,63}"  # also a folder of `accept`


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files",
        metavar="FILE",
        nargs="+",
        type=Path,
        help=f"a log of at most {MOST_BYTES // 10**6} MB: {NAMES}",
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        default=Path("results"),
        help="folder of the run files (results/)",
    )
    parser.add_argument(
        "--ranks",
        metavar="N",
        type=partial(whole_number, 1, most=10**9 - 1),
        help="the number of ranks, where a log does not say",
    )
    parser.add_argument(
        "--collective",
        metavar="NAME",
        type=lambda text: collective_of(text) or text,
        choices=[*BUS_FACTORS],
        help="the collective, where a log does not say: %(choices)s",
    )
    parser.add_argument(
        "--machine",
        metavar="NAME",
        help="the machine of these logs (a hash of its GPUs; a log that names none has its own)",
    )


def import_logs(arguments: argparse.Namespace) -> int:
    """Writes and prints the run files. Raises ResultError if the folder is not writable."""
    if arguments.machine is not None and not re.fullmatch(MACHINE, arguments.machine):
        raise ResultError(f"--machine {printable(arguments.machine)!r} is not a name like rack-7")

    status, records = 0, list[dict[str, Any]]()
    for path in arguments.files:
        try:
            tests = find_tests(path, content := content_of(path))
            unread = sorted({line for test in tests for line in test.unread})
            refusal = next((test.refusal for test in tests if test.refusal), "")
            if unread and not any(test.rows for test in tests):
                raise ResultError(
                    f"{path}: none of its {len(unread)} rows can be read, from line {unread[0]} "
                    f"on: wanted are the figures below their heading as {tests[0].format} prints "
                    f"them{refusal and f'; {refusal}'}"
                )
            records += store(tests, path, content, arguments)
        except ResultError as error:
            complain(str(error))
            status = 2
            continue
        if unread:
            numbers = ", ".join(map(str, unread[:20]))
            reason = refusal and f"; the first: {refusal}"
            listed = f"rows that could not be read: {numbers} ({len(unread)} in all){reason}"
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
    Raises ResultError, before it writes anything, for a test whose run no report would read."""
    digest = hashlib.sha256(content).hexdigest()[:12]
    written = datetime.fromtimestamp(path.stat().st_mtime, timezone.utc)
    runs, records = dict[Path, bytes](), list[dict[str, Any]]()
    for place, test in enumerate(tests, 1):
        test.world_size = test.world_size or arguments.ranks
        test.collective = test.collective or arguments.collective
        name = f"import-{digest}-{place:04}"
        run_id = f"{test.date or written:%Y-%m-%dT%H-%M-%SZ}-{name}"
        if not test.date:  # a copy of the log may have another date
            run_id = next(
                (file.stem for file in arguments.out.glob(f"[0-9]*Z-{name}.jsonl")), run_id
            )
        notes = [] if test.date else [UNDATED]
        # Logs that name no GPU may be of any two machines.
        gpus = sorted({*test.gpus.values()})
        machine_id = arguments.machine or digest_of(*(gpus or [digest]))
        run = run_of([test], run_id, printable(path.name), machine_id, notes=notes)
        file = arguments.out / run.path
        runs[file] = content_of_run(run)
        records.append(
            {
                "log": printable(path.name),
                "file": str(file),
                "format": test.format,
                "collective": test.collective,
                "machine": arguments.machine or " and ".join(gpus),
                "ranks": test.world_size,
                "rows": len({row.line for row in test.rows}),
                "status": test.status,
                "reason": test.reason,
                "unread": test.unread,
            }
        )

    for file, run_content in runs.items():
        write_whole(file, run_content)

    return records


def sentence(record: dict[str, Any]) -> str:
    """A line: `a.log: nccl-tests all_reduce: ranks 2, rows 25, complete: FILE`, and what to add for
    facts that the log does not say."""
    test = f"{record['log']}: {record['format']} {record['collective'] or UNKNOWN}"
    facts = f"ranks {record['ranks'] or UNKNOWN}, rows {record['rows']}, {record['status']}"
    unsaid = [option for name, option in UNSAID.items() if not record[name]]
    wanted = f"; add what the log does not say: {' '.join(unsaid)}" if unsaid else ""
    return f"{test}: {facts}: {record['file']}{wanted}\n"
