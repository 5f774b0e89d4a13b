"""Runs as a pandas DataFrame, a row per case or per block of a case: what `wiretax.load` returns.
docs/results.md describes the fields; units are in their names."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd

from reports.imports.imported import Imported, read_any
from reports.store.manifest import runs_by_time
from reports.store.result import ResultError, is_imported, read, time_of
from reports.store.schema import Result

LEVELS = "case", "block"
CASE_COLUMNS = ("collective", "algorithm", "chosen", "library", "variant", "memory", "size_bytes",
                "count", "datatype", "redop", "in_place", "mode", "shape", "status", "reason")
# A quantity of a case is a median over blocks; `_ci_low` and `_ci_high` end its 95 % interval.
QUANTITIES = ("time_us", "total_us", "consume_us", "chain_only_us", "arrival_skew_us", "compute_us",
              "exposed_us", "matmul_gflop_s", "matmul_alone_gflop_s")
FIGURES = ("alg_bw_gb_s", "bus_bw_gb_s", "bound_us", "share_of_bound", "n_wrong", "suspect",
           "state")
BLOCK_COLUMNS = ("block", "round", "n", "time_us", "mean_us", "total_us", "consume_us",
                 "chain_only_us", "arrival_skew_us", "matmul_gflop_s", "matmul_alone_gflop_s",
                 "n_wrong", "measure_s")


def load_frame(path: str | os.PathLike[str], level: str = "case") -> pd.DataFrame:
    """The runs of a file or below a folder. Imported logs have rows of cases alone. A folder's
    broken files are left out, and named in `attrs["unreadable"]`. Raises ValueError for an unknown
    level and where no run can be read."""
    if level not in LEVELS:
        raise ValueError(f"level is {level!r}, and must be one of: {', '.join(LEVELS)}")
    rows, unreadable = list[dict[str, Any]](), list[str]()
    paths = runs_by_time(Path(path)) if Path(path).is_dir() else [Path(path)]
    for file in paths:
        try:
            rows += block_rows(file) if level == "block" else case_rows(file)
        except ResultError as error:
            unreadable.append(str(error))
    if len(unreadable) == len(paths):
        raise ValueError(unreadable[0] if unreadable else f"{path} holds no run")
    frame = pd.DataFrame(rows).infer_objects()
    frame.attrs["unreadable"] = unreadable
    return frame


def case_rows(path: Path) -> Iterator[dict[str, Any]]:
    """A row per case. An imported log has no median: its `time_us` is the printed mean."""
    run = read_any(path)
    for case in run.cases:
        row = run_columns(run, path) | columns(case, ("case", *CASE_COLUMNS))
        for name in QUANTITIES:
            summary = getattr(case, name, None)
            median = summary and (summary.mean if summary.median is None else summary.median)
            row |= {name: median, f"{name}_ci_low": getattr(summary, "ci_low", None),
                    f"{name}_ci_high": getattr(summary, "ci_high", None)}
        yield row | columns(case, FIGURES)


def block_rows(path: Path) -> Iterator[dict[str, Any]]:
    """A row per measured block, with the columns of its case."""
    if is_imported(path):
        return
    run = read(path)
    for block in run.blocks:
        header = columns(run.run.cases[block.case], CASE_COLUMNS)
        before_ns, after_ns = block.link_rtt_ns or (None, None)
        row = run_columns(run, path) | {"case": block.case} | header | columns(block, BLOCK_COLUMNS)
        yield row | {"chosen": block.chosen or header["chosen"], "link_rtt_before_ns": before_ns,
                     "link_rtt_after_ns": after_ns}


def columns(record: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """These fields of a record, None for absent ones; a shape as JSON, which can be a key."""
    row = {name: getattr(record, name, None) for name in names}
    if row.get("shape") is not None:
        row["shape"] = msgspec.json.encode(row["shape"], order="sorted").decode()
    return row


def started_at(run_id: str) -> Any:
    """The time in a run_id, in UTC; NaT for an imported log, which has none."""
    started = time_of(run_id)
    return pd.Timestamp(started, tz="UTC") if started else pd.NaT


def run_columns(result: Result | Imported, path: Path) -> dict[str, Any]:
    """What all rows of a run share. `gpus`: the models of the ranks' GPUs, "" on CPUs."""
    run = result.run
    gpus = [rank.get("gpu") for rank in run.world.get("ranks", [])]
    names = ("run_id", "benchmark", "version", "machine_id", "software_id")
    return columns(run, names) | {
        "path": str(path), "started": started_at(run.run_id),
        "imported": isinstance(result, Imported), "ranks": run.world["size"],
        "gpus": ", ".join(sorted({gpu for gpu in gpus if gpu}))}
