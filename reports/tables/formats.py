"""A run in other programs' formats: csv, the text of nccl-tests, and its JSON report of `-J`.

nccl-tests prints means, a row for each size with an out-of-place and an in-place half, for one
algorithm. Our runs measure several algorithms: each becomes one test, the library first.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

import msgspec

from reports.store.case import case_bus_factor
from reports.store.foreign import spreadsheet_cell
from reports.store.schema import Case, Range, Result, Summary
from reports.tables.sentences import shape_text

SUMMARIES = ("time_us", "consume_us", "total_us", "arrival_skew_us", "chain_only_us", "compute_us",
             "exposed_us", "matmul_gflop_s", "matmul_alone_gflop_s")
PARTS = dict.fromkeys(SUMMARIES, Summary.__struct_fields__) | {
    "link_rtt_ns": Range.__struct_fields__}
NCCL_TYPES = {"float16": "half", "bfloat16": "bfloat16", "float32": "float", "float64": "double"}

Pair = tuple[Case | None, Case | None]  # out of place and in place


def as_csv(result: Result) -> str:
    """A header and a row for each case; a part of a summary is named `time_us_median`."""
    rows = [{"run_id": result.run.run_id, "world_size": result.run.world["size"]} | _flat(case)
            for case in result.cases]
    out = io.StringIO()
    if rows:
        writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: spreadsheet_cell(value) for name, value in row.items()}
                         for row in rows)
    return out.getvalue()


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


def as_nccl_tests(result: Result) -> str:
    """The text of nccl-tests: `#` lines, its columns and footer, a test for each algorithm and
    variant. Times are means over iterations of the collective alone, as in nccl-tests."""
    lines = [f"# wiretax {result.run.version}: the columns of nccl-tests, one test for each "
             "algorithm"]
    isolated = [case for case in result.cases if case.mode == "isolated"]
    if 0 < len(isolated) < len(result.cases):
        lines.append("# chained cases are left out here; --format csv has them")
    for name, pairs in _tests(isolated or result.cases):
        lines += _test_lines(result, name, pairs)
    return "\n".join(lines) + "\n"


def _test_lines(result: Result, name: str, pairs: Sequence[Pair]) -> list[str]:
    cases = [case for pair in pairs for case in pair if case]
    size, program = result.run.world["size"], f"{cases[0].collective}_perf"
    lines = [f"# Collective test starting: {program}", _parameters(cases),
             f"# algorithm: {name}",
             "# time: mean over iterations of the slowest rank, while the link was in its longest "
             "state",
             "# iters: the most of any row; warm-up is not counted",
             "#", "# Using devices", *map(_device_line, result.run.world.get("ranks", []))]
    half, units = (_half("time", "algbw", "busbw", "#wrong"),
                   _half("(us)", "(GB/s)", "(GB/s)", ""))
    lines += [
        "#", f"#{'':>51}           out-of-place                       in-place          ",
        f"# {'size':>10}  {'count':>12}  {'type':>8}  {'redop':>6}  {'root':>6}{half}{half} ",
        f"# {'(B)':>10}  {'(elements)':>12}  {'':>8}  {'':>6}  {'':>6}{units}{units} "]
    for pair in pairs:
        case = _first(pair)
        halves = "".join(_half(*_figures(half_case, size)) for half_case in pair)
        lines.append(f"{case.size_bytes:12d}  {case.count:12d}  {_type(case):>8}  "
                     f"{case.redop:>6}  {-1:6d}{halves}")
    wrong = _out_of_bounds(cases)
    return [*lines,
            f"# {'Out of bounds values':<20} : {wrong} {'FAILED' if wrong else 'OK'}",
            f"# {'Avg bus bandwidth':<20} : {_average_bus_bw(cases, size):g} ",
            "#", f"# Collective test concluded: {program}", "#"]


def _parameters(cases: Sequence[Case]) -> str:
    sizes = sorted({case.size_bytes for case in cases})
    factor = round(sizes[-1] / sizes[-2]) if len(sizes) > 1 and sizes[-2] else 1
    return (f"# nThread 1 nGpus 1 minBytes {sizes[0]} maxBytes {sizes[-1]} step: {factor}(factor) "
            f"warmup iters: 0 iters: {_iterations(cases)} agg iters: 1 validation: "
            f"{int(_is_checked(cases))} graph: 0 unalign: 0")


def _device_line(rank: dict[str, Any]) -> str:
    return (f"#  Rank {rank.get('rank', 0):2d} Group  0 Pid {0:6d} on {'host0':>10} device "
            f"{(rank.get('cpus') or [0])[0]:2d} [{(rank.get('pci_bus_id') or '0000:00:00')[:10]}] "
            f"{rank.get('gpu') or rank.get('device', '')} {rank.get('arch', '')}")


def _half(time: str, alg_bw: str, bus_bw: str, n_wrong: str) -> str:
    return f"  {time:>7}  {alg_bw:>6}  {bus_bw:>6}  {n_wrong:>6}"


def _figures(case: Case | None, world_size: int) -> tuple[str, ...]:
    means = _means(case, world_size)
    if case is None or means is None:
        return ("N/A",) * 4
    cells = ["N/A" if mean is None else _fixed(mean, width)
             for mean, width in zip(means, (7, 6, 6), strict=True)]
    return *cells, "N/A" if case.n_wrong is None else f"{float(case.n_wrong):g}"


def _fixed(value: float, width: int) -> str:
    """The value with at most two decimals, as the column allows, or with an exponent."""
    for decimals in (2, 1, 0):
        text = f"{value:.{decimals}f}"
        if len(text) <= width:
            return text
    return f"{value:.{1 if width >= 7 else 0}e}"


def _means(case: Case | None, world_size: int) -> tuple[float, float | None, float | None] | None:
    """Mean time in us, algbw and busbw in GB/s (None for a case without bandwidth); None without a
    time."""
    mean = case.time_us.mean if case and case.time_us else None
    if case is None or mean is None:
        return None
    if case.alg_bw_gb_s is None or not mean:
        return mean, None, None
    alg_bw = case.size_bytes / mean / 1e3
    return mean, alg_bw, alg_bw * case_bus_factor(case, world_size)


def _first(pair: Pair) -> Case:
    case = pair[0] or pair[1]
    assert case
    return case


def _type(case: Case) -> str:
    return NCCL_TYPES.get(case.datatype, case.datatype)


def _iterations(cases: Sequence[Case]) -> int:
    return max((case.time_us.n or 0 for case in cases if case.time_us), default=0)


def _is_checked(cases: Sequence[Case]) -> bool:
    return any(case.n_wrong is not None for case in cases)


def _out_of_bounds(cases: Sequence[Case]) -> int:
    return sum(bool(case.n_wrong) for case in cases)


def _average_bus_bw(cases: Sequence[Case], world_size: int) -> float:
    means = [_means(case, world_size) for case in cases]
    bus_bws = [mean[2] for mean in means if mean and mean[2] is not None]
    return sum(bus_bws) / len(bus_bws) if bus_bws else 0.0


def _tests(cases: Sequence[Case]) -> list[tuple[str, list[Pair]]]:
    """The names and pairs of each test: an algorithm, variant, memory, mode and shape."""
    tests: dict[tuple[str, ...], dict[Any, dict[bool, Case]]] = {}
    for case in cases:
        shape = [shape_text(case.shape)] if case.shape else []
        rows = tests.setdefault(
            (case.algorithm, case.variant, case.memory, case.mode, *shape), {})
        row = case.size_bytes, case.datatype, case.redop
        rows.setdefault(row, {})[case.in_place] = case
    named = []
    for key, rows in sorted(tests.items(), key=lambda test: test[0][0] != "library"):
        pairs = [(halves.get(False), halves.get(True)) for _, halves in sorted(rows.items())]
        name = _first(pairs[0]).library or key[0]
        named.append((f"{name} ({', '.join(key[1:])})", pairs))
    return named


def as_json(result: Result) -> dict[str, Any]:
    """The report of `-J`: the meaningful fields of nccl-tests' version 3, with an entry of
    `results` for each algorithm, variant, mode and size."""
    run, size, cases = result.run, result.run.world["size"], result.cases
    sizes = [case.size_bytes for case in cases] or [0]
    day, _, clock = run.run_id[:20].partition("T")
    tests, wrong = _tests(cases), _out_of_bounds(cases)
    # A mean over several algorithms would mean nothing: each has its own.
    averages = [{"experiment_name": name, "bandwidth": _average_bus_bw(
        [case for pair in pairs for case in pair if case], size), "okay": "unchecked"}
        for name, pairs in tests]
    devices = [{"rank": rank.get("rank"), "group": 0, "device": (rank.get("cpus") or [0])[0],
                "device_info": f"{rank.get('device', '')} {rank.get('arch', '')}".strip()}
               for rank in run.world.get("ranks", [])]
    reason = result.end.reason if result.end else None
    return {
        "version": 3, "program": f"wiretax {run.version}", "run_id": run.run_id,
        "start_time": f"{day} {clock.rstrip('Z').replace('-', ':')}", "args": run.argv, "env": [],
        "config": {"nthreads": 1, "ngpus": 1, "minimum_bytes": min(sizes),
                   "maximum_bytes": max(sizes), "aggregated_iterations": 1,
                   "validation": int(_is_checked(cases)), "graph": 0,
                   "blocking_collectives": "false", "parallel_init": "false", "devices": devices},
        "results": [_json_row(name, pair, size) for name, pairs in tests for pair in pairs],
        "out_of_bounds": {"count": wrong, "okay": "false" if wrong else "true"},
        "average_bus_bandwidth": averages,
        "errors": [] if result.complete else [reason or "the run was cut off"],
    }


def _json_row(name: str, pair: Pair, world_size: int) -> dict[str, Any]:
    case = _first(pair)
    return {"size": case.size_bytes, "count": case.count, "type": _type(case), "redop": case.redop,
            "root": "-1", "actual_iterations": _iterations([half for half in pair if half]),
            "experiment_name": name, "out_of_place": _json_half(pair[0], world_size),
            "in_place": _json_half(pair[1], world_size), "algorithm": case.algorithm,
            "library": case.library, "variant": case.variant, "mode": case.mode,
            "chosen": case.chosen}


def _json_half(case: Case | None, world_size: int) -> dict[str, Any] | None:
    means = _means(case, world_size)
    if case is None or means is None:
        return None
    return {"time": means[0], "alg_bw": means[1], "bus_bw": means[2], "nwrong": case.n_wrong}
