"""A run of `bench.decode` or `bench.prefill` as text and as a picture: the time of a step by each
split of the model, its exposed communication, and the all-reduce time that changes the verdict."""

from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from reports.store.case import COMPUTE, find_states
from reports.store.schema import Case, Result
from reports.tables import sentences
from reports.tables.exposed_table import Form, compare, exposed_us, interval_text, shapes
from reports.tables.figure import Bar, draw_bars
from reports.tables.headline import Point, contains_one, headline
from reports.tables.rows import costs_of, ratio_value
from reports.tables.rows import interval_text as ratio_text
from reports.tables.sentences import EVEN_RATIO, has_gpus, lay_out_run, number, plain_table

BENCHMARKS = ("decode", "prefill")
TENSOR, LIBRARY, PIPELINE = "tensor_parallel", "tensor_parallel_library", "pipeline_parallel"
COLOURS = {
    TENSOR: "#D55E00",
    LIBRARY: "#444444",
    PIPELINE: "#0072B2",
    COMPUTE: "#BBBBBB",
    "sequence_parallel": "#009E73",
}  # from Okabe and Ito's palette
COLUMNS = {
    "": 25,
    "ms\na step": 7,
    "tokens/s": 8,
    "exposed ms\n[95 %]": 19,
    "of\nstep": 5,
    "#wrong": 6,
}


def groups(result: Result) -> list[dict[str, Form]]:
    """The fastest variant of each algorithm, for each number of chats or tokens."""
    states = find_states(result.blocks)
    every, costs = [], costs_of(result, states, states.longest)
    for cases in shapes(result):
        steps: dict[str, Form] = {}
        for case in cases:
            name = f"{TENSOR}, {case.library}" if case.library else case.algorithm
            step = Form(name, case, costs[case.case], costs[case.case])
            rivals = steps.get(case.algorithm, step), step
            steps[case.algorithm] = min(rivals, key=lambda form: form.median_us or float("inf"))
        every.append(steps)
    return every


def render(result: Result) -> str:
    """A table for each number of chats, at most 80 columns, and a verdict; ends with a newline."""
    tables, verdicts = [], []
    for steps in groups(result):
        rows = []
        for algorithm, step in steps.items():
            cells, time_us = ["-", "-", "-", "-"], step.median_us
            if time_us is not None:
                exposed, shape = exposed_us(steps, algorithm), step.case.shape
                tokens = shape.get("tokens") or shape["slots"]
                speed = "-" if algorithm == COMPUTE else number(1e6 * tokens / time_us)
                cells = [
                    number(time_us / 1e3),
                    speed,
                    interval_text(exposed, 1e3),
                    f"{exposed[0] / time_us:.0%}" if exposed else "-",
                ]
            elif step.case.status == "wrong":
                cells[2] = "WRONG"
            rows.append([step.name, *cells, sentences.count(step.case.n_wrong)])
        tables.append((title(next(iter(steps.values())).case), plain_table(COLUMNS, rows)))
        verdicts += verdict(result, steps)
    case = result.cases[0]
    shape = {name: value for name, value in case.shape.items() if name not in ("tokens", "slots")}
    return lay_out_run(
        result,
        headline([result], points),
        [
            f"{', '.join(sentences.shape_words(shape))}; "
            f"{calls(case)} dependent all-reduces a step, {case.datatype} on the wire; "
            f"seed {result.run.seed}",
            "exposed = a step less the compute of a step split by tensor, in the same rounds",
        ],
        tables,
        verdicts,
    )


def points(result: Result) -> list[Point]:
    """The headline's figures: a step split by tensor with the fewest and the most chats or tokens,
    and how many times as fast it is as one split by layers."""
    figures = []
    for steps in groups(result):
        if TENSOR in steps and (time_us := steps[TENSOR].median_us):
            ratio = compare(steps, PIPELINE, TENSOR, np.divide)
            figures.append(
                Point(
                    title(steps[TENSOR].case).partition(";")[0],
                    time_us / 1e3,
                    "ms a step",
                    ratio_value(ratio),
                    "pipeline parallel",
                    not contains_one(ratio),
                )
            )
    return [*figures[:1], *figures[1:][-1:]]


def calls(case: Case) -> int:
    """The number of all-reduces in a step split by tensor."""
    return 2 * int(case.shape["layers"])


def title(case: Case) -> str:
    """`slots 2; 32 KiB an all-reduce`."""
    unit = "tokens" if "tokens" in case.shape else "slots"
    return f"{unit} {case.shape[unit]}; {sentences.size_text(case.size_bytes)} an all-reduce"


def verdict(result: Result, steps: Mapping[str, Form]) -> list[str]:
    """The faster split at this number of chats, and the all-reduce time that changes the answer."""
    case = next(iter(steps.values())).case
    work = title(case).partition(";")[0]
    ratio = compare(steps, PIPELINE, TENSOR, np.divide)
    exposed, flip = compare(steps, TENSOR, COMPUTE), compare(steps, PIPELINE, COMPUTE)
    if ratio is None or exposed is None or flip is None:
        return [f"{work}: no verdict, compute, tensor and pipeline have no round in common."]
    _, low, high = ratio
    faster = (
        "TP is faster"
        if (low or 0) > EVEN_RATIO
        else "PP is faster"
        if (high or np.inf) * EVEN_RATIO < 1
        else "no clear difference"
    )
    chosen = steps[TENSOR].case.chosen
    by = f" (TP by {sentences.spoken(chosen)})" if chosen else ""
    here_us, flip_us = (interval[0] / calls(case) for interval in (exposed, flip))
    change = (
        f"The answer flips where an all-reduce exposes {number(flip_us)} us; here it exposes "
        f"{number(here_us)} us."
    )
    if flip_us <= 0:
        change = "TP's compute alone is no faster than PP: no all-reduce is fast enough."
    if not has_gpus(result):
        hosts = " a host" * (result.run.world.get("hosts", 1) != 1)
        change += (
            f" This holds for these cores, which share one memory{hosts}; cards have one each."
        )
    return [f"{work}: {faster}, PP/TP {ratio_text(ratio)}{by}.", change]


def draw(result: Result, path: Path | IO[Any]) -> None:
    """Milliseconds of a step with the exposed part hatched, into an .svg or .png file. Raises
    ResultError for a run without a measured step, or a file that cannot be written."""
    panels = []
    for steps in groups(result):
        bars = []
        for algorithm, step in steps.items():
            if step.median_us is None:
                continue
            time_ms, exposed = step.median_us / 1e3, exposed_us(steps, algorithm)
            bars.append(
                Bar(
                    step.name,
                    time_ms,
                    number(time_ms),
                    COLOURS.get(algorithm, "#CC79A7"),
                    hatched=max(exposed[0] / 1e3, 0.0) if exposed else 0.0,
                )
            )
        if bars:
            panels.append((title(next(iter(steps.values())).case), bars))
    draw_bars(path, result, panels, "ms a step; hatched: exposed communication")
