"""A run of compute and communication together as text: a table a shape, and what it says in words."""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.table import Table

from reports.store.case import LinkStates, find_states
from reports.store.exposed import (
    COMPUTE,
    FUSED,
    LIBRARY,
    Form,
    costs_in,
    difference,
    forms,
    interval_text,
    shapes,
    share,
    surely,
)
from reports.store.schema import Case, Result
from reports.tables.console import plain_console, printed
from reports.tables.sentences import footnotes, link_lines, machine, number, opening, size_text, stopped_first

WIDTH = 80
LAYERS = {"attention_output": "attention output", "mlp_down": "MLP down", "qkv": "QKV", "gate_up": "MLP gate and up"}


def render(result: Result) -> str:
    """A table for each shape, at most 80 columns, and sentences; ends with a newline."""
    console = plain_console(WIDTH)
    states = find_states(result.blocks)
    costs = costs_in(result.blocks, states.of_block, states.longest)
    for line in [*opening(result), *filter(None, [stopped_first(result)]), *head(result, states)]:
        console.print(line)
    said: list[str] = []
    for cases in shapes(result):
        found = forms(cases, costs)
        console.print(f"\n{title(cases[0])}")
        console.print(_table(found, cases))
        said += [verdict(cases[0], found)] if found else []
    console.print()
    for line in [*footnotes(result, [], []), *said]:
        console.print(line)
    return printed(console)


def head(result: Result, states: LinkStates) -> list[str]:
    """What was run, and how to read it."""
    library = next((case.library for case in result.cases if case.library), "no library")
    types = sorted({case.datatype for case in result.cases})
    lines = [machine(result), f"{', '.join(types)} on the wire, isolated; against {library}; seed {result.run.seed}",
             *link_lines(states),
             "us = all, and reading its result, slowest rank; exposed = us less those of the",
             "compute alone in the same rounds; hidden = of what the library's form exposes.",
             "A best of several is chosen on odd rounds and reported on even ones."]
    return lines + [f"note: {note}" for note in result.run.notes]


def title(case: Case) -> str:
    """`llama-3.1-70b, attention output: 8192 x 64 float16, 1/64 of the columns, 1 token; 32 KiB to be reduced`, or
    `llama-3.1-70b, QKV: 256 tokens x 8192 x 128, 1/64 of the columns; 8 MiB to be gathered`."""
    shape: dict[str, Any] = case.shape or {}
    name = ", ".join(filter(None, [shape.get("model"), LAYERS.get(shape.get("layer", ""))]))
    tokens, hidden = f"{shape.get('tokens')} token{'s' * (shape.get('tokens') != 1)}", shape.get("hidden")
    cut = "inner" if case.collective == "gemm_reduce_scatter" else "columns"
    scaled = f", {shape['scale']} of the {cut}" if shape.get("scale", "1") != "1" else ""
    if case.collective == "gemm_reduce_scatter":
        what, then = f"{tokens} x {shape.get('inner')} x {hidden}{scaled}", "reduced and scattered"
    elif case.collective == "allgather_gemm":
        what, then = f"{tokens} x {hidden} x {shape.get('columns')}{scaled}", "gathered"
    else:
        matrix = f"{hidden} x {shape['inner']} {shape['weights']}{scaled}" if "inner" in shape else f"{hidden} elements"
        output = f", {shape['output']} output" if "output" in shape else ""
        what, then = f"{matrix}{output}, {tokens}", "reduced"
    return f"{name}{': ' if name else ''}{what}; {size_text(case.size_bytes)} to be {then}"


def _table(found: list[Form], cases: list[Case]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for name, width in (("", 31), ("us", 7), ("exposed us [95 %]", 21), ("hidden", 6), ("#wrong", 6)):
        table.add_column(name, justify="left" if not name else "right", no_wrap=True, min_width=width)
    by = {_kind(form): form for form in found}
    library = difference(by["library"], by["compute"]) if "library" in by and "compute" in by else None
    for form in found:
        exposed = difference(form, by["compute"]) if "compute" in by and form is not by["compute"] else None
        hidden = share(library[0] - exposed[0], library[0]) if library and exposed else "-"
        wrong = "-" if form.case.n_wrong is None else str(form.case.n_wrong)
        table.add_row(form.name, number(_median(form)), interval_text(exposed),
                      "-" if form is by.get("library") else hidden, wrong)
    for case in cases:
        if case.status == "wrong":
            table.add_row(case.algorithm, "WRONG", "-", "-", str(case.n_wrong), style="bold red")
    return table


def _kind(form: Form) -> str:
    named = {COMPUTE: "compute", LIBRARY: "library", FUSED: "fused"}
    return named.get(form.case.algorithm.partition("+")[0], "ours")


def _median(form: Form) -> float | None:
    costs = [form.costs[turn] for turn in form.rounds]
    return float(np.median(costs)) if costs else None  # the run was interrupted before


def verdict(case: Case, found: list[Form]) -> str:
    """What fusing is worth at this shape, and which form to take."""
    by = {_kind(form): form for form in found}
    where = title(case).partition(";")[0]
    if not {"compute", "ours", "fused"} <= by.keys():
        return f"{where}: not all forms were measured."
    ours, fused = (difference(by[name], by["compute"]) for name in ("ours", "fused"))
    gain, less = difference(by["ours"], by["fused"]), difference(by["fused"], by["ours"])
    if surely(gain):
        words = f"fused exposes {interval_text(gain)} us less than {by['ours'].name}"
        words += f", {share(gain[0], ours[0])} of its communication" if gain and ours and ours[0] > 0 else ""
    elif surely(less):
        words = f"fused does not win: it exposes {interval_text(less)} us more than {by['ours'].name}, the one to take"
    else:
        words = f"fused and {by['ours'].name} are not told apart ({interval_text(gain)} us)"
    negative = [by[name].name for name, exposed in (("ours", ours), ("fused", fused)) if exposed and exposed[0] < 0]
    if negative:
        words += (f"; {' and '.join(negative)} took less than the compute alone, whose result lies where its reader "
                  "waits for it, or by chance: see the interval")
    return f"{where}: {words}."
