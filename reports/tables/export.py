"""`export`: the cases of stored runs as one table for other programs, in two formats."""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from reports.tables.sentences import left_out_lines
from reports.tables.step_buckets import STEPS, rows_with_steps, step_lines
from wiretax.common.program import complain
from wiretax.common.untrusted import spreadsheet_cell
from wiretax.record.case import CASE_KEY
from wiretax.record.frame import CELLS, read_rows
from wiretax.record.result import FUTURE, ResultError, content_of, is_future
from wiretax.record.schema import FIGURES
from wiretax.record.writing import write_whole

# The base unit of a figure by the end of its name, and the scale to it.
UNITS = {
    "_us": ("seconds", 1e-6),
    "_gb_s": ("bytes_per_second", 1e9),
    "_of_bound": ("ratio", 1.0),
    "_share": ("ratio", 1.0),
    "n_wrong": ("", 1.0),
}
# The parts of an estimate and of a summary that are gauges: the word in their names, and what each
# is.
PARTS = {
    "": ("", ""),
    "_median": ("", "Median over blocks: "),
    "_ci_low": ("low", "The low end of the 95 % interval in this launch: "),
    "_ci_high": ("high", "The high end of the 95 % interval in this launch: "),
}
OURS = b"# TYPE wiretax_"
LABELS = ("benchmark", "machine_id", "node", "world_size", "method", *CASE_KEY, "status")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("runs", metavar="RUN", nargs="+", type=Path, help="run files, and folders of them")
    kinds = parser.add_mutually_exclusive_group(required=True)
    kinds.add_argument("--csv", action="store_true", help="a row for each case")
    kinds.add_argument(
        "--openmetrics",
        action="store_true",
        help="gauges in base units with the time of each run, for Prometheus",
    )
    add(
        "--textfile",
        metavar="FILE",
        type=Path,
        help="with --openmetrics: replace this file of node_exporter's textfile collector, *.prom, "
        "by the newest figures without their times",
    )


def export(arguments: argparse.Namespace) -> int:
    """Writes the table. Returns 0. Raises ResultError if no run can be read, or if the text file
    cannot be written or is another program's."""
    if textfile := arguments.textfile:
        check_textfile(textfile, arguments.openmetrics)
    unreadable = list[str]()
    rows = read_rows(arguments.runs, unreadable, None if arguments.csv else rows_with_steps)
    future = list[dict[str, Any]]()
    if textfile:  # each would stay the newest, also a wrong one
        future = [row for row in rows if is_future(row["run_id"])]
        rows = [row for row in rows if not is_future(row["run_id"])]
    paths = sorted({Path(row["path"]) for row in future})
    for row in rows:
        del row["path"]  # readers elsewhere need not know the author's folders

    for sentence in unreadable:
        complain(f"left out: {sentence}")
    complain(*left_out_lines((path, FUTURE) for path in paths))

    content = (as_csv(rows) if arguments.csv else as_openmetrics(rows, bool(textfile))).encode()
    if textfile:
        write_whole(textfile, content)
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
    return 0


def as_csv(rows: Iterable[dict[Any, Any]]) -> str:
    """A header and these rows, in which no cell is a formula, without the columns that are empty
    throughout; empty without rows."""
    cells = [{name: spreadsheet_cell(value) for name, value in row.items()} for row in rows]
    table = pd.DataFrame(cells, dtype=object)
    table = table.loc[:, (table.notna() & (table != "")).any()]
    return table.to_csv(index=False, lineterminator="\n") if len(table) else ""


def check_textfile(path: Path, is_openmetrics: bool) -> None:
    """Raises ResultError for a file that node_exporter would not read, or another program's."""
    if not is_openmetrics:
        raise ResultError("--textfile takes --openmetrics")
    if path.suffix != ".prom" or not path.parent.is_dir():
        raise ResultError(f"{path}: node_exporter reads files *.prom in a folder that is there")
    if path.exists() and not content_of(path).startswith(OURS):
        raise ResultError(f"{path} is another program's: it does not begin with {OURS.decode()}")


def as_openmetrics(rows: Iterable[dict[str, Any]], is_textfile: bool = False) -> str:
    """Gauges and steps of measured cases in OpenMetrics 1.0. A series has a point for each run,
    oldest first, and one for two runs of the same second; in a text file the newest point without
    its time, which node_exporter refuses. Suspect figures have none."""
    # If the status were a label, the figure of a case that was wrong once would stay for ever.
    names = [label for label in LABELS if label != "status" or not is_textfile]
    cases, lines = [], list[str]()
    for row in rows:
        if row["started"] is None or row.get("suspect") or row["status"] == "unsupported":
            continue
        at_s = int(row["started"].timestamp())
        row["is_complete"] = row["run_status"] == "complete"
        if row["status"] != "not measured":
            row["measured_s"] = at_s
        if row["status"] == "ok" and not row["is_complete"]:  # fast, where requests failed
            row["status"] = row["run_status"]
        # JSON escapes a text as OpenMetrics does: what was read has no control characters.
        labels = ",".join(
            f"{label}={json.dumps(str(row[label]), ensure_ascii=False)}"
            for label in names
            if row.get(label) not in (None, "")
        )
        cases.append((labels, at_s, row))

    for name, column, unit, scale, meaning in gauges():
        lines += [
            f"# TYPE {name} gauge",
            *([f"# UNIT {name} {unit}"] if unit else []),
            f"# HELP {name} {meaning}",
        ]
        lines += [
            f"{name}{{{labels}}} {value * scale:.12g}{time}"
            for labels, time, value in points_of(cases, column, is_textfile)
        ]

    lines += step_lines([*points_of(cases, STEPS, is_textfile)], is_textfile)
    return "\n".join([*lines, "# EOF\n"])


def points_of(
    cases: Iterable[tuple[str, int, dict[str, Any]]], column: str, is_textfile: bool
) -> Iterator[tuple[str, str, Any]]:
    """The labels, the time and the value of each point in a column, of cases by their labels and
    their time in s."""
    series: dict[str, dict[int, Any]] = defaultdict(dict)
    for labels, at_s, row in cases:
        if row.get(column) is not None:
            series[labels][at_s] = row[column]
    for labels, points in series.items():
        for at_s in sorted(points)[-1 if is_textfile else 0 :]:
            yield labels, "" if is_textfile else f" {at_s}", points[at_s]


def gauges() -> Iterator[tuple[str, str, str, float, str]]:
    """The metrics of a case that schema.FIGURES names as gauges, with the ends of their intervals,
    and those of its run: of each the name, the column of its values, the base
    unit, the scale to it, and a sentence."""
    for field, shown in FIGURES.items():
        if not shown.gauge:
            continue
        unit, scale = next(UNITS[end] for end in UNITS if field.endswith(end))
        for part, (word, about) in PARTS.items():
            if field + part not in CELLS:
                continue
            name = "_".join(filter(None, ["wiretax", shown.gauge, word, unit]))
            yield name, field + part, unit, scale, f"{about}{shown.meaning}."
    about = "Start of the run that measured the case, since 1970."
    yield "wiretax_run_timestamp_seconds", "measured_s", "seconds", 1.0, about
    about = "1 if the run is complete, otherwise 0."
    yield "wiretax_run_complete", "is_complete", "", 1.0, about
