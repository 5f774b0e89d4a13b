"""A run that overlaps compute and communication, as text and as a picture: the exposed
communication of every form, the compute alone or with communication, and a verdict on fusing."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from rich.text import Text

from reports.store.case import COMMUNICATES, COMPUTE, FUSED, LIBRARY, Costs, find_states, work_of
from reports.store.schema import Case, Result
from reports.store.stats import Interval, median_interval
from reports.tables.console import lay_out, plain_table
from reports.tables.figure import Bar, draw_bars
from reports.tables.rows import Rounds, best, costs_of, paired, rounds_of
from reports.tables.sentences import count, digits, footnotes, head_lines, number, size_text

OURS = "ours"
LAYERS = {"attention_output": "attention output", "mlp_down": "MLP down", "qkv": "QKV",
          "gate_up": "MLP gate and up"}
UNITS = (
    "us = all work and reading the result, slowest rank; exposed = us less the compute alone in "
    "the same rounds; hidden = share of the library's exposed us. The best of several variants "
    "is chosen on odd rounds and reported on even ones.")
COLOURS = {LIBRARY: "black", FUSED: "#D55E00", OURS: "#0072B2"}  # from Okabe and Ito's palette


@dataclass
class Form:
    """A row of the table. Costs are by round; `report_us` are the even rounds if the odd ones chose
    between several variants."""

    name: str
    case: Case
    costs_us: Rounds
    report_us: Rounds

    @property
    def median_us(self) -> float | None:
        """The median over the reported rounds; None without a round."""
        return float(np.median([*self.report_us.values()])) if self.report_us else None


def shapes(result: Result) -> list[list[Case]]:
    """The cases of each shape, in the order of the run."""
    by_work: dict[str, list[Case]] = {}
    for case in result.cases:
        by_work.setdefault(work_of(case), []).append(case)
    return list(by_work.values())


def groups(result: Result) -> list[tuple[list[Case], dict[str, Form]]]:
    """The cases of each shape, and its best forms by kind: COMPUTE, LIBRARY, OURS and FUSED."""
    states = find_states(result.blocks)
    costs = costs_of(result, states, states.longest)
    return [(cases, _forms(cases, costs)) for cases in shapes(result)]


def _forms(cases: Sequence[Case], costs: Costs) -> dict[str, Form]:
    """A name has the variant if several competed, and the build or the number of chunks."""
    by_kind: dict[str, list[Case]] = {kind: [] for kind in (COMPUTE, LIBRARY, OURS, FUSED)}
    for case in cases:
        kind = case.algorithm.partition("+")[0]
        if kind.startswith("then_") and kind != LIBRARY:
            kind = OURS
        if kind in by_kind and len(costs[case.case]) > 1:
            by_kind[kind].append(case)
    forms = {}
    for kind, rivals in by_kind.items():
        chosen = best(rivals, costs)
        if chosen is None:
            continue
        names = {COMPUTE: "compute alone", LIBRARY: f"then {chosen.library}"}
        name = names.get(chosen.algorithm, re.sub("^then_", "then ", chosen.algorithm))
        variants = {case.variant for case in rivals if case.algorithm == chosen.algorithm}
        if len(variants) > 1 and kind != COMPUTE:
            name += f" {chosen.variant}"
        build, _, chunks = (chosen.chosen or "").partition("+")
        detail = chunks if build == chosen.algorithm else build
        if detail and chosen.algorithm not in names:
            name += f", {detail}"
        report = costs if len(rivals) == 1 else rounds_of(costs, 0)
        forms[kind] = Form(name, chosen, costs[chosen.case], report[chosen.case])
    return forms


def difference(form: Form, other: Form) -> Interval | None:
    """The extra cost of the first form over the other, round by round, in microseconds."""
    form_us, other_us = paired(form.report_us, other.costs_us)
    return median_interval(form_us - other_us) if len(form_us) else None


def exposed_us(by_kind: Mapping[str, Form], kind: str) -> Interval | None:
    """The exposed time of a form, None without it, without communication or compute alone."""
    form, compute = by_kind.get(kind), by_kind.get(COMPUTE)
    communicates = form and form.case.algorithm.startswith(COMMUNICATES)
    return difference(form, compute) if form and compute and communicates else None


def interval_text(interval: Interval | None, unit: float = 1.0) -> str:
    """`5.73 [5.51 5.92]` with the digits of the widest, or `1.2e+06 [1.1e+06 1.3e+06]`."""
    if interval is None:
        return "-"
    median, *ends = [end / unit for end in interval if end is not None]
    most = max(map(abs, (median, *ends)))
    form = f".{digits(most)}f" if most < 999_999.5 else ".1e"
    return f"{median:{form}}" + (f" [{ends[0]:{form}} {ends[1]:{form}}]" if ends else "")


def share(part: float, whole: float) -> str:
    return f"{part / whole:.0%}" if whole > 0 else "-"


def render(result: Result) -> str:
    """A table for each shape, at most 80 columns, and the verdicts; ends with a newline."""
    tables, verdicts = [], []
    for cases, by_kind in groups(result):
        library = exposed_us(by_kind, LIBRARY)
        rows: list[Sequence[str | Text]] = []
        for kind, form in by_kind.items():
            exposed, hidden = exposed_us(by_kind, kind), "-"
            if exposed and library and kind != LIBRARY:
                hidden = share(library[0] - exposed[0], library[0])
            rows.append([form.name, number(form.median_us), interval_text(exposed), hidden,
                         count(form.case.n_wrong)])
        for case in cases:
            if case.status == "wrong":
                cells = case.algorithm, "WRONG", "-", "-", count(case.n_wrong)
                rows.append([Text(cell, style="bold red") for cell in cells])
        columns = {"": 31, "us": 7, "exposed us [95 %]": 21, "hidden": 6, "#wrong": 6}
        tables.append((title(cases[0]), plain_table(columns, rows)))
        verdicts += [verdict(cases[0], by_kind)] if by_kind else []
    library_name = next((case.library for case in result.cases if case.library), "no library")
    types = ", ".join(sorted({case.datatype for case in result.cases}))
    work = f"{types} on the wire, isolated; against {library_name}; seed {result.run.seed}"
    return lay_out(result, head_lines(result, [work], [UNITS]), tables,
                   [*footnotes(result), *verdicts])


def title(case: Case) -> str:
    """`llama-3.1-70b, QKV: 256 tokens x 8192 x 128, 1/64 of the columns; 8 MiB to be gathered`."""
    shape: Mapping[str, Any] = case.shape or {}
    name = ", ".join(filter(None, [shape.get("model"), LAYERS.get(shape.get("layer", ""))]))
    tokens = f"{shape.get('tokens')} token{'s' * (shape.get('tokens') != 1)}"
    hidden, scale = shape.get("hidden"), shape.get("scale", "1")
    scaled = f", {scale} of the columns" if scale != "1" else ""
    if case.collective == "gemm_reduce_scatter":
        scaled = scaled.replace("columns", "inner")
        work, then = f"{tokens} x {shape.get('inner')} x {hidden}{scaled}", "reduced and scattered"
    elif case.collective == "allgather_gemm":
        work, then = f"{tokens} x {hidden} x {shape.get('columns')}{scaled}", "gathered"
    else:
        matrix = (f"{hidden} x {shape['inner']} {shape['weights']}{scaled}" if "inner" in shape
                  else f"{hidden} elements")
        output = f", {shape['output']} output" if "output" in shape else ""
        work, then = f"{matrix}{output}, {tokens}", "reduced"
    return f"{name}{': ' if name else ''}{work}; {size_text(case.size_bytes)} to be {then}"


def verdict(case: Case, by_kind: Mapping[str, Form]) -> str:
    """Whether fusing pays at this shape."""
    work = title(case).partition(";")[0]
    if not {COMPUTE, OURS, FUSED} <= by_kind.keys():
        return f"{work}: not all forms were measured."
    ours, fused = by_kind[OURS], by_kind[FUSED]
    gain, loss = difference(ours, fused), difference(fused, ours)
    ours_us, fused_us = exposed_us(by_kind, OURS), exposed_us(by_kind, FUSED)
    if gain and (gain[1] or 0) > 0:
        words = f"fused exposes {interval_text(gain)} us less than {ours.name}"
        if ours_us and ours_us[0] > 0:
            words += f", {share(gain[0], ours_us[0])} of its communication"
    elif loss and (loss[1] or 0) > 0:
        words = (f"fused does not win: it exposes {interval_text(loss)} us more than {ours.name}, "
                 "the one to take")
    else:
        words = f"fused and {ours.name} do not clearly differ ({interval_text(gain)} us)"
    negative = [form.name for form, exposed in ((ours, ours_us), (fused, fused_us))
                if exposed and exposed[0] < 0]
    if negative:
        words += (f"; {' and '.join(negative)} took less than the compute alone, by chance (see "
                  "the interval) or because its result reaches the reader faster")
    return f"{work}: {words}."


def draw(result: Result, path: Path | IO[Any]) -> None:
    """Exposed communication with its intervals, into an .svg or .png file. Raises ResultError for a
    run without a measured form, or a file that cannot be written."""
    panels = []
    for cases, by_kind in groups(result):
        exposed = {kind: exposed_us(by_kind, kind) for kind in by_kind}
        bars = [Bar(by_kind[kind].name, interval[0], interval_text(interval), COLOURS[kind],
                    ends=interval[1:]) for kind, interval in exposed.items() if interval]
        if bars:
            heading = title(cases[0]).replace("; ", "\n", 1)
            alone_us = number(by_kind[COMPUTE].median_us)
            panels.append((f"{heading}; compute alone {alone_us} us", bars))
    draw_bars(path, result, panels,
              "exposed communication, us: the time of a form less the time of the compute alone")
