"""Writes the imports of logs with known figures, through the real store."""

from typing import Any

from reports.imports.logged import LoggedTest
from reports.imports.runs import content_of_run, run_of

DATE = "2026-11-20T06-15-00Z"


def write_log(folder, *rows, name="abc", status="complete", gpu="", hosts=1, date=DATE):
    """Writes a log of all-reduces of 16 KiB over two ranks. A row has its time `us`, its
    `n_wrong`, and fields of its case."""
    test = LoggedTest(
        "nccl-tests", 1, collective="all_reduce", world_size=2, hosts=hosts, status=status
    )
    test.library, test.gpus = "NCCL 2.29.2", {0: gpu, 1: gpu} if gpu else {}
    for row in rows:
        case: dict[str, Any] = {"size_bytes": 16384} | row
        test.add(1, case, time_us=case.pop("us"), n_wrong=case.pop("n_wrong", None))
    result = run_of([test], f"{date}-import-{name}-1", f"{name}.log", "rack-7", notes=[])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / result.path
    path.write_bytes(content_of_run(result))
    return path
