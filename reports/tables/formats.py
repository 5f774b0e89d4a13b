"""A run in other programs' formats: csv, the text of nccl-tests, and its JSON report of `-J`.

nccl-tests prints means, a row for each size with an out-of-place and an in-place half, for one
algorithm. Our runs measure several algorithms: each becomes one test, the library first.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
import pandas as pd

from reports.store.case import case_bus_factor
from reports.store.foreign import spreadsheet_cell
from reports.store.schema import Case, Range, Result, Summary
from reports.tables.sentences import shape_text

# The parts of each field that is a summary.
PARTS = {field.name: kind.__struct_fields__ for field in msgspec.structs.fields(Case)
         for kind in (Summary, Range) if field.type == kind | None}
NCCL_TYPES = {"float16": "half", "bfloat16": "bfloat16", "float32": "float", "float64": "double"}

# A test in the text of nccl-tests: its head and its end. {end} keeps the blanks before it.
HEAD = """\
# Collective test starting: {program}
# nThread 1 nGpus 1 minBytes {low} maxBytes {high} step: {factor}(factor) warmup iters: 0 \
iters: {iterations} agg iters: 1 validation: {validation} graph: 0 unalign: 0
# algorithm: {name}
# time: mean over iterations of the slowest rank, while the link was in its longest state
# iters: the most of any row; warm-up is not counted
#
# Using devices
{devices}#
#                                                              out-of-place                       \
in-place          {end}
#       size         count      type   redop    root     time   algbw   busbw  #wrong     time   \
algbw   busbw  #wrong {end}
#        (B)    (elements)                               (us)  (GB/s)  (GB/s)             (us)  \
(GB/s)  (GB/s)         {end}
"""
END = """\
# Out of bounds values : {wrong} {verdict}
# Avg bus bandwidth    : {bus_bw:g} {end}
#
# Collective test concluded: {program}
#
"""

# A test: its name, its rows as in the report of -J, and the wrong elements of each checked case.
Test = tuple[str, list[dict[str, Any]], list[int]]


def as_csv(result: Result) -> str:
    """A header and a row for each case; a part of a summary is named `time_us_median`."""
    rows = [{"run_id": result.run.run_id, "world_size": result.run.world["size"]} | _flat(case)
            for case in result.cases]
    safe = [{name: spreadsheet_cell(value) for name, value in row.items()} for row in rows]
    frame = pd.DataFrame(safe, dtype=object)
    return frame.to_csv(index=False, lineterminator="\n") if rows else ""


def _flat(case: Case) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name in case.__struct_fields__:
        value = getattr(case, name)
        if name in PARTS:
            flat |= {f"{name}_{part}": getattr(value, part, None) for part in PARTS[name]}
        elif name == "states":
            flat[name] = json.dumps(msgspec.to_builtins(value)) if value else None
        else:
            flat[name] = json.dumps(value) if isinstance(value, dict) else value
    return flat


def as_json(result: Result) -> dict[str, Any]:
    """The report of `-J`: the meaningful fields of nccl-tests' version 3, with an entry of
    `results` for each algorithm, variant, mode and size."""
    run, tests = result.run, _tests(result)
    rows = [row for _, rows, _ in tests for row in rows]
    counts = [n_wrong for _, _, counts in tests for n_wrong in counts]
    sizes = [row["size"] for row in rows] or [0]
    day, _, clock = run.run_id[:20].partition("T")
    # A mean over several algorithms would mean nothing: each has its own.
    averages = [{"experiment_name": name, "bandwidth": _mean_bus_bw(rows), "okay": "unchecked"}
                for name, rows, _ in tests]
    devices = [{"rank": rank.get("rank"), "group": 0, "device": (rank.get("cpus") or [0])[0],
                "device_info": f"{rank.get('device', '')} {rank.get('arch', '')}".strip()}
               for rank in run.world.get("ranks", [])]
    reason = result.end.reason if result.end else None
    wrong = sum(map(bool, counts))
    return {
        "version": 3, "program": f"wiretax {run.version}", "run_id": run.run_id,
        "start_time": f"{day} {clock.rstrip('Z').replace('-', ':')}", "args": run.argv, "env": [],
        "config": {"nthreads": 1, "ngpus": 1, "minimum_bytes": min(sizes),
                   "maximum_bytes": max(sizes), "aggregated_iterations": 1,
                   "validation": int(bool(counts)), "graph": 0,
                   "blocking_collectives": "false", "parallel_init": "false", "devices": devices},
        "results": rows,
        "out_of_bounds": {"count": wrong, "okay": "false" if wrong else "true"},
        "average_bus_bandwidth": averages,
        "errors": [] if result.complete else [reason or "the run was cut off"],
    }


def _tests(result: Result) -> list[Test]:
    """A test for each algorithm, variant, memory, mode and shape, the library first."""
    tests: dict[tuple[str, ...], dict[Any, list[Case | None]]] = {}
    for case in sorted(result.cases, key=lambda case: case.algorithm != "library"):
        shape = [shape_text(case.shape)] if case.shape else []
        pairs = tests.setdefault((case.algorithm, case.variant, case.memory, case.mode, *shape), {})
        pair = pairs.setdefault((case.size_bytes, case.datatype, case.redop), [None, None])
        pair[case.in_place] = case
    named = []
    for (algorithm, *detail), pairs in tests.items():
        rows = [_row(pair, result.run.world["size"]) for _, pair in sorted(pairs.items())]
        name = f"{rows[0]['library'] or algorithm} ({', '.join(detail)})"
        counts = [case.n_wrong for pair in pairs.values() for case in pair
                   if case and case.n_wrong is not None]
        named.append((name, [row | {"experiment_name": name} for row in rows], counts))
    return named


def _row(pair: Sequence[Case | None], world_size: int) -> dict[str, Any]:
    """A size out of place and in place, as in the report of `-J`."""
    cases = [case for case in pair if case]
    case = cases[0]
    return {"size": case.size_bytes, "count": case.count,
            "type": NCCL_TYPES.get(case.datatype, case.datatype), "redop": case.redop,
            "root": "-1",
            "actual_iterations": max((each.time_us.n or 0 for each in cases if each.time_us),
                                     default=0),
            "experiment_name": "", "out_of_place": _half(pair[0], world_size),
            "in_place": _half(pair[1], world_size), "algorithm": case.algorithm,
            "library": case.library, "variant": case.variant, "mode": case.mode,
            "chosen": case.chosen}


def _half(case: Case | None, world_size: int) -> dict[str, Any] | None:
    """Mean time in us, algbw and busbw in GB/s (None for a case without bandwidth), and the wrong
    elements; None without a time."""
    mean_us = case.time_us.mean if case and case.time_us else None
    if case is None or mean_us is None:
        return None
    alg_bw = None if case.alg_bw_gb_s is None or not mean_us else case.size_bytes / mean_us / 1e3
    bus_bw = None if alg_bw is None else alg_bw * case_bus_factor(case, world_size)
    return {"time": mean_us, "alg_bw": alg_bw, "bus_bw": bus_bw, "nwrong": case.n_wrong}


def _mean_bus_bw(rows: Sequence[dict[str, Any]]) -> float:
    halves = [row[place] for row in rows for place in ("out_of_place", "in_place") if row[place]]
    bus_bws = [half["bus_bw"] for half in halves if half["bus_bw"] is not None]
    return sum(bus_bws) / len(bus_bws) if bus_bws else 0.0


def as_nccl_tests(result: Result) -> str:
    """The text of nccl-tests: `#` lines, its columns and footer, a test for each algorithm and
    variant. Times are means over iterations of the collective alone, as in nccl-tests."""
    head = [f"# wiretax {result.run.version}: the columns of nccl-tests, one test for each "
            "algorithm\n"]
    isolated = [case for case in result.cases if case.mode == "isolated"]
    if 0 < len(isolated) < len(result.cases):
        head.append("# chained cases are left out here; --format csv has them\n")
    tests = _tests(replace(result, cases=isolated or result.cases))
    return "".join([*head, *(_test_text(result, *test) for test in tests)])


def _test_text(result: Result, name: str, rows: Sequence[dict[str, Any]],
               counts: Sequence[int]) -> str:
    sizes, wrong = sorted({row["size"] for row in rows}), sum(map(bool, counts))
    values = {
        "program": f"{result.cases[0].collective}_perf", "name": name, "low": sizes[0],
        "high": sizes[-1], "iterations": max(row["actual_iterations"] for row in rows),
        "factor": round(sizes[-1] / sizes[-2]) if len(sizes) > 1 and sizes[-2] else 1,
        "validation": int(bool(counts)), "wrong": wrong,
        "verdict": "FAILED" if wrong else "OK", "bus_bw": _mean_bus_bw(rows),
        "end": "", "devices": "".join(map(_device_line, result.run.world.get("ranks", [])))}
    lines = [f"{row['size']:12d}  {row['count']:12d}  {row['type']:>8}  {row['redop']:>6}  "
             f"{row['root']:>6}{_figures(row['out_of_place'])}{_figures(row['in_place'])}\n"
             for row in rows]
    return "".join([HEAD.format_map(values), *lines, END.format_map(values)])


def _device_line(rank: dict[str, Any]) -> str:
    return (f"#  Rank {rank.get('rank', 0):2d} Group  0 Pid {0:6d} on {'host0':>10} device "
            f"{(rank.get('cpus') or [0])[0]:2d} [{(rank.get('pci_bus_id') or '0000:00:00')[:10]}] "
            f"{rank.get('gpu') or rank.get('device', '')} {rank.get('arch', '')}\n")


def _figures(half: dict[str, Any] | None) -> str:
    time, alg_bw, bus_bw, n_wrong = half.values() if half else [None] * 4
    wrong = "N/A" if n_wrong is None else f"{float(n_wrong):g}"
    return f"  {_fixed(time, 7)}  {_fixed(alg_bw, 6)}  {_fixed(bus_bw, 6)}  {wrong:>6}"


def _fixed(value: float | None, width: int) -> str:
    """The value with at most two decimals, as the column allows, or with an exponent."""
    if value is None:
        return f"{'N/A':>{width}}"
    for decimals in (2, 1, 0):
        if len(f"{value:.{decimals}f}") <= width:
            return f"{value:{width}.{decimals}f}"
    return f"{value:.{1 if width >= 7 else 0}e}"
