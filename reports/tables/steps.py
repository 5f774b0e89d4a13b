"""A run of `bench.decode` or `bench.prefill` as text and as a picture: the time of a whole step by
each split of the model, its exposed communication, and the all-reduce time that changes the
verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from rich.table import Table

from reports.store.case import find_states
from reports.store.exposed import COMPUTE, Costs, costs_in
from reports.store.schema import Case, Result
from reports.store.stats import Interval, median_interval
from reports.tables.console import lay_out, plain_table
from reports.tables.exposed_table import exposed_us, median_us
from reports.tables.figure import Bar, draw_bars
from reports.tables.forms import Form, difference, interval_text, shapes, share
from reports.tables.rows import MARGIN
from reports.tables.sentences import count, footnotes, head_lines, is_on_cpus, number, size_text

BENCHMARKS = ("decode", "prefill")
TENSOR, LIBRARY, PIPELINE, SEQUENCE = (
    "tensor_parallel", "tensor_parallel_library", "pipeline_parallel", "sequence_parallel")
EXPOSED = (TENSOR, LIBRARY, SEQUENCE)  # the splits with the same compute
COLOURS = {TENSOR: "#D55E00", LIBRARY: "#444444", PIPELINE: "#0072B2", SEQUENCE: "#009E73",
           COMPUTE: "#BBBBBB"}  # from Okabe and Ito's palette


def is_of(result: Result) -> bool:
    """Whether the run measured whole steps."""
    return result.run.benchmark in BENCHMARKS


def groups(result: Result) -> list[dict[str, Form]]:
    """For each number of chats or tokens, the steps by algorithm."""
    states = find_states(result.blocks)
    costs = costs_in(result.blocks, states.of_block, states.longest)
    return [_fastest(cases, costs) for cases in shapes(result)]


def _fastest(cases: Sequence[Case], costs: Costs) -> dict[str, Form]:
    """The fastest variant of each algorithm; a library has several variants on GPUs."""
    steps: dict[str, Form] = {}
    for case in cases:
        names = {COMPUTE: "compute, split by tensor", LIBRARY: f"{TENSOR}, {case.library}"}
        costs_us = costs.get(case.case, {}) if case.status == "ok" else {}
        step = Form(names.get(case.algorithm, case.algorithm), case, costs_us, list(costs_us))
        rival = steps.get(case.algorithm)
        if rival is None or _time_us(step) < _time_us(rival):
            steps[case.algorithm] = step
    return steps


def _time_us(step: Form) -> float:
    return median_us(step) or float("inf")


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
    table = plain_table([("", 25), ("ms\na step", 7), ("tokens/s", 8), ("exposed ms\n[95 %]", 19),
                         ("of\nstep", 5), ("#wrong", 6)])
    for algorithm, step in steps.items():
        cells, time_us = ["-", "-", "-", "-"], median_us(step)
        if time_us is not None:
            exposed = exposed_us(steps, algorithm) if algorithm in EXPOSED else None
            speed = "-" if algorithm == COMPUTE else number(1e6 * tokens(step.case) / time_us)
            cells = [number(time_us / 1e3), speed, interval_text(_in_ms(exposed)),
                     share(exposed[0], time_us) if exposed else "-"]
        elif step.case.status == "wrong":
            cells[2] = "WRONG"
        table.add_row(step.name, *cells, count(step.case.n_wrong))
    return table


def _in_ms(interval_us: Interval | None) -> Interval | None:
    if interval_us is None:
        return None
    median, low, high = interval_us
    return median / 1e3, None if low is None else low / 1e3, None if high is None else high / 1e3


def verdict(result: Result, steps: Mapping[str, Form]) -> list[str]:
    """The faster split at this number of chats, and the all-reduce time that changes the answer."""
    work = title(next(iter(steps.values())).case).partition(";")[0]
    measured = {name for name, step in steps.items() if step.rounds}
    if not {COMPUTE, TENSOR, PIPELINE} <= measured:
        return [f"{work}: no verdict, tensor and pipeline were not both measured."]
    tensor, pipeline = steps[TENSOR], steps[PIPELINE]
    rounds = [r for r in tensor.rounds if r in pipeline.costs]
    ratio = median_interval(np.divide([pipeline.costs[r] for r in rounds],
                                      [tensor.costs[r] for r in rounds]))
    low, high = ratio[1] or 0.0, ratio[2] or float("inf")
    faster = ("TP is faster" if low > MARGIN else
              "PP is faster" if high * MARGIN < 1 else "no clear difference")
    ends = f" [{low:.2f} {high:.2f}]" if ratio[1] is not None else ""
    chosen = f" ({tensor.case.chosen})" if tensor.case.chosen else ""
    answer = (f"{work}: a TP step takes {number(_time_us(tensor) / 1e3)} ms{chosen}, a PP step "
              f"{number(_time_us(pipeline) / 1e3)} ms (paired PP/TP {ratio[0]:.2f}{ends}): "
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
        alone_us = median_us(steps[COMPUTE]) if COMPUTE in steps else None
        for algorithm, step in steps.items():
            time_us, exposed_ms = median_us(step), 0.0
            if time_us is None:
                continue
            if algorithm in EXPOSED and alone_us:
                exposed_ms = max(time_us - alone_us, 0.0) / 1e3
            chosen = f" ({step.case.chosen})" if step.case.chosen else ""
            bars.append(Bar(step.name + chosen, time_us / 1e3, number(time_us / 1e3),
                            COLOURS.get(algorithm, "#CC79A7"), hatched=exposed_ms))
        if bars:
            panels.append((title(next(iter(steps.values())).case), bars))
    draw_bars(path, result, panels, "ms a step; hatched: exposed communication")
