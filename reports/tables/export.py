"""`export`: the cases of stored runs as one table for other programs, in three formats."""

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from reports.store.result import ResultError
from reports.store.untrusted import printable
from reports.store.writing import write_named
from reports.tables.formats import as_csv_text, as_table
from reports.tables.frame import case_rows, read_runs

# The metrics: the column, the name, the scale to base units and a sentence.
METRICS = (
    (
        "time_us_median",
        "wiretax_collective_time_seconds",
        1e-6,
        "Time of the collective alone, median over blocks, slowest rank.",
    ),
    (
        "time_us_ci_low",
        "wiretax_collective_time_low_seconds",
        1e-6,
        "Lower end of its 95 % interval in this launch.",
    ),
    (
        "time_us_ci_high",
        "wiretax_collective_time_high_seconds",
        1e-6,
        "Upper end of its 95 % interval in this launch.",
    ),
    (
        "total_us_median",
        "wiretax_collective_total_seconds",
        1e-6,
        "Time of the collective and of reading its result, median over blocks, slowest rank.",
    ),
    (
        "bus_bw_gb_s",
        "wiretax_bus_bandwidth_bytes_per_second",
        1e9,
        "Bus bandwidth as nccl-tests defines it.",
    ),
    (
        "share_of_bound",
        "wiretax_share_of_bound_ratio",
        1.0,
        "Time of the bound over the time of the collective alone.",
    ),
    ("n_wrong", "wiretax_wrong_elements", 1.0, "Elements with wrong bits."),
)
UNITS = "bytes_per_second", "seconds", "ratio"
LABELS = (
    "benchmark",
    "machine_id",
    "node",
    "world_size",
    "collective",
    "size_bytes",
    "datatype",
    "redop",
    "mode",
    "variant",
    "memory",
    "in_place",
    "algorithm",
    "library",
    "shape",
    "status",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("runs", metavar="RUN", nargs="+", type=Path, help="run files, and folders of them")
    kinds = parser.add_mutually_exclusive_group(required=True)
    kinds.add_argument("--csv", action="store_true", help="a row for each case")
    kinds.add_argument("--parquet", action="store_true", help="the same (pip install pyarrow)")
    kinds.add_argument(
        "--openmetrics",
        action="store_true",
        help="gauges in base units with the time of each run, for Prometheus",
    )
    add("-o", "--out", metavar="FILE", type=Path, help="the file (standard output)")


def export(arguments: argparse.Namespace) -> int:
    """Writes the table. Returns 0. Raises ResultError if no run can be read, and without pyarrow
    for Parquet."""
    left_out = list[str]()
    rows = [row for run in read_runs(arguments.runs, left_out) for row in case_rows(run)]
    for sentence in left_out:
        print(f"reports: left out: {printable(sentence)}", file=sys.stderr)
    if arguments.parquet:
        content = as_parquet(rows)
    elif arguments.csv:
        content = as_csv_text(rows).encode()
    else:
        content = as_openmetrics(rows).encode()
    if arguments.out:
        write_named(arguments.out, content)
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
    return 0


def as_parquet(rows: Sequence[dict[str, Any]]) -> bytes:
    """The table as Parquet. Raises ResultError without pyarrow."""
    try:
        content: bytes = as_table(rows).to_parquet(index=False)
    except ImportError as error:
        raise ResultError("Parquet needs pyarrow: python -m pip install pyarrow") from error
    return content


def as_openmetrics(rows: Iterable[dict[str, Any]]) -> str:
    """Gauges of measured cases in OpenMetrics 1.0. A series has a point for each run, oldest
    first, and one for two runs of the same second. Imports, suspect figures and runs that were
    slowed on purpose have none."""
    series: dict[str, dict[str, dict[int, float]]] = {
        name: defaultdict(dict) for _, name, _, _ in METRICS
    }
    for row in rows:
        is_imported_or_slowed = row.get("imported_from") or row.get("slowed_percent")
        if row["started"] is None or is_imported_or_slowed or row.get("suspect"):
            continue
        at_s = int(row["started"].timestamp())
        labels = ",".join(
            f'{label}="{_escaped(str(row[label]))}"'
            for label in LABELS
            if row.get(label) is not None
        )
        for column, name, scale, _ in METRICS:
            if row.get(column) is not None:
                series[name][labels][at_s] = row[column] * scale
    lines = []
    for _, name, _, sentence in METRICS:
        unit = next((unit for unit in UNITS if name.endswith(f"_{unit}")), None)
        lines += [
            f"# TYPE {name} gauge",
            *([f"# UNIT {name} {unit}"] if unit else []),
            f"# HELP {name} {sentence}",
        ]
        lines += [
            f"{name}{{{labels}}} {value:.12g} {at_s}"
            for labels, points in series[name].items()
            for at_s, value in sorted(points.items())
        ]
    return "\n".join([*lines, "# EOF\n"])


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
