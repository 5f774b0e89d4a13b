"""A run of `bench.decode` or `bench.prefill` as text and as a picture: the time of a whole step by
each split of the model, its exposed communication, and the all-reduce time that changes the
verdict."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from rich.table import Table

from reports.store.case import COMPUTE
from reports.store.schema import Case, Result
from reports.store.stats import Interval, median_interval
from reports.tables.console import lay_out, plain_table
from reports.tables.exposed_table import exposed_us
from reports.tables.figure import Bar, draw_bars
from reports.tables.forms import Form, difference, interval_text, shapes, share
from reports.tables.rows import costs_in_longest
from reports.tables.sentences import (
    MARGIN,
    count,
    footnotes,
    head_lines,
    is_on_cpus,
    number,
    size_text,
)

BENCHMARKS = ("decode", "prefill")
TENSOR, LIBRARY, PIPELINE, SEQUENCE = (
    "tensor_parallel", "tensor_parallel_library", "pipeline_parallel", "sequence_parallel")
EXPOSED = (TENSOR, LIBRARY, SEQUENCE)  # the splits with the same compute
COLOURS = {TENSOR: "#D55E00", LIBRARY: "#444444", PIPELINE: "#0072B2", SEQUENCE: "#009E73",
           COMPUTE: "#BBBBBB"}  # from Okabe and Ito's palette


def groups(result: Result) -> list[dict[str, Form]]:
    """For each number of chats or tokens, the fastest variant of each algorithm; a library has
    several variants on GPUs."""
    every, costs = [], costs_in_longest(result)
    for cases in shapes(result):
        steps: dict[str, Form] = {}
        for case in cases:
            names = {COMPUTE: "compute, split by tensor", LIBRARY: f"{TENSOR}, {case.library}"}
            costs_us = costs[case.case].dropna()
            if case.status != "ok":
                costs_us = costs_us[:0]
            step = Form(names.get(case.algorithm, case.algorithm), case, costs_us, costs_us)
            rival = steps.setdefault(case.algorithm, step)
            steps[case.algorithm] = min(rival, step, key=_time_us)
        every.append(steps)
    return every


def _time_us(step: Form) -> float:
    return step.median_us or float("inf")


def render(result: Result) -> str:
    """A table for each number of chats, at most 80 columns, and a verdict; ends with a newline."""
    measured = groups(result)
    tables = [(title(next(iter(steps.values())).case), _table(steps)) for steps in measured]
    verdicts = [sentence for steps in measured for sentence in verdict(result, steps)]
    units = "exposed = a step less the compute of a step split by tensor, in the same rounds"
    return lay_out(result, head_lines(result, _work(result), [units]), tables,
                   [*footnotes(result), *verdicts])


def _work(result: Result) -> list[str]:
    """The model and its split in two lines."""
    case = result.cases[0]
    shape: Mapping[str, Any] = case.shape
    layers = f"{shape['layers']} layers"
    if "layers_held" in shape:
        layers += f", {shape['layers_held']} of them distinct"
    if "timed_layers" in shape:
        layers += f", {shape['timed_layers']} of them timed and scaled up"
    scaled = f" {shape['scale']} of the columns," if shape["scale"] != "1" else ""
    inner = " and ".join(map(str, shape["inner"]))
    return [f"{shape['model']}, {layers}: {calls(case)} dependent all-reduces a step,",
            f"{shape['hidden']} x {inner} {shape['weights']} a rank,{scaled} {case.datatype} "
            f"on the wire; seed {result.run.seed}"]


def calls(case: Case) -> int:
    """The number of all-reduces in a step split by tensor."""
    return 2 * int(case.shape["layers"])


def tokens(case: Case) -> int:
    """The number of tokens that a step produces, or consumes in a prefill."""
    return int(case.shape.get("tokens") or case.shape["slots"])


def title(case: Case) -> str:
    """`2 chats at once; 32 KiB an all-reduce`."""
    chats = f"{tokens(case)} chat{'s at once' * (tokens(case) > 1)}"
    work = f"a chunk of {tokens(case)} tokens" if "tokens" in case.shape else chats
    return f"{work}; {size_text(case.size_bytes)} an all-reduce"


def _table(steps: Mapping[str, Form]) -> Table:
    rows = []
    for algorithm, step in steps.items():
        cells, time_us = ["-", "-", "-", "-"], step.median_us
        if time_us is not None:
            exposed = _exposed_ms(steps, algorithm)
            speed = "-" if algorithm == COMPUTE else number(1e6 * tokens(step.case) / time_us)
            cells = [number(time_us / 1e3), speed, interval_text(exposed),
                     share(exposed[0], time_us / 1e3) if exposed else "-"]
        elif step.case.status == "wrong":
            cells[2] = "WRONG"
        rows.append([step.name, *cells, count(step.case.n_wrong)])
    return plain_table({"": 25, "ms\na step": 7, "tokens/s": 8, "exposed ms\n[95 %]": 19,
                        "of\nstep": 5, "#wrong": 6}, rows)


def _exposed_ms(steps: Mapping[str, Form], algorithm: str) -> Interval | None:
    """The exposed time of a split with the same compute."""
    interval_us = exposed_us(steps, algorithm) if algorithm in EXPOSED else None
    if interval_us is None:
        return None
    median, low, high = interval_us
    return median / 1e3, None if low is None else low / 1e3, None if high is None else high / 1e3


def verdict(result: Result, steps: Mapping[str, Form]) -> list[str]:
    """The faster split at this number of chats, and the all-reduce time that changes the answer."""
    work = title(next(iter(steps.values())).case).partition(";")[0]
    measured = {name for name, step in steps.items() if len(step.report_us)}
    if not {COMPUTE, TENSOR, PIPELINE} <= measured:
        return [f"{work}: no verdict, tensor and pipeline were not both measured."]
    tensor, pipeline = steps[TENSOR], steps[PIPELINE]
    ratios = (pipeline.costs_us / tensor.costs_us).dropna()
    if ratios.empty:
        return [f"{work}: no verdict, tensor and pipeline have no round in common."]
    ratio = median_interval(ratios)
    low, high = ratio[1] or 0.0, ratio[2] or float("inf")
    faster = ("TP is faster" if low > MARGIN else
              "PP is faster" if high * MARGIN < 1 else "no clear difference")
    interval = f"{ratio[0]:.2f}" + (f" [{low:.2f} {high:.2f}]" if ratio[1] is not None else "")
    answer = (f"{work}: a TP step takes {number(_time_us(tensor) / 1e3)} ms{_chosen(tensor)}, "
              f"a PP step {number(_time_us(pipeline) / 1e3)} ms (paired PP/TP {interval}): "
              f"{faster}.")
    return [answer, _flip_point(result, steps)]


def _flip_point(result: Result, steps: Mapping[str, Form]) -> str:
    """The all-reduce time at which the pipeline and the tensor split take the same time."""
    here, flip = (difference(steps[name], steps[COMPUTE]) for name in (TENSOR, PIPELINE))
    if here is None or flip is None:
        return ("The compute alone has no round in common with both splits: the break-even time is "
                "unknown.")
    here_us, flip_us = (interval[0] / calls(steps[TENSOR].case) for interval in (here, flip))
    answer = f"The answer flips where an all-reduce costs {number(flip_us)} us; here "
    if flip_us <= 0:
        answer = (f"TP's compute alone, {number(_time_us(steps[COMPUTE]) / 1e3)} ms, is no faster "
                  "than the pipeline: no all-reduce is fast enough.")
    elif here_us <= 0:
        answer += "no all-reduce time is exposed."
    else:
        factor = flip_us / here_us
        times = f"{factor:.1f} times below" if factor >= 1 else f"{1 / factor:.1f} times above"
        answer += f"it costs {number(here_us)} us, {times} that."
    if is_on_cpus(result):
        answer += " This holds for these cores, which share one memory; cards have one each."
    return answer


def draw(result: Result, path: Path | IO[Any]) -> None:
    """Milliseconds of a step with the exposed part hatched, into an .svg or .png file. Raises
    ResultError for a run without a measured step, or a file that cannot be written."""
    panels = []
    for steps in groups(result):
        bars = []
        for algorithm, step in steps.items():
            time_us, exposed = step.median_us, _exposed_ms(steps, algorithm)
            if time_us is not None:
                bars.append(Bar(step.name + _chosen(step), time_us / 1e3, number(time_us / 1e3),
                                COLOURS.get(algorithm, "#CC79A7"),
                                hatched=max(exposed[0], 0.0) if exposed else 0.0))
        if bars:
            panels.append((title(next(iter(steps.values())).case), bars))
    draw_bars(path, result, panels, "ms a step; hatched: exposed communication")


def _chosen(step: Form) -> str:
    return f" ({step.case.chosen})" if step.case.chosen else ""
