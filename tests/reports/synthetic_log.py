"""Writes the imports of logs with known figures, through the real store."""

from typing import Any

from reports.imports.imported import (
    ImportedCase,
    ImportedFrom,
    ImportedRun,
    ImportedSummary,
    write_imported,
)
from reports.store.schema import End

COMPLETE = End(status="complete")


def write_log(folder, *rows, name="abc", end=COMPLETE, **world):
    """Writes a log of all-reduces of 16 KiB over two ranks. A row has its mean time `us`, and other
    fields of a case; `world` replaces fields of the world."""
    about: Any = {"size": 2, "hosts": 1, "ranks": []} | world
    run = ImportedRun(
        run_id=f"import-{name}-1",
        benchmark="nccl-tests all_reduce",
        statistic="mean over iterations",
        world=about,
        imported_from=ImportedFrom(
            file=f"{name}.log", format="nccl-tests", first_line=1, last_line=9
        ),
    )
    cases = []
    for number, row in enumerate(rows):
        fields = {"case": number, "collective": "all_reduce", "size_bytes": 16384} | row
        cases.append(ImportedCase(time_us=ImportedSummary(mean=fields.pop("us")), **fields))
    return write_imported(folder, run, cases, end)[0]
