"""A run in other programs' formats: csv, the text of nccl-tests, and its JSON report of `-J`. A
test of nccl-tests has the means of one algorithm, a row for each size with an out-of-place and an
in-place half. The text is one test; the report has a test for each algorithm, the library first."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

from reports.store.case import case_bus_factor
from reports.store.result import ResultError
from reports.store.schema import Case, Result, Summary
from reports.store.untrusted import spreadsheet_cell
from reports.tables.frame import case_rows
from reports.tables.sentences import shape_text

NCCL_TYPES = {
    "float16": "half",
    "float32": "float",
    "float64": "double",
    "float8_e4m3": "f8e4m3",
    "float8_e5m2": "f8e5m2",
}

# A test in the text of nccl-tests: its head and its end. {end} keeps the blanks before it.
HEAD = """\
# wiretax {version}: {name}
# Collective test starting: {program}
# nThread 1 nGpus 1 minBytes {low} maxBytes {high} step: {step} warmup iters: 0 \
iters: {iterations} agg iters: 1 validation: {validation} graph: 0 unalign: 0
# time: mean over iterations of the slowest rank, while the link was in its longest state
# iters: the most of any row; warm-up is not counted
{others}#
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


def as_csv(result: Result) -> str:
    """A header and a row for each case."""
    return as_csv_text(case_rows(result))


def as_csv_text(rows: Iterable[Mapping[Any, Any]]) -> str:
    """A header and these rows, in which no cell is a formula, without the columns that are empty
    throughout; empty without rows."""
    import pandas as pd  # takes 0.3 s, which a run's own table does not need

    cells = [
        {spreadsheet_cell(name): spreadsheet_cell(value) for name, value in row.items()}
        for row in rows
    ]
    table = pd.DataFrame(cells, dtype=object)
    table = table.loc[:, (table.notna() & (table != "")).any()]
    return table.to_csv(index=False, lineterminator="\n") if len(table) else ""


def as_json(result: Result) -> dict[str, Any]:
    """The report of `-J`: the meaningful fields of nccl-tests' version 3, with an entry of
    `results` for each algorithm, variant, mode and size."""
    run, tests = result.run, _tests(result)
    rows = [row for _, rows, _, _ in tests for row in rows]
    sizes = [row["size"] for row in rows] or [0]
    counts = [case.n_wrong for case in result.cases if case.n_wrong is not None]
    wrong = sum(map(bool, counts))
    devices = [
        {
            "rank": rank.get("rank"),
            "group": 0,
            "device": (rank.get("cpus") or [0])[0],
            "device_info": f"{rank.get('device', '')} {rank.get('arch', '')}".strip(),
        }
        for rank in run.world.get("ranks", [])
    ]
    reason = result.end.reason if result.end else None
    return {
        "version": 3,
        "program": f"wiretax {run.version}",
        "run_id": run.run_id,
        "args": run.argv,
        "config": {
            "minimum_bytes": min(sizes),
            "maximum_bytes": max(sizes),
            "validation": int(bool(counts)),
            "devices": devices,
        },
        "results": rows,
        "out_of_bounds": {"count": wrong, "okay": "false" if wrong else "true"},
        # A mean over several algorithms would mean nothing: each has its own.
        "average_bus_bandwidth": [
            {"experiment_name": name, "bandwidth": mean, "okay": "unchecked"}
            for name, _, _, mean in tests
        ],
        "errors": [] if result.complete else [reason or "the run was cut off"],
    }


def _tests(result: Result) -> list[tuple[str, list[dict[str, Any]], list[int], float]]:
    """A test for each algorithm, variant, memory, mode and shape, the library first: its name, its
    rows, the wrong elements of each checked case, and the mean busbw. Each half of a row, None
    without a time, has the mean time in us, algbw and busbw in GB/s, and the wrong elements."""
    by_name: dict[tuple[str, str], list[Case]] = {}
    for case in sorted(result.cases, key=lambda case: case.algorithm != "library"):
        details = filter(None, (case.variant, case.memory, case.mode, shape_text(case.shape)))
        name = f"{case.library or case.algorithm} ({', '.join(details)})"
        by_name.setdefault((case.algorithm, name), []).append(case)

    tests = []
    for (_, name), cases in by_name.items():
        rows: dict[tuple[int, str, str], dict[str, Any]] = {}
        bus_bws = []
        cases.sort(key=lambda case: (case.size_bytes, case.datatype, case.redop, case.in_place))
        for case in cases:
            row = rows.setdefault(
                (case.size_bytes, case.datatype, case.redop),
                {
                    "size": case.size_bytes,
                    "count": case.count,
                    "type": NCCL_TYPES.get(case.datatype, case.datatype),
                    "redop": case.redop,
                    "root": "-1",
                    "actual_iterations": 0,
                    "experiment_name": name,
                    "out_of_place": None,
                    "in_place": None,
                    "algorithm": case.algorithm,
                    "library": case.library,
                    "variant": case.variant,
                    "mode": case.mode,
                    "chosen": case.chosen,
                },
            )
            time = case.time_us or Summary(median=0.0)
            row["actual_iterations"] = max(row["actual_iterations"], time.n or 0)
            if time.mean is not None:
                alg_bw = bus_bw = None
                if time.mean and case.alg_bw_gb_s is not None:
                    alg_bw = case.size_bytes / time.mean / 1e3
                    bus_bw = alg_bw * case_bus_factor(case, result.run.world["size"])
                    bus_bws.append(bus_bw)
                row["in_place" if case.in_place else "out_of_place"] = {
                    "time": time.mean,
                    "alg_bw": alg_bw,
                    "bus_bw": bus_bw,
                    "nwrong": case.n_wrong,
                }
        counts = [case.n_wrong for case in cases if case.n_wrong is not None]
        tests.append((name, [*rows.values()], counts, sum(bus_bws) / max(len(bus_bws), 1)))

    return tests


def nccl_algorithm(result: Result) -> str:
    """The algorithm whose test is printed: `auto`, else the first of ours, else the library."""
    names = [case.algorithm for case in result.cases if case.algorithm != "library"]
    return "auto" if "auto" in names else [*names, "library"][0]


def as_nccl_tests(result: Result, algorithm: str | None = None, registered: bool = False) -> str:
    """The text of nccl-tests for an algorithm, in its layout: one test of isolated calls of the
    first shape, over copied or `registered` buffers if both were measured. Times are means over
    iterations of the collective alone, as in nccl-tests. Raises ResultError for an algorithm that
    the run does not have."""
    name = algorithm or nccl_algorithm(result)
    cases = [case for case in result.cases if case.algorithm == name]

    if not cases:
        raise ResultError(f"{result.path} has no algorithm {name}")

    cases = [case for case in cases if case.mode == "isolated"] or cases
    cases = [case for case in cases if case.shape == cases[0].shape]
    variants = dict.fromkeys(case.variant for case in cases)
    variant = "registered" if registered and "registered" in variants else next(iter(variants))
    shown = [case for case in cases if case.variant == variant and case.memory == cases[0].memory]
    left_out = len(result.cases) - len(shown)
    devices = []

    for rank in result.run.world.get("ranks", []):
        number, model = rank.get("rank", 0), rank.get("gpu") or rank.get("device", "")
        device = number if rank.get("gpu") else (rank.get("cpus") or [0])[0]
        host = f"host{rank.get('host') or 0}"
        pci = (rank.get("pci_bus_id") or "0000:00:00")[:10]
        devices.append(
            f"#  Rank {number:2d} Group  0 Pid {0:6d} on {host:>10} device "
            f"{device:2d} [{pci}] {model} {rank.get('arch', '')}\n"
        )

    [(title, rows, counts, bus_bw)] = _tests(replace(result, cases=shown))
    pairs = [(NCCL_TYPES.get(case.datatype, case.datatype), case.redop) for case in result.cases]
    rows.sort(key=lambda row: (pairs.index((row["type"], row["redop"])), row["size"]))
    sizes, wrong = sorted({row["size"] for row in rows}), sum(map(bool, counts))
    steps = {high - low for low, high in pairwise(sizes)}
    values = {
        "program": f"{shown[0].collective}_perf",
        "name": title,
        "version": result.run.version,
        "others": f"# {left_out} other cases: python -m reports show --format csv\n"
        * bool(left_out),
        "low": sizes[0],
        "high": sizes[-1],
        "iterations": max(row["actual_iterations"] for row in rows),
        "step": f"{steps.pop()}(bytes)"
        if len(steps) == 1 and len(sizes) > 2
        else (f"{round(sizes[-1] / sizes[-2]) if len(sizes) > 1 and sizes[-2] else 1}(factor)"),
        "validation": int(bool(counts)),
        "wrong": wrong,
        "verdict": "FAILED" if wrong else "OK",
        "bus_bw": bus_bw,
        "end": "",
        "devices": "".join(devices),
    }
    lines = [
        f"{row['size']:12d}  {row['count']:12d}  {row['type']:>8}  {row['redop']:>6}  "
        f"{row['root']:>6}{_figures(row['out_of_place'])}{_figures(row['in_place'])}\n"
        for row in rows
    ]
    return "".join([HEAD.format_map(values), *lines, END.format_map(values)])


def _figures(half: dict[str, Any] | None) -> str:
    """The columns of a half; a figure has the decimals for which there is room, or an exponent."""
    *values, n_wrong = half.values() if half else [None] * 4
    cells = []

    for value, width in zip(values, (7, 6, 6), strict=True):
        texts = (
            ["N/A"]
            if value is None
            else [*(f"{value:.{digits}f}" for digits in (2, 1, 0)), f"{value:.{width - 6}e}"]
        )
        text = next((text for text in texts if len(text) <= width), texts[-1])
        cells.append(f"  {text:>{width}}")

    return "".join(cells) + f"  {'N/A' if n_wrong is None else f'{float(n_wrong):g}':>6}"
