"""A run that overlaps compute and communication, as text and as a picture: for each shape the
exposed communication of every form, and a verdict on fusing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from rich.table import Table
from rich.text import Text

from reports.store.case import COMPUTE, FUSED, LIBRARY
from reports.store.schema import Case, Result
from reports.store.stats import Interval
from reports.tables.console import lay_out, plain_table
from reports.tables.figure import Bar, draw_bars
from reports.tables.forms import OURS, Form, difference, forms, interval_text, shapes, share, surely
from reports.tables.rows import costs_in_longest
from reports.tables.sentences import count, footnotes, head_lines, number, size_text

LAYERS = {"attention_output": "attention output", "mlp_down": "MLP down", "qkv": "QKV",
          "gate_up": "MLP gate and up"}
UNITS = (
    "us = all work and reading the result, slowest rank; exposed = us less the compute alone in "
    "the same rounds; hidden = share of the library's exposed us. The best of several variants "
    "is chosen on odd rounds and reported on even ones.")
COLOURS = {LIBRARY: "black", FUSED: "#D55E00", OURS: "#0072B2"}  # from Okabe and Ito's palette


def groups(result: Result) -> list[tuple[list[Case], dict[str, Form]]]:
    """The cases of each shape, and its forms by kind: COMPUTE, LIBRARY, OURS and FUSED."""
    costs = costs_in_longest(result)
    return [(cases, forms(cases, costs)) for cases in shapes(result)]


def render(result: Result) -> str:
    """A table for each shape, at most 80 columns, and the verdicts; ends with a newline."""
    shown = groups(result)
    tables = [(title(cases[0]), _table(cases, by_kind)) for cases, by_kind in shown]
    verdicts = [verdict(cases[0], by_kind) for cases, by_kind in shown if by_kind]
    library = next((case.library for case in result.cases if case.library), "no library")
    types = ", ".join(sorted({case.datatype for case in result.cases}))
    work = f"{types} on the wire, isolated; against {library}; seed {result.run.seed}"
    return lay_out(result, head_lines(result, [work], [UNITS]), tables,
                   [*footnotes(result), *verdicts])


def title(case: Case) -> str:
    """`llama-3.1-70b, attention output: 8192 x 64 float16, 1/64 of the columns, 1 token; 32 KiB to
    be reduced`, or `llama-3.1-70b, QKV: 256 tokens x 8192 x 128, 1/64 of the columns; 8 MiB to be
    gathered`."""
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


def _table(cases: Sequence[Case], by_kind: Mapping[str, Form]) -> Table:
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
    return plain_table({"": 31, "us": 7, "exposed us [95 %]": 21, "hidden": 6, "#wrong": 6}, rows)


def exposed_us(by_kind: Mapping[str, Form], kind: str) -> Interval | None:
    """The exposed time of a form in microseconds; None without it or without the compute alone."""
    if kind == COMPUTE or not {kind, COMPUTE} <= by_kind.keys():
        return None
    return difference(by_kind[kind], by_kind[COMPUTE])


def verdict(case: Case, by_kind: Mapping[str, Form]) -> str:
    """Whether fusing pays at this shape."""
    work = title(case).partition(";")[0]
    if not {COMPUTE, OURS, FUSED} <= by_kind.keys():
        return f"{work}: not all forms were measured."
    ours, fused = by_kind[OURS], by_kind[FUSED]
    gain, loss = difference(ours, fused), difference(fused, ours)
    ours_us, fused_us = exposed_us(by_kind, OURS), exposed_us(by_kind, FUSED)
    if gain and surely(gain):
        words = f"fused exposes {interval_text(gain)} us less than {ours.name}"
        if ours_us and ours_us[0] > 0:
            words += f", {share(gain[0], ours_us[0])} of its communication"
    elif surely(loss):
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
