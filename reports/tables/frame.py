"""Runs as flat rows, one per case or per block of a case: the table of `wiretax.load`, CSV, Parquet
and OpenMetrics. docs/results.md describes the fields; units are in their names."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from datetime import timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from reports.imports.imported import Imported, read_any
from reports.store.manifest import MANIFEST, run_files
from reports.store.result import ResultError, time_of
from reports.store.schema import Case, Range, Result, Summary

if TYPE_CHECKING:
    import pandas as pd

LEVELS = "case", "block"
# The parts of each field of a case that is a summary.
PARTS = {
    field.name: kind.__struct_fields__
    for field in msgspec.structs.fields(Case)
    for kind in (Summary, Range)
    if field.type == kind | None
}
# A row of a block has these fields of its case.
CASE_COLUMNS = (
    "collective",
    "algorithm",
    "chosen",
    "library",
    "variant",
    "memory",
    "size_bytes",
    "count",
    "datatype",
    "redop",
    "in_place",
    "mode",
    "shape",
    "status",
    "reason",
)
BLOCK_COLUMNS = (
    "block",
    "round",
    "n",
    "time_us",
    "mean_us",
    "total_us",
    "consume_us",
    "chain_only_us",
    "arrival_skew_us",
    "matmul_gflop_s",
    "matmul_alone_gflop_s",
    "n_wrong",
    "measure_s",
)


def load_frame(path: str | os.PathLike[str], level: str = "case") -> "pd.DataFrame":
    """The runs of a file or below a folder. Imported logs have rows of cases alone. A folder's
    broken files are left out, and named in `attrs["unreadable"]`. Raises ValueError for an unknown
    level, where no run can be read, and where no run has a block to show."""
    import pandas as pd  # takes 0.3 s, which a run's own table does not need

    if level not in LEVELS:
        raise ValueError(f"level is {level!r}, and must be one of: {', '.join(LEVELS)}")
    left_out = list[str]()
    try:
        rows_of = case_rows if level == "case" else block_rows
        rows = [
            row | {"path": str(run.path)}
            for run in read_runs([Path(path)], left_out)
            for row in rows_of(run)
        ]
    except ResultError as error:
        raise ValueError(str(error)) from error
    if not rows:
        raise ValueError(f"{path} has no {level} of a run")
    frame = pd.DataFrame(rows).infer_objects()
    frame.attrs["unreadable"] = left_out
    return frame


def read_runs(paths: Iterable[Path], left_out: list[str]) -> Iterator[Result | Imported]:
    """The runs of files and folders, each `run_id` once, by name and so by time. Adds a sentence to
    `left_out` for each file in a folder that cannot be read; raises ResultError for a named one,
    and without any run."""
    files, seen, paths = list[tuple[str, Path]](), set[str](), list(paths)
    for path in paths:
        if not path.is_dir():
            files.append((path.stem, path))
            continue
        for file, problem in run_files(path):
            if problem:
                left_out.append(f"{file.name}: {problem}")
            elif file.name != MANIFEST:
                files.append((file.stem, file))
    for _, file in sorted(files):
        try:
            run = read_any(file)
        except ResultError as error:
            if file in paths:
                raise
            left_out.append(f"{file.name}: {error}")
            continue
        if run.run.run_id not in seen:
            seen.add(run.run.run_id)
            yield run
    if not seen:
        raise ResultError("; ".join([f"{', '.join(map(str, paths))} holds no run", *left_out[:1]]))


def case_rows(run: Result | Imported) -> Iterator[dict[str, Any]]:
    """A row for each case: the facts of its run, and its cells."""
    facts, cells = run_facts(run), cells_of(run.cases)
    for values in zip(*cells.values(), strict=True):
        yield facts | dict(zip(cells, values, strict=True))


def block_rows(run: Result | Imported) -> Iterator[dict[str, Any]]:
    """A row for each measured block, with the columns of its case; none of an imported log."""
    if isinstance(run, Imported):
        return
    facts = run_facts(run)
    for block in run.blocks:
        header = run.run.cases[block.case]
        before_ns, after_ns = block.link_rtt_ns or (None, None)
        row = facts | {"case": block.case}
        row |= {name: as_cell(getattr(header, name)) for name in CASE_COLUMNS}
        row |= {name: getattr(block, name) for name in BLOCK_COLUMNS}
        yield row | {
            "chosen": block.chosen or header.chosen,
            "link_rtt_before_ns": before_ns,
            "link_rtt_after_ns": after_ns,
        }


def run_facts(run: Result | Imported) -> dict[str, Any]:
    """What all rows of a run share; None for what it lacks. Rows of imports name their log."""
    head, world, start = run.run, run.run.world, time_of(run.run.run_id)
    gpus = {rank["gpu"] for rank in world.get("ranks", []) if rank.get("gpu")}
    facts: dict[str, Any] = {
        "run_id": head.run_id,
        "started": start.replace(tzinfo=timezone.utc) if start else None,
        "benchmark": head.benchmark,
        "hosts": world.get("hosts"),
        "gpus": ", ".join(sorted(gpus)) or None,
        "world_size": world["size"],
    }
    names = (
        "imported_from",
        "statistic",
        "machine_id",
        "node",
        "software_id",
        "version",
        "slowed_percent",
    )
    facts |= dict.fromkeys(names)
    if isinstance(run, Imported):
        return facts | {
            "imported_from": run.run.imported_from.file,
            "statistic": run.run.statistic,
            "run_status": run.end.status,
        }
    return facts | {
        "machine_id": run.run.machine_id,
        "node": run.run.node,
        "software_id": run.run.software_id,
        "version": run.run.version,
        "slowed_percent": world.get("slowed_percent"),
        "run_status": run.end.status if run.end else "cut off",
    }


def cells_of(cases: Sequence[msgspec.Struct]) -> dict[str, list[Any]]:
    """The fields of the cases as columns of flat cells: a part of a summary is named
    `time_us_median`; lists and objects are JSON."""
    columns: dict[str, list[Any]] = {}
    for name in cases[0].__struct_fields__ if cases else ():
        values = [getattr(case, name) for case in cases]
        kinds = {type(value) for value in values}
        if name in PARTS and kinds == {type(None)}:
            columns |= {f"{name}_{part}": values for part in PARTS[name]}
        elif name in PARTS:
            columns |= {
                f"{name}_{part}": [getattr(value, part, None) for value in values]
                for part in PARTS[name]
            }
        else:
            columns[name] = list(map(as_cell, values)) if kinds & {list, dict} else values
    return columns


def as_cell(value: Any) -> Any:
    """Lists and objects as JSON, which can be a key; None for an empty list."""
    if not isinstance(value, list | dict):
        return value
    return json.dumps(value, default=msgspec.to_builtins, sort_keys=True) if value != [] else None
