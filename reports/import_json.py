"""The report that nccl-tests writes for `-J`: one JSON object, up to its version 3; rccl-tests' has the same fields."""

from __future__ import annotations

from typing import Any

import msgspec

from reports.import_nccl import TYPES
from reports.imported import ImportedCase, ImportedSummary
from reports.logged import LoggedTest, collective_of, gpu_name


class Half(msgspec.Struct):
    """A half of a row; JSON has no word for a figure that is not finite, which stands there as text."""

    time: float | str | None = None
    cpu_time: float | str | None = None
    alg_bw: float | str | None = None
    bus_bw: float | str | None = None
    nwrong: float | str | None = None


class Result(msgspec.Struct):
    """A row."""

    size: int
    count: int | None = None
    type: str | None = None
    redop: str | None = None
    root: str | int | None = None
    actual_iterations: int | None = None
    out_of_place: Half | None = None
    in_place: Half | None = None


class Device(msgspec.Struct):
    """A line of the list of devices."""

    rank: int | None = None
    group: int = 0
    device_info: str = ""


class Config(msgspec.Struct):
    """What was asked for."""

    nthreads: int = 1
    ngpus: int = 1
    devices: list[Device] = []


class Report(msgspec.Struct):
    """The file."""

    version: int
    config: Config
    results: list[Result] = []
    args: list[str] = []
    nccl_version: int | None = None
    out_of_bounds: dict[str, Any] | None = None
    average_bus_bandwidth: Any = None
    errors: list[Any] = []


def parse_json(content: bytes | str, n_lines: int) -> LoggedTest | None:
    """The test in the report; None where it is none. Raises msgspec.DecodeError for what is no JSON."""
    raw = msgspec.json.decode(content)
    if not isinstance(raw, dict) or not {"version", "config", "results"} <= raw.keys():
        return None
    try:
        report = msgspec.convert(raw, Report)
    except msgspec.ValidationError:
        return None
    test = LoggedTest("nccl-tests JSON", 1, n_lines, "nccl-tests", "mean over iterations")
    name = report.args[0].rpartition("/")[2] if report.args else ""
    base, found, _ = name.partition("_perf")
    test.collective = collective_of(base.removesuffix("_test")) if found else None
    test.benchmark += f" {test.collective}" if test.collective else ""
    if (code := report.nccl_version) is not None:
        test.library = f"NCCL {code // 10000}.{code % 10000 // 100}.{code % 100}"
    test.gpus = {device.rank: gpu_name(device.device_info) for device in report.config.devices
                 if device.rank is not None and 0 <= device.rank < 10**7}
    test.world_size = _world_size(report.config)
    for row in report.results:
        for in_place, half in ((False, row.out_of_place), (True, row.in_place)):
            if half is not None:
                test.add(_case(test, row, in_place, half))
                test.statistic = "CPU time, mean over iterations" if half.cpu_time is not None else test.statistic
    bounds, average = report.out_of_bounds or {}, report.average_bus_bandwidth
    if isinstance(count := bounds.get("count"), int):
        test.out_of_bounds = f"{count} {'OK' if bounds.get('okay') in ('true', True) else 'FAILED'}"
    okay = average.get("okay") if isinstance(average, dict) else None
    if isinstance(average, dict):
        test.footer_avg_bus_bw = _finite(average.get("bandwidth"))
    if "FAILED" in (test.out_of_bounds or "") or okay in ("false", False) or report.errors:
        test.status, test.reason = "failed", "the run found wrong results" if test.out_of_bounds else "the run failed"
    elif average is None:
        test.status, test.reason = "incomplete", "the report ends before the test does"
    return test


def _world_size(config: Config) -> int | None:
    """Of each process the list has one line, its first GPU's; ours has each rank's."""
    ranks, per_process = [device.rank for device in config.devices], config.nthreads * config.ngpus
    if not ranks or len({device.group for device in config.devices}) > 1 or not 1 <= per_process <= 10**4:
        return None
    for step in (per_process, 1):
        if ranks == list(range(0, len(ranks) * step, step)):
            return len(ranks) * step
    return None


def _case(test: LoggedTest, row: Result, in_place: bool, half: Half) -> ImportedCase:
    time = _finite(half.time if half.cpu_time is None else half.cpu_time)
    wrong = _finite(half.nwrong)
    root = int(row.root) if str(row.root).strip().lstrip("-").isdecimal() and row.root is not None else None
    case = ImportedCase(case=0, collective=test.collective, size_bytes=row.size, count=row.count, in_place=in_place,
                        alg_bw_gb_s=_finite(half.alg_bw), bus_bw_gb_s=_finite(half.bus_bw), root=root)
    case.datatype = TYPES.get(row.type, gpu_name(row.type)) if row.type else None
    case.redop = gpu_name(row.redop) if row.redop else None
    case.n_wrong = None if wrong is None else int(wrong)
    if time is not None:
        case.time_us = ImportedSummary(mean=time, n=row.actual_iterations)
    return case


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and 0 <= value < 1e15 else None
