"""Parses the JSON reports of nccl-tests (`-J`). Their results are read like rows of a table."""

import json
from typing import Any

from reports.imports import logged
from reports.imports.nccl_tests import NcclTest, Part
from reports.store.untrusted import printable


def parse_json(text: str) -> list[NcclTest]:
    """The tests in a report or an array of reports. Raises JSONDecodeError for other text, and
    AttributeError, KeyError, OverflowError, TypeError or ValueError for other JSON."""
    reports = json.loads(text)
    return list(map(_test_of, reports if isinstance(reports, list) else [reports]))


def _test_of(report: Any) -> NcclTest:
    program = (report.get("args") or [""])[0].rpartition("/")[2]
    name, suffix, _ = program.replace("_test", "").partition("_perf")
    test = NcclTest(
        "nccl-tests",
        1,
        collective=logged.collective_of(name) if suffix else None,
        library=logged.nccl_version(str(report.get("nccl_version"))),
    )
    _read_devices(test, report["config"])
    test.date = next((date for _, date in logged.dates_of([str(report.get("start_time"))])), None)

    for position, row in enumerate(report["results"], 1):
        words = [row[name] for name in ("size", "count", "type", "redop", "root")]
        for place in ("out_of_place", "in_place"):
            half = row.get(place) or {}
            if per_iteration := row.get(f"{place}_per_iter"):  # of the option -I
                test.statistic = "median over iterations"
                half = half | {"time": per_iteration["p50_us"]}
            words += map(half.get, ("time", "alg_bw", "bus_bw", "nwrong"))
        texts = ["N/A" if word is None else str(word) for word in words]
        test.texts.append((position, " ".join(texts)))

    bounds, average = (
        report.get(name) or {} for name in ("out_of_bounds", "average_bus_bandwidth")
    )
    if {bounds.get("okay"), average.get("okay")} & {"false", False} or report.get("errors"):
        test.status = "failed"

    test.part = Part.FOOTER if average else Part.ROWS
    test.finish()
    return test


def _read_devices(test: NcclTest, config: dict[str, Any]) -> None:
    """The ranks and their GPUs. nccl-tests lists only the first GPU of each process; other writers
    list every rank."""
    devices = {_index(device["rank"]): device for device in config.get("devices") or []}
    n_gpus = _index(config.get("nthreads", 1)) * _index(config.get("ngpus", 1))

    for first, device in devices.items():
        last = first if 1 in devices else first + n_gpus - 1
        test.gpus |= dict.fromkeys((first, last), printable(device.get("device_info") or ""))
        test.groups.add(str(device.get("group", 0)))
        test.host_names.add(device.get("hostname"))


def _index(value: Any) -> int:
    """A small whole number or its text. Raises ValueError for anything else."""
    if int(value) not in range(1_000_000):
        raise ValueError(value)

    return int(value)
