"""The report that nccl-tests writes for `-J`, up to its version 3: one JSON object."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from reports.foreign import printable
from reports.import_nccl import CPU_TIME, MEAN, TYPES, nccl_version
from reports.imported import ImportedCase, ImportedSummary
from reports.logged import LoggedTest, collective_of, number, whole


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
    for row in rows:
        for in_place, half in ((False, row.get("out_of_place")), (True, row.get("in_place"))):
            if half is not None:
                test.statistic = CPU_TIME if "cpu_time" in half else MEAN
                test.add(_case(test, row, in_place, {name: number(str(figure)) for name, figure in half.items()}))
    bounds, average = raw.get("out_of_bounds") or {}, raw.get("average_bus_bandwidth")
    if bounds:
        test.out_of_bounds = f"{_index(bounds['count'])} {'OK' if bounds.get('okay') in ('true', True) else 'FAILED'}"
    said = average if isinstance(average, dict) else {}
    test.footer_avg_bus_bw = number(str(said.get("bandwidth")))
    if "FAILED" in (test.out_of_bounds or "") or said.get("okay") in ("false", False) or raw.get("errors"):
        test.status, test.reason = "failed", "the run itself says so"
    elif average is None:
        test.status, test.reason = "incomplete", "the report ends before the test does"
    return test


def _index(said: Any) -> int:
    """A small whole number, which may stand there as text. Raises ValueError for anything else."""
    if not re.fullmatch(r" *-?\d{1,9}", str(said)):
        raise ValueError(said)
    return int(said)


def _case(test: LoggedTest, row: dict[str, Any], in_place: bool, half: dict[str, float | None]) -> ImportedCase:
    time, wrong = half.get("cpu_time", half.get("time")), half.get("nwrong")
    kind, redop = row.get("type"), row.get("redop")
    case = ImportedCase(case=0, collective=test.collective, in_place=in_place, size_bytes=whole(str(row["size"])),
                        count=whole(str(row.get("count"))), alg_bw_gb_s=half.get("alg_bw"),
                        bus_bw_gb_s=half.get("bus_bw"))
    case.datatype, case.redop = TYPES.get(kind, printable(kind)) if kind else None, printable(redop) if redop else None
    case.root = None if row.get("root") is None else _index(row["root"])
    case.n_wrong = None if wrong is None else int(wrong)
    if time is not None:
        case.time_us = ImportedSummary(mean=time, n=whole(str(row.get("actual_iterations"))))
    return case
