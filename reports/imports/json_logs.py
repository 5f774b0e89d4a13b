"""Parses the JSON report of nccl-tests (`-J`), up to its version 3."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from reports.imports import logged
from reports.imports.imported import ImportedCase
from reports.imports.logged import collective_of, count_of, number, whole_number
from reports.imports.nccl_end import make_case, set_status
from reports.imports.nccl_rows import FIGURE, TYPES, Draft, Stage
from reports.store.foreign import printable


def parse_json(text: str) -> Draft | None:
    """The test in the report; None for other JSON. Raises msgspec.DecodeError for other text."""
    report = msgspec.json.decode(text)
    try:
        return _test(report, text.count("\n") + 1)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def _test(report: dict[str, Any], n_lines: int) -> Draft:
    rows, program = report["results"], (report.get("args") or [""])[0].rpartition("/")[2]
    base, suffix, _ = program.partition("_perf")
    name = collective_of(base.removesuffix("_test")) if suffix else None
    test = Draft("nccl-tests JSON", 1, collective=name, last_line=n_lines)
    version = whole_number(str(report.get("nccl_version")))
    test.library = None if version is None else logged.nccl_version(version)
    _set_ranks(test, report["config"])
    for position, row in enumerate(rows, 1):
        for in_place, half in ((False, row.get("out_of_place")), (True, row.get("in_place"))):
            if half is None:
                continue
            test.statistic = logged.CPU_TIME if "cpu_time" in half else logged.MEAN
            case = _case(test, row, in_place, half)
            if case is not None:
                test.add(case)
            else:
                test.unread.append(position)
    bounds, average = report.get("out_of_bounds"), report.get("average_bus_bandwidth")
    if bounds:
        verdict = "OK" if bounds.get("okay") in ("true", True) else "FAILED"
        test.out_of_bounds = f"{_index(bounds['count'])} {verdict}"
    bandwidth = average if isinstance(average, dict) else {}
    test.footer_avg_bus_bw = number(str(bandwidth.get("bandwidth")))
    if bandwidth.get("okay") in ("false", False) or report.get("errors"):
        test.status = "failed"
    test.stage = Stage.ROWS if average is None else Stage.FOOTER
    set_status(test)
    return test


def _set_ranks(test: Draft, config: dict[str, Any]) -> None:
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


def _index(value: Any) -> int:
    """A small whole number or its text. Raises ValueError for anything else."""
    if not re.fullmatch(r" *-?\d{1,9}", str(value)):
        raise ValueError(value)
    return int(value)


def _case(test: Draft, row: dict[str, Any], in_place: bool,
          half: dict[str, Any]) -> ImportedCase | None:
    """The case of a half; None if its time or another value is impossible."""
    values = {"time": half.get("cpu_time", half.get("time")), "algbw": half.get("alg_bw"),
              "busbw": half.get("bus_bw"), "wrong": half.get("nwrong"), "count": row.get("count")}
    figures = {name: "N/A" if value is None else str(value) for name, value in values.items()}
    size, count = count_of(str(row["size"])), count_of(figures["count"])
    is_counted = count is not None or figures["count"] == "N/A"
    if size is None or not is_counted or not all(map(FIGURE.fullmatch, figures.values())):
        return None
    datatype, redop, root = row.get("type"), row.get("redop"), row.get("root")
    case = make_case(test, in_place, figures, {
        "size_bytes": size, "count": count, "root": None if root is None else _index(root),
        "datatype": TYPES.get(datatype, printable(datatype)) if datatype else None,
        "redop": printable(redop) if redop else None})
    if case is not None and case.time_us is not None:
        case.time_us.n = whole_number(str(row.get("actual_iterations")))
    return case
