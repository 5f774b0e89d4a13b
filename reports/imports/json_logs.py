"""Parses the JSON report of nccl-tests (`-J`), up to its version 3."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from reports.imports import logged
from reports.imports.imported import ImportedCase, ImportedSummary
from reports.imports.logged import LoggedTest, collective_of, number, whole_number
from reports.imports.nccl_rows import CPU_TIME, MEAN, TYPES
from reports.store.foreign import printable

NO_FIGURE = ("None", "N/A", "nan", "-nan", "inf", "-inf")
FALSE = ("false", False)


def parse_json(text: str) -> LoggedTest | None:
    """The test in the report; None for other JSON. Raises msgspec.DecodeError for other text."""
    report = msgspec.json.decode(text)
    try:
        return _test(report, text.count("\n") + 1)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def _test(report: dict[str, Any], n_lines: int) -> LoggedTest:
    rows, program = report["results"], (report.get("args") or [""])[0].rpartition("/")[2]
    base, suffix, _ = program.partition("_perf")
    name = collective_of(base.removesuffix("_test")) if suffix else None
    test = LoggedTest("nccl-tests JSON", 1, n_lines, f"nccl-tests {name}" if name else "nccl-tests",
                      MEAN, name)
    version = whole_number(str(report.get("nccl_version")))
    test.library = None if version is None else logged.nccl_version(version)
    _set_ranks(test, report["config"])
    for position, row in enumerate(rows, 1):
        for in_place, half in ((False, row.get("out_of_place")), (True, row.get("in_place"))):
            if half is None:
                continue
            test.statistic = CPU_TIME if "cpu_time" in half else MEAN
            case = _case(test, row, in_place, half)
            if case is not None:
                test.add(case)
            else:
                test.unread.append(position)
    _set_status(test, report)
    return test


def _set_ranks(test: LoggedTest, config: dict[str, Any]) -> None:
    """nccl-tests lists only the first GPU of each process; other writers list every rank."""
    devices = config.get("devices") or []
    test.gpus = {_index(device["rank"]): printable(device.get("device_info") or "")
                 for device in devices}
    ranks = list(test.gpus)
    per_process = _index(config.get("nthreads", 1)) * _index(config.get("ngpus", 1))
    is_one_group = len({device.get("group", 0) for device in devices}) == 1
    steps = [step for step in (per_process, 1) if is_one_group
             and ranks == [step * position for position in range(len(ranks))]]
    test.world_size = len(ranks) * steps[0] if steps else None


def _set_status(test: LoggedTest, report: dict[str, Any]) -> None:
    bounds, average = report.get("out_of_bounds"), report.get("average_bus_bandwidth")
    if bounds:
        verdict = "OK" if bounds.get("okay") in ("true", True) else "FAILED"
        test.out_of_bounds = f"{_index(bounds['count'])} {verdict}"
    bandwidth = average if isinstance(average, dict) else {}
    test.footer_avg_bus_bw = number(str(bandwidth.get("bandwidth")))
    has_failed = "FAILED" in (test.out_of_bounds or "") or bandwidth.get("okay") in FALSE
    if has_failed or report.get("errors"):
        test.end("failed", "the run itself says so")
    elif average is None:
        test.end("incomplete", "the report ends before the test does")
    elif not test.cases:
        test.end("incomplete", logged.NO_ROWS)


def _index(value: Any) -> int:
    """A small whole number or its text. Raises ValueError for anything else."""
    if not re.fullmatch(r" *-?\d{1,9}", str(value)):
        raise ValueError(value)
    return int(value)


def _case(test: LoggedTest, row: dict[str, Any], in_place: bool,
          half: dict[str, Any]) -> ImportedCase | None:
    """The case of a half; None if its time or another value is impossible."""
    texts = {"time": str(half.get("cpu_time", half.get("time")))}
    texts |= {name: str(half.get(name)) for name in ("alg_bw", "bus_bw")}
    figures = {name: number(text) for name, text in texts.items()}
    size, count, wrong = (logged.count_of(str(value)) for value in
                          (row["size"], row.get("count"), half.get("nwrong")))
    is_damaged = any(figures[name] is None and text not in NO_FIGURE
                     for name, text in texts.items())
    is_damaged |= any(value is None and raw not in (None, "N/A") for raw, value in
                      ((row.get("count"), count), (half.get("nwrong"), wrong)))
    if figures["time"] is None or size is None or is_damaged:
        return None
    datatype, redop, root = row.get("type"), row.get("redop"), row.get("root")
    return ImportedCase(
        case=0, collective=test.collective, in_place=in_place, size_bytes=size, count=count,
        datatype=TYPES.get(datatype, printable(datatype)) if datatype else None,
        redop=printable(redop) if redop else None, root=None if root is None else _index(root),
        time_us=ImportedSummary(mean=figures["time"],
                                n=whole_number(str(row.get("actual_iterations")))),
        n_wrong=wrong, alg_bw_gb_s=figures["alg_bw"], bus_bw_gb_s=figures["bus_bw"])
