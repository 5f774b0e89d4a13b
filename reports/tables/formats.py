"""A run in other programs' formats: csv, and the text of nccl-tests, which has the means of one
algorithm, a row for each size with an out-of-place and an in-place half."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from reports.store.case import case_bus_factor
from reports.store.schema import Case, Result
from reports.store.untrusted import spreadsheet_cell
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


def as_csv(rows: Iterable[Mapping[Any, Any]]) -> str:
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


def as_nccl_tests(result: Result) -> str:
    """The text of nccl-tests for `auto`, else the first of ours, else the library, in its layout:
    one test of isolated calls of the first shape, variant and memory. Times are means over
    iterations of the collective alone, as in nccl-tests."""
    names = [case.algorithm for case in result.cases if case.algorithm != "library"]
    name = "auto" if "auto" in names else [*names, "library"][0]
    cases = [case for case in result.cases if case.algorithm == name]
    cases = [case for case in cases if case.mode == "isolated"] or cases
    first, types = cases[0], [(case.datatype, case.redop) for case in cases]
    cases = [
        case
        for case in cases
        if (case.shape, case.variant, case.memory) == (first.shape, first.variant, first.memory)
    ]
    rows: dict[tuple[int, int], dict[bool, Case]] = {}
    for case in cases:
        key = types.index((case.datatype, case.redop)), case.size_bytes
        rows.setdefault(key, {})[case.in_place] = case

    details = filter(None, (first.variant, first.memory, first.mode, shape_text(first.shape)))
    sizes, left_out = sorted({case.size_bytes for case in cases}), len(result.cases) - len(cases)
    steps = {high - low for low, high in pairwise(sizes)}
    counts = [case.n_wrong for case in cases if case.n_wrong is not None]
    wrong, world_size = sum(map(bool, counts)), result.run.world["size"]
    bus_bws = [figures[2] for case in cases if (figures := _figures(case, world_size))[2]]
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

    values = {
        "program": f"{first.collective}_perf",
        "name": f"{first.library or first.algorithm} ({', '.join(details)})",
        "version": result.run.version,
        "others": f"# {left_out} other cases: python -m reports show --format csv\n"
        * bool(left_out),
        "low": sizes[0],
        "high": sizes[-1],
        "iterations": max((case.time_us and case.time_us.n) or 0 for case in cases),
        "step": f"{steps.pop()}(bytes)"
        if len(steps) == 1 and len(sizes) > 2
        else (f"{round(sizes[-1] / sizes[-2]) if len(sizes) > 1 and sizes[-2] else 1}(factor)"),
        "validation": int(bool(counts)),
        "wrong": wrong,
        "verdict": "FAILED" if wrong else "OK",
        "bus_bw": sum(bus_bws) / max(len(bus_bws), 1),
        "end": "",
        "devices": "".join(devices),
    }
    lines = []

    for (_, size_bytes), halves in sorted(rows.items(), key=lambda row: row[0]):
        case = next(iter(halves.values()))
        datatype = NCCL_TYPES.get(case.datatype, case.datatype)
        texts = [_half(_figures(halves.get(place), world_size)) for place in (False, True)]
        head = f"{size_bytes:12d}  {case.count:12d}  {datatype:>8}  {case.redop:>6}  {-1:>6}"
        lines.append(f"{head}{''.join(texts)}\n")

    return "".join([HEAD.format_map(values), *lines, END.format_map(values)])


def _figures(case: Case | None, world_size: int) -> list[float | None]:
    """The mean time in us, algbw and busbw in GB/s, and the wrong elements; None without them."""
    mean = case.time_us.mean if case and case.time_us else None
    if case is None or mean is None:
        return [None] * 4
    if not mean or case.alg_bw_gb_s is None:
        return [mean, None, None, case.n_wrong]

    alg_bw = case.size_bytes / mean / 1e3
    return [mean, alg_bw, alg_bw * case_bus_factor(case, world_size), case.n_wrong]


def _half(figures: Sequence[float | None]) -> str:
    """The columns of a half; a figure has the decimals for which there is room, or an exponent."""
    *values, n_wrong = figures
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
