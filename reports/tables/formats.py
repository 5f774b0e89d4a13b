"""A run in other programs' formats: csv, the text of nccl-tests, and the report that nccl-tests writes for `-J`.

nccl-tests prints means, one row a size with an out-of-place and an in-place half, one algorithm a run. A run here holds
several algorithms, so each gets a test of its own, the library first; any parser of its text reads each of them.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

from reports.store.case import case_bus_factor
from reports.store.foreign import spreadsheet_cell
from reports.store.records import Record, to_dict
from reports.store.schema import Case, Range, Result, Summary
from reports.tables.sentences import shape_text

SUMMARIES = ("time_us", "consume_us", "total_us", "arrival_skew_us", "chain_only_us", "compute_us", "exposed_us",
             "matmul_gflop_s",
             "matmul_alone_gflop_s")
NCCL_TYPES = {"float16": "half", "bfloat16": "bfloat16", "float32": "float", "float64": "double"}

Pair = tuple[Case | None, Case | None]


def as_csv(result: Result) -> str:
    """A header and a row for each case with every field; a part of a summary is named `time_us_median`."""
    rows = [{"run_id": result.run.run_id, "world_size": result.run.world["size"]} | _flat(case)
            for case in result.cases]
    out = io.StringIO()
    if rows:
        writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: spreadsheet_cell(value) for name, value in row.items()} for row in rows)
    return out.getvalue()


def _flat(case: Case) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name in case.__struct_fields__:
        value = getattr(case, name)
        parts: type[Record] | None = Summary if name in SUMMARIES else Range if name == "link_rtt_ns" else None
        if parts:
            names = [part for part in parts.__struct_fields__ if part != "extra"]
            flat |= {f"{name}_{part}": getattr(value, part, None) for part in names}
        elif name == "states":
            flat[name] = json.dumps([to_dict(state) for state in value]) if value else None
        elif name != "extra":
            flat[name] = json.dumps(value) if isinstance(value, dict) else value
    return flat


def as_nccl_tests(result: Result) -> str:
    """nccl-tests' own text: `#` lines, its columns and footer, a test for each algorithm and variant.

    Times are means over iterations of the collective alone, as nccl-tests has them.
    """
    lines = [f"# wiretax {result.run.version}: the columns of nccl-tests, one test for each algorithm"]
    isolated = [case for case in result.cases if case.mode == "isolated"]
    if 0 < len(isolated) < len(result.cases):
        lines.append("# chained cases are left out here; --format csv has them")
    for label, pairs in _by_algorithm(isolated or result.cases):
        lines += _test_lines(result, label, pairs)
    return "\n".join(lines) + "\n"


def _test_lines(result: Result, label: str, pairs: Sequence[Pair]) -> list[str]:
    run, cases = result.run, [case for pair in pairs for case in pair if case]
    sizes, program = sorted({case.size_bytes for case in cases}), f"{cases[0].collective}_perf"
    factor = round(sizes[-1] / sizes[-2]) if len(sizes) > 1 and sizes[-2] else 1
    checked = any(case.n_wrong is not None for case in cases)
    iters = max((case.time_us.n or 0 for case in cases if case.time_us), default=0)
    lines = [f"# Collective test starting: {program}",
             f"# nThread 1 nGpus 1 minBytes {sizes[0]} maxBytes {sizes[-1]} step: {factor}(factor) warmup iters: 0 "
             f"iters: {iters} agg iters: 1 validation: {int(checked)} graph: 0 unalign: 0",
             f"# algorithm: {label}",
             "# time: mean over iterations of the slowest rank, while the link was in its longest state",
             "# iters: the most of any row; warm-up is not counted",
             "#", "# Using devices"]
    lines += [f"#  Rank {rank.get('rank', 0):2d} Group  0 Pid {0:6d} on {'host0':>10} device "
              f"{(rank.get('cpus') or [0])[0]:2d} [{(rank.get('pci_bus_id') or '0000:00:00')[:10]}] "
              f"{rank.get('gpu') or rank.get('device', '')} {rank.get('arch', '')}"
              for rank in run.world.get("ranks", [])]
    spaces = f"# {'':>10}  {'':>12}  {'':>8}  {'':>6}  {'':>6}"
    half, units = _half("time", "algbw", "busbw", "#wrong"), _half("(us)", "(GB/s)", "(GB/s)", "")
    lines += ["#", f"{spaces}           out-of-place                       in-place          ",
              f"# {'size':>10}  {'count':>12}  {'type':>8}  {'redop':>6}  {'root':>6}{half}{half} ",
              f"# {'(B)':>10}  {'(elements)':>12}  {'':>8}  {'':>6}  {'':>6}{units}{units} "]
    for pair in pairs:
        case = pair[0] or pair[1]
        assert case
        lines.append(f"{case.size_bytes:12d}  {case.count:12d}  {NCCL_TYPES.get(case.datatype, case.datatype):>8}  "
                     f"{case.redop:>6}  {-1:6d}" + "".join(_half(*_figures(one, run.world["size"])) for one in pair))
    out_of_bounds, average = _footer(result, cases)
    return [*lines, f"# {'Out of bounds values':<20} : {out_of_bounds} {'FAILED' if out_of_bounds else 'OK'}",
            f"# {'Avg bus bandwidth':<20} : {average:g} ", "#", f"# Collective test concluded: {program}", "#"]


def _half(time: str, alg_bw: str, bus_bw: str, n_wrong: str) -> str:
    return f"  {time:>7}  {alg_bw:>6}  {bus_bw:>6}  {n_wrong:>6}"


def _figures(case: Case | None, world_size: int) -> tuple[str, ...]:
    means = _means(case, world_size)
    if case is None or means is None:
        return ("N/A",) * 4
    said = ["N/A" if mean is None else _fixed(mean, width) for mean, width in zip(means, (7, 6, 6), strict=True)]
    return *said, "N/A" if case.n_wrong is None else f"{float(case.n_wrong):g}"


def _means(case: Case | None, world_size: int) -> tuple[float, float | None, float | None] | None:
    """The mean time in us and its algbw and busbw in GB/s (None for a case that earns none); None without a time."""
    if case is None or case.time_us is None or case.time_us.mean is None:
        return None
    if case.alg_bw_gb_s is None or not case.time_us.mean:
        return case.time_us.mean, None, None
    alg_bw = case.size_bytes / case.time_us.mean / 1e3
    return case.time_us.mean, alg_bw, alg_bw * case_bus_factor(case, world_size)


def _fixed(value: float, width: int) -> str:
    """As many decimals, two at most, as fit the column; an exponent where not even the digits do."""
    for decimals in (2, 1, 0):
        if len(text := f"{value:.{decimals}f}") <= width:
            return text
    return f"{value:.{1 if width >= 7 else 0}e}"


def _footer(result: Result, cases: Sequence[Case]) -> tuple[int, float]:
    """Tests out of bounds, and the mean busbw in GB/s over rows and halves that the format asks for."""
    every = [means for case in cases if (means := _means(case, result.run.world["size"]))]
    bus = [bus_bw for _, _, bus_bw in every if bus_bw is not None]
    return sum(bool(case.n_wrong) for case in cases), sum(bus) / len(bus) if bus else 0.0


def _by_algorithm(cases: Sequence[Case]) -> Iterator[tuple[str, list[Pair]]]:
    """The cases as out-of-place and in-place pairs, by algorithm, variant, memory, mode and shape."""
    tests: dict[tuple[str, ...], dict[tuple[Any, ...], dict[bool, Case]]] = {}
    for case in cases:
        shape = [shape_text(case.shape)] if case.shape else []
        rows = tests.setdefault((case.algorithm, case.variant, case.memory, case.mode, *shape), {})
        rows.setdefault((case.size_bytes, case.datatype, case.redop), {})[case.in_place] = case
    for key, rows in sorted(tests.items(), key=lambda test: test[0][0] != "library"):
        first = next(iter(next(iter(rows.values())).values()))
        name = first.library or first.algorithm
        yield f"{name} ({', '.join(key[1:])})", [(row.get(False), row.get(True)) for _, row in sorted(rows.items())]


def as_json(result: Result) -> dict[str, Any]:
    """The report of `-J`: the fields of nccl-tests' own, version 3, as far as they mean something here, with one entry
    of `results` for each algorithm, variant, mode and size."""
    run, checked = result.run, any(case.n_wrong is not None for case in result.cases)
    sizes = [case.size_bytes for case in result.cases] or [0]
    day, _, clock = run.run_id[:20].partition("T")
    out_of_bounds, _ = _footer(result, result.cases)
    tests = list(_by_algorithm(result.cases))
    # Over all of them a mean would mean nothing.
    averages = {label: _footer(result, [case for pair in pairs for case in pair if case])[1] for label, pairs in tests}
    devices = [{"rank": rank.get("rank"), "group": 0, "device": (rank.get("cpus") or [0])[0],
                "device_info": f"{rank.get('device', '')} {rank.get('arch', '')}".strip()}
               for rank in run.world.get("ranks", [])]
    return {
        "version": 3, "program": f"wiretax {run.version}", "run_id": run.run_id,
        "start_time": f"{day} {clock.rstrip('Z').replace('-', ':')}", "args": run.argv, "env": [],
        "config": {"nthreads": 1, "ngpus": 1, "minimum_bytes": min(sizes), "maximum_bytes": max(sizes),
                   "aggregated_iterations": 1, "validation": int(checked), "graph": 0,
                   "blocking_collectives": "false", "parallel_init": "false", "devices": devices},
        "results": [_json_row(label, pair, run.world["size"]) for label, pairs in tests for pair in pairs],
        "out_of_bounds": {"count": out_of_bounds, "okay": "false" if out_of_bounds else "true"},
        "average_bus_bandwidth": [{"experiment_name": label, "bandwidth": average, "okay": "unchecked"}
                                  for label, average in averages.items()],
        "errors": [] if result.complete else [(result.end and result.end.reason) or "the run was cut off"],
    }


def _json_row(label: str, pair: Pair, world_size: int) -> dict[str, Any]:
    case = pair[0] or pair[1]
    assert case
    iterations = max((one.time_us.n or 0 for one in pair if one and one.time_us), default=0)
    return {"size": case.size_bytes, "count": case.count, "type": NCCL_TYPES.get(case.datatype, case.datatype),
            "redop": case.redop, "root": "-1", "actual_iterations": iterations, "experiment_name": label,
            "out_of_place": _json_half(pair[0], world_size), "in_place": _json_half(pair[1], world_size),
            "algorithm": case.algorithm, "library": case.library, "variant": case.variant, "mode": case.mode,
            "chosen": case.chosen}


def _json_half(case: Case | None, world_size: int) -> dict[str, Any] | None:
    means = _means(case, world_size)
    if case is None or means is None:
        return None
    return {"time": means[0], "alg_bw": means[1], "bus_bw": means[2], "nwrong": case.n_wrong}
