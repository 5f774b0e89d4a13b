"""Runs as flat rows, one per case or per block of a case: the table of `wiretax.load`, CSV, Parquet
and OpenMetrics. docs/results.md describes the fields; units are in their names."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from datetime import timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import msgspec

from reports.imports.imported import Imported, read_any
from reports.store.folder import COPY, read_store
from reports.store.result import ImportedRunError, ResultError, time_of
from reports.store.schema import Block, Case, CaseFields, Range, Result, Summary

if TYPE_CHECKING:
    import pandas as pd

LEVELS = "case", "block"
# The parts of each field of a case that is a summary.
PARTS = {
    name: kind.__struct_fields__
    for name, hint in get_type_hints(Case).items()
    for kind in (Summary, Range)
    if hint == kind | None
}


def load_frame(path: str | os.PathLike[str], level: str = "case") -> "pd.DataFrame":
    """The runs of a file or below a folder. Imported logs have rows of cases alone. A folder's
    broken files are left out, and named in `attrs["unreadable"]`. Raises ValueError for an unknown
    level, where no run can be read, and where no run has a block to show."""
    import pandas as pd  # takes 0.3 s, which a run's own table does not need

    if level not in LEVELS:
        raise ValueError(f"level is {level!r}, and must be one of: {', '.join(LEVELS)}")

    rows_of = case_rows if level == "case" else block_rows
    unreadable = list[str]()

    try:
        rows = [
            row | {"path": str(run.path)}
            for run, left_out in read_runs([Path(path)], unreadable)
            for row in rows_of(run, left_out)
        ]
    except ResultError as error:
        raise ValueError(str(error)) from error

    if not rows:
        raise ValueError(f"{path} has no {level} of a run")

    frame = pd.DataFrame(rows).infer_objects()
    frame.attrs["unreadable"] = unreadable
    return frame


def read_runs(
    paths: Iterable[Path], unreadable: list[str]
) -> Iterator[tuple[Result | Imported, str]]:
    """The runs of files and folders, each `run_id` once, and why reports on many runs leave a run
    of a folder out. Adds a sentence to `unreadable` for each file in a folder that cannot be read;
    raises ResultError for a named one, and without any run."""
    seen, paths = set[str](), list(paths)
    for path in paths:
        for file, left_out in _files_of(path, unreadable):
            run = read_any(file)
            if run.run.run_id not in seen:
                seen.add(run.run.run_id)
                yield run, left_out

    if not seen:
        names = ", ".join(map(str, paths))
        raise ResultError("; ".join([f"{names} holds no run", *unreadable[:1]]))


def _files_of(path: Path, unreadable: list[str]) -> Iterator[tuple[Path, str]]:
    """The file, or a folder's files with runs and imported logs, without copies."""
    if not path.is_dir():
        yield path, ""
        return

    store = read_store(path)
    unreadable += [f"{file.name}: {problem}" for file, problem in store.problems]

    for entry in store.entries:
        if entry.left_out != COPY:
            yield entry.path, entry.left_out

    for file, error in store.refused:
        if isinstance(error, ImportedRunError):
            yield file, ""
        else:
            unreadable.append(f"{file.name}: {error}")


def case_rows(run: Result | Imported, left_out: str = "") -> Iterator[dict[str, Any]]:
    """A row for each case: the facts of its run, and its cells."""
    facts, cells = run_facts(run, left_out), cells_of(run.cases)
    for values in zip(*cells.values(), strict=True):
        yield facts | dict(zip(cells, values, strict=True))


def block_rows(run: Result | Imported, left_out: str = "") -> Iterator[dict[str, Any]]:
    """A row for each measured block, with the columns of its case; none of an imported log."""
    if isinstance(run, Imported):
        return

    facts, planned = run_facts(run, left_out), cells_of(run.run.cases)
    of_case = {name: planned[name] for name in CaseFields.__struct_fields__}

    for block in run.blocks:
        own = {name: as_cell(getattr(block, name)) for name in Block.__struct_fields__}
        before_ns, after_ns = block.link_rtt_ns or (None, None)
        trips = {"link_rtt_before_ns": before_ns, "link_rtt_after_ns": after_ns}
        row = facts | {name: values[block.case] for name, values in of_case.items()} | own | trips
        del row["link_rtt_ns"]
        yield row | {"chosen": block.chosen or run.run.cases[block.case].chosen}


def run_facts(run: Result | Imported, left_out: str = "") -> dict[str, Any]:
    """What all rows of a run share; None for what it lacks. Rows of imports name their log."""
    head, world, start = run.run, run.run.world, time_of(run.run.run_id)
    gpus = {rank["gpu"] for rank in world.get("ranks", []) if rank.get("gpu")}
    names = ("statistic", "machine_id", "node", "software_id", "version")
    return {
        "run_id": head.run_id,
        "started": start.replace(tzinfo=timezone.utc) if start else None,
        "benchmark": head.benchmark,
        "hosts": world.get("hosts"),
        "gpus": ", ".join(sorted(gpus)) or None,
        "world_size": world["size"],
        "imported_from": run.run.imported_from.file if isinstance(run, Imported) else None,
        **{name: getattr(head, name, None) for name in names},
        "slowed_percent": world.get("slowed_percent"),
        "run_status": run.end.status if run.end else "cut off",
        "left_out": left_out or None,
    }


def cells_of(cases: Sequence[msgspec.Struct]) -> dict[str, list[Any]]:
    """The fields of the cases as columns of flat cells: a part of a summary is named
    `time_us_median`; lists and objects are JSON."""
    columns: dict[str, list[Any]] = {}
    for name in cases[0].__struct_fields__ if cases else ():
        values = [getattr(case, name) for case in cases]
        if name not in PARTS:
            columns[name] = list(map(as_cell, values))
            continue
        for part in PARTS[name]:
            columns[f"{name}_{part}"] = [getattr(value, part, None) for value in values]

    return columns


def as_cell(value: Any) -> Any:
    """Lists and objects as JSON, which can be a key; None for an empty list."""
    if not isinstance(value, list | dict | tuple | msgspec.Struct):
        return value

    return json.dumps(value, default=msgspec.to_builtins, sort_keys=True) if value != [] else None
