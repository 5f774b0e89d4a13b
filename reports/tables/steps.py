"""A run of `bench.decode` or `bench.prefill` as text and as a picture: the time of a step by each
split of the model, its exposed communication, and the all-reduce time that changes the verdict."""

from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from reports.store.case import COMPUTE, find_states
from reports.store.schema import Case, Result
from reports.store.stats import median_interval
from reports.tables import sentences
from reports.tables.console import lay_out, plain_table
from reports.tables.exposed_table import Form, difference, exposed_us, interval_text, shapes, share
from reports.tables.figure import Bar, draw_bars
from reports.tables.rows import costs_of, paired
from reports.tables.sentences import MARGIN, count, footnotes, has_gpus, head_lines, number

BENCHMARKS = ("decode", "prefill")
TENSOR, LIBRARY, PIPELINE = "tensor_parallel", "tensor_parallel_library", "pipeline_parallel"
COLOURS = {TENSOR: "#D55E00", LIBRARY: "#444444", PIPELINE: "#0072B2", COMPUTE: "#BBBBBB",
           "sequence_parallel": "#009E73"}  # from Okabe and Ito's palette
COLUMNS = {"": 25, "ms\na step": 7, "tokens/s": 8, "exposed ms\n[95 %]": 19, "of\nstep": 5,
           "#wrong": 6}


def groups(result: Result) -> list[dict[str, Form]]:
    """The fastest variant of each algorithm, for each number of chats or tokens."""
    states = find_states(result.blocks)
    every, costs = [], costs_of(result, states, states.longest)
    for cases in shapes(result):
        steps: dict[str, Form] = {}
        for case in cases:
            names = {COMPUTE: "compute, split by tensor", LIBRARY: f"{TENSOR}, {case.library}"}
            costs_us = costs[case.case]
            step = Form(names.get(case.algorithm, case.algorithm), case, costs_us, costs_us)
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
                case, exposed = step.case, exposed_us(steps, algorithm)
                tokens = case.shape.get("tokens") or case.shape["slots"]
                speed = "-" if algorithm == COMPUTE else number(1e6 * tokens / time_us)
                cells = [number(time_us / 1e3), speed, interval_text(exposed, 1e3),
                         share(exposed[0], time_us) if exposed else "-"]
            elif step.case.status == "wrong":
                cells[2] = "WRONG"
            rows.append([step.name, *cells, count(step.case.n_wrong)])
        tables.append((title(next(iter(steps.values())).case), plain_table(COLUMNS, rows)))
        verdicts += verdict(result, steps)
    case = result.cases[0]
    shape: Mapping[str, Any] = case.shape
    layers = f"{shape['layers']} layers"
    if "layers_held" in shape:
        layers += f", {shape['layers_held']} of them distinct"
    if "timed_layers" in shape:
        layers += f", {shape['timed_layers']} of them timed and scaled up"
    scaled = f" {shape['scale']} of the columns," if shape["scale"] != "1" else ""
    inner = " and ".join(map(str, shape["inner"]))
    work = [f"{shape['model']}, {layers}: {calls(case)} dependent all-reduces a step,",
            f"{shape['hidden']} x {inner} {shape['weights']} a rank,{scaled} {case.datatype} "
            f"on the wire; seed {result.run.seed}"]
    units = "exposed = a step less the compute of a step split by tensor, in the same rounds"
    return lay_out(result, head_lines(result, work, [units]), tables,
                   [*footnotes(result), *verdicts])


def calls(case: Case) -> int:
    """The number of all-reduces in a step split by tensor."""
    return 2 * int(case.shape["layers"])


def title(case: Case) -> str:
    """`2 chats at once; 32 KiB an all-reduce`."""
    slots = case.shape.get("slots")
    chats = f"{slots} chat{'s at once' * (slots != 1)}"
    work = f"a chunk of {case.shape['tokens']} tokens" if "tokens" in case.shape else chats
    return f"{work}; {sentences.size_text(case.size_bytes)} an all-reduce"


def verdict(result: Result, steps: Mapping[str, Form]) -> list[str]:
    """The faster split at this number of chats, and the all-reduce time that changes the answer."""
    work = title(next(iter(steps.values())).case).partition(";")[0]
    measured = {name for name, step in steps.items() if step.costs_us}
    if not {COMPUTE, TENSOR, PIPELINE} <= measured:
        return [f"{work}: no verdict, tensor and pipeline were not both measured."]
    compute, tensor, pipeline = (steps[name] for name in (COMPUTE, TENSOR, PIPELINE))
    pipeline_us, tensor_us = paired(pipeline.costs_us, tensor.costs_us)
    if not len(pipeline_us):
        return [f"{work}: no verdict, tensor and pipeline have no round in common."]
    ratio, *ends = median_interval(pipeline_us / tensor_us)
    low, high = ends[0] or 0.0, ends[1] or float("inf")
    faster = ("TP is faster" if low > MARGIN else
              "PP is faster" if high * MARGIN < 1 else "no clear difference")
    interval = f" [{low:.2f} {high:.2f}]" if ends[0] is not None else ""
    compute_ms, tensor_ms, pipeline_ms = (
        number((step.median_us or 0.0) / 1e3) for step in (compute, tensor, pipeline))
    chosen = f" ({tensor.case.chosen})" if tensor.case.chosen else ""
    answer = (f"{work}: a TP step takes {tensor_ms} ms{chosen}, a PP step {pipeline_ms} ms (paired "
              f"PP/TP {ratio:.2f}{interval}): {faster}.")
    here, flip = difference(tensor, compute), difference(pipeline, compute)
    if here is None or flip is None:
        return [answer, "The compute alone has no round in common with both splits: the break-even "
                "time is unknown."]
    here_us, flip_us = (interval[0] / calls(tensor.case) for interval in (here, flip))
    flips = f"The answer flips where an all-reduce costs {number(flip_us)} us; here "
    if flip_us <= 0:
        flips = (f"TP's compute alone, {compute_ms} ms, is no faster than the pipeline: no "
                 "all-reduce is fast enough.")
    elif here_us <= 0:
        flips += "no all-reduce time is exposed."
    else:
        factor = flip_us / here_us
        times = f"{factor:.1f} times below" if factor >= 1 else f"{1 / factor:.1f} times above"
        flips += f"it costs {number(here_us)} us, {times} that."
    if not has_gpus(result):
        flips += " This holds for these cores, which share one memory; cards have one each."
    return [answer, flips]


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
            chosen = f" ({step.case.chosen})" if step.case.chosen else ""
            bars.append(Bar(step.name + chosen, time_ms, number(time_ms),
                            COLOURS.get(algorithm, "#CC79A7"),
                            hatched=max(exposed[0] / 1e3, 0.0) if exposed else 0.0))
        if bars:
            panels.append((title(next(iter(steps.values())).case), bars))
    draw_bars(path, result, panels, "ms a step; hatched: exposed communication")
