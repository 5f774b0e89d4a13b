"""The report that nccl-tests writes for `-J`, up to its version 3: one JSON object."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from reports.imports.imported import ImportedCase, ImportedSummary
from reports.imports.logged import NO_ROWS, LoggedTest, collective_of, count_of, nccl_version, number, whole
from reports.imports.nccl_tests import CPU_TIME, MEAN, TYPES
from reports.store.foreign import printable

NO_FIGURE = ("None", "N/A", "nan", "-nan", "inf", "-inf")


def parse_json(text: str) -> LoggedTest | None:
    """The test in the report; None where it is none. Raises msgspec.DecodeError for what is no JSON."""
    raw = msgspec.json.decode(text)
    try:
        return _test(raw, text.count("\n") + 1)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def _test(raw: dict[str, Any], n_lines: int) -> LoggedTest:
    config, rows, program = raw["config"], raw["results"], (raw.get("args") or [""])[0].rpartition("/")[2]
    base, found, _ = program.partition("_perf")
    name = collective_of(base.removesuffix("_test")) if found else None
    test = LoggedTest("nccl-tests JSON", 1, n_lines, f"nccl-tests {name}" if name else "nccl-tests", MEAN, name)
    if (code := whole(str(raw.get("nccl_version")))) is not None:
        test.library = nccl_version(code)
    devices = config.get("devices") or []
    test.gpus = {_index(device["rank"]): printable(device.get("device_info") or "") for device in devices}
    # Of each process nccl-tests lists the first GPU alone; other writers list every rank.
    ranks, per_process = list(test.gpus), _index(config.get("nthreads", 1)) * _index(config.get("ngpus", 1))
    one_group = len({device.get("group", 0) for device in devices}) == 1
    steps = [step for step in (per_process, 1) if one_group and ranks == [step * at for at in range(len(ranks))]]
    test.world_size = len(ranks) * steps[0] if steps else None
    for at, row in enumerate(rows, 1):
        for in_place, half in ((False, row.get("out_of_place")), (True, row.get("in_place"))):
            if half is not None:
                test.statistic = CPU_TIME if "cpu_time" in half else MEAN
                if (case := _case(test, row, in_place, half)) is not None:
                    test.add(case)
                else:
                    test.unread.append(at)
    bounds, average = raw.get("out_of_bounds") or {}, raw.get("average_bus_bandwidth")
    if bounds:
        test.out_of_bounds = f"{_index(bounds['count'])} {'OK' if bounds.get('okay') in ('true', True) else 'FAILED'}"
    said = average if isinstance(average, dict) else {}
    test.footer_avg_bus_bw = number(str(said.get("bandwidth")))
    if "FAILED" in (test.out_of_bounds or "") or said.get("okay") in ("false", False) or raw.get("errors"):
        test.status, test.reason = "failed", "the run itself says so"
    elif average is None:
        test.status, test.reason = "incomplete", "the report ends before the test does"
    elif not test.cases:
        test.status, test.reason = "incomplete", NO_ROWS
    return test


def _index(said: Any) -> int:
    """A small whole number, which may stand there as text. Raises ValueError for anything else."""
    if not re.fullmatch(r" *-?\d{1,9}", str(said)):
        raise ValueError(said)
    return int(said)


def _case(test: LoggedTest, row: dict[str, Any], in_place: bool, half: dict[str, Any]) -> ImportedCase | None:
    """The half of a result; None where its time, or what else it says, cannot be."""
    said = {"time": half.get("cpu_time", half.get("time"))} | {name: half.get(name) for name in ("alg_bw", "bus_bw")}
    figures = {name: number(str(value)) for name, value in said.items()}
    size, count, wrong = (count_of(str(value)) for value in (row["size"], row.get("count"), half.get("nwrong")))
    unread = [value for name, value in said.items() if figures[name] is None and str(value) not in NO_FIGURE]
    unread += [value for value, read in ((row.get("count"), count), (half.get("nwrong"), wrong))
               if read is None and value not in (None, "N/A")]
    if figures["time"] is None or size is None or unread:
        return None
    kind, redop = row.get("type"), row.get("redop")
    case = ImportedCase(case=0, collective=test.collective, in_place=in_place, size_bytes=size, count=count,
                        n_wrong=wrong, alg_bw_gb_s=figures["alg_bw"], bus_bw_gb_s=figures["bus_bw"])
    case.datatype, case.redop = TYPES.get(kind, printable(kind)) if kind else None, printable(redop) if redop else None
    case.root = None if row.get("root") is None else _index(row["root"])
    case.time_us = ImportedSummary(mean=figures["time"], n=whole(str(row.get("actual_iterations"))))
    return case
