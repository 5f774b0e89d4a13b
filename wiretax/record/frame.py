"""Runs as flat rows, one per case: the table of `wiretax.load`, CSV and
OpenMetrics. docs/results.md describes the fields; units are in their names."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_type_hints

import pandas as pd

from wiretax.record import packed
from wiretax.record.folder import read_store
from wiretax.record.observations import method_of
from wiretax.record.result import ResultError, read, time_of
from wiretax.record.schema import Case, Estimate, Result, Summary

Row = dict[str, Any]
# The fields of a case that are summaries.
SUMMARIES = [name for name, hint in get_type_hints(Case).items() if hint == Summary | None]
ESTIMATES = [name for name, hint in get_type_hints(Case).items() if hint == Estimate | None]
PARTS_OF = dict.fromkeys(SUMMARIES, Summary) | dict.fromkeys(ESTIMATES, Estimate)
# The flat cells of a case: a field, and a part of a summary or an estimate, as `time_us_median` or
# `step_p99_us_ci_low`. The value of an estimate has the name of its field.
CELLS = {
    f"{field}_{part}" if part not in ("", "value") else field: (field, part)
    for field in Case.__struct_fields__
    if field != "theirs"
    for part in (PARTS_OF[field].__struct_fields__ if field in PARTS_OF else ("",))
}


def load_frame(path: str | os.PathLike[str]) -> pd.DataFrame:
    """The cases of the runs of a file, below a folder or in an archive. A folder's broken files are
    left out, and named in `attrs["unreadable"]`. Raises ValueError where no run can be read."""
    unreadable = list[str]()
    try:
        rows = read_rows([Path(path)], unreadable)
    except ResultError as error:
        raise ValueError(str(error)) from error

    frame = pd.DataFrame(rows).infer_objects()
    frame.attrs["unreadable"] = unreadable
    return frame


def read_rows(
    paths: Sequence[Path],
    unreadable: list[str],
    rows_of: Callable[[Result], Iterable[Row]] | None = None,
) -> list[Row]:
    """The rows of the runs of files and folders, by `case_rows` or `rows_of`, each `run_id` once;
    those of a folder say in `left_out` why reports on many runs leave their run out. Adds a
    sentence to `unreadable` for each file in a folder that cannot be read; raises ResultError for a
    named one, and without any run."""
    rows: dict[str, list[Row]] = {}
    for path in paths:
        left_out, is_folder = {path: ""}, packed.is_folder(path)
        if is_folder:
            store = read_store(path)
            unreadable += store.complaints
            left_out = {entry.path: entry.left_out for entry in store.entries}
        for file, why in left_out.items():
            try:
                run = read(file)
            except ResultError as error:  # deleted or replaced since it was listed
                if not is_folder:
                    raise
                unreadable.append(str(error))
                continue
            own = [row | {"left_out": why or None} for row in (rows_of or case_rows)(run)]
            rows.setdefault(run.run.run_id, own)

    if not rows:
        names = ", ".join(map(str, paths))
        raise ResultError("; ".join([f"{names} holds no run", *unreadable[:1]]))

    return [row for own in rows.values() for row in own]


def case_rows(run: Result) -> Iterator[Row]:
    """A row for each case: the facts of its run, None for what it lacks, and its cells. Rows of
    imports name their log, and have its percentiles, if it prints any, as `their_p99_us`."""
    head = run.run
    facts = {
        "run_id": head.run_id,
        "path": str(run.path),
        "started": time_of(head.run_id),
        "benchmark": head.benchmark,
        "hosts": head.world.get("hosts"),
        "gpus": ", ".join(sorted({*head.gpus})) or None,
        "world_size": head.world_size,
        "imported_from": head.imported_from or None,
        "machine_id": head.machine_id,
        "node": head.node,
        "software_id": head.software_id,
        "version": head.version,
        "method": method_of(head),
        "run_status": run.end.status if run.end else "cut off",
        "left_out": None,
    }
    for case in run.cases:
        row = dict(facts)
        for name, (field, part) in CELLS.items():
            value = getattr(case, field)
            if part:
                value = getattr(value, part, None)  # None without a summary
            elif isinstance(value, dict):
                value = json.dumps(value, sort_keys=True)  # which can be a key
            row[name] = value
        yield row | {f"their_{name}": us for name, us in (case.theirs or {}).items()}
