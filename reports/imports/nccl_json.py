"""Reads the JSON reports of nccl-tests (`-J`) as the lines that it prints of the same run."""

import json
from typing import Any

from reports.imports.logged import clean_line, dates_of
from reports.imports.nccl_tests import USUAL_HEADING, NcclTest, parse_nccl


def parse_json(text: str) -> list[NcclTest]:
    """The tests in a report or an array of reports. Raises JSONDecodeError for other text, and
    AttributeError, KeyError, OverflowError, TypeError or ValueError for other JSON."""
    reports = json.loads(text)
    return list(map(_test_of, reports if isinstance(reports, list) else [reports]))


def _test_of(report: Any) -> NcclTest:
    config, results = report["config"], report["results"]
    n_threads, n_gpus = (int(config.get(name, 1)) for name in ("nthreads", "ngpus"))
    head = [
        str(report.get("start_time")),
        f"nccl-tests version, nccl-library={report.get('nccl_version')}",
        f"Collective test starting: {(report.get('args') or [''])[0].rpartition('/')[2]}",
    ]
    # nccl-tests lists only the first GPU of each process; other writers list every rank.
    devices = {int(device["rank"]): device for device in config.get("devices") or []}
    n_listed = 1 if 1 in devices else n_threads * n_gpus
    for first, device in devices.items():
        head += [
            f"Rank {rank} Group {device.get('group', 0)} on {device.get('hostname')} device 0 [] "
            f"{device.get('device_info')}"
            for rank in (first, first + n_listed - 1)
        ]
    head.append(USUAL_HEADING)
    bounds, average = (
        report.get(name) or {} for name in ("out_of_bounds", "average_bus_bandwidth")
    )
    is_bad = {bounds.get("okay"), average.get("okay")} & {"false", False} or report.get("errors")
    end = f"Avg bus bandwidth : 0 {'FAILED' if is_bad else ''}"

    lines = [*head, *map(_row_of, results), *[end] * bool(average or is_bad)]
    (test,) = parse_nccl(list(map(clean_line, lines)))
    test.unread = [line - len(head) for line in test.unread]
    test.date = next((date for _, date in dates_of(head[:1])), None)
    if any("out_of_place_per_iter" in row for row in results):  # of the option -I
        test.statistic = "median over iterations"
    return test


def _row_of(row: dict[str, Any]) -> str:
    words = [row[name] for name in ("size", "count", "type", "redop", "root")]
    for place in ("out_of_place", "in_place"):
        half = row.get(place) or {}
        if per_iteration := row.get(f"{place}_per_iter"):
            half = half | {"time": per_iteration["p50_us"]}
        words += map(half.get, ("time", "alg_bw", "bus_bw", "nwrong"))
    return " ".join("N/A" if word is None else str(word) for word in words)
