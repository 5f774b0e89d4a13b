"""A run of `bench.decode` or `bench.prefill` as text: what a whole step takes by each split of the model, what of it is
communication left to see, and at which all-reduce time the answer would be another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.table import Table

from reports.store.case import LinkStates, find_states
from reports.store.exposed import COMPUTE, costs_in, interval_text, shapes, share
from reports.store.schema import Case, Result
from reports.store.stats import Interval, median_interval, ratio_interval
from reports.tables.console import plain_console, printed
from reports.tables.sentences import footnotes, link_lines, machine, number, opening, size_text, stopped_first

BENCHMARKS = ("decode", "prefill")
TENSOR, LIBRARY, PIPELINE, SEQUENCE = (
    "tensor_parallel", "tensor_parallel_library", "pipeline_parallel", "sequence_parallel")
WIDTH = 80
MARGIN = 1.01

Costs = Mapping[int, float]  # of a case by round, in microseconds


def is_of(result: Result) -> bool:
    """Whether the run is of whole steps."""
    return result.run.benchmark in BENCHMARKS


def render(result: Result) -> str:
    """A table for each number of chats, at most 80 columns, and a verdict; ends with a newline."""
    console = plain_console(WIDTH)
    states = find_states(result.blocks)
    costs = costs_in(result.blocks, states.of_block, states.longest)
    for line in [*opening(result), *filter(None, [stopped_first(result)]), *head(result, states)]:
        console.print(line)
    verdicts = []
    for cases in shapes(result):
        steps = {case.algorithm: case for case in best(cases, costs)}
        console.print(f"\n{title(cases[0])}")
        console.print(_table(steps, costs))
        verdicts += verdict(result, steps, costs)
    console.print()
    for line in [*footnotes(result, [], []), *verdicts]:
        console.print(line)
    return printed(console)


def head(result: Result, states: LinkStates) -> list[str]:
    """What was run, and how to read it."""
    case = result.cases[0]
    shape: dict[str, Any] = case.shape
    scaled = f" {shape['scale']} of the columns," if shape["scale"] != "1" else ""
    held = f", {shape['layers_held']} of them distinct" if "layers_held" in shape else ""
    timed = f", {shape['timed_layers']} of them timed and scaled up" if "timed_layers" in shape else ""
    lines = [machine(result),
             f"{shape['model']}, {shape['layers']} layers{held}{timed}: {calls(case)} dependent all-reduces a step,",
             f"{shape['hidden']} x {' and '.join(map(str, shape['inner']))} {shape['weights']} a rank,{scaled} "
             f"{case.datatype} on the wire; seed {result.run.seed}", *link_lines(states),
             "exposed = a step less the compute of a step split by tensor, in the same rounds"]
    return lines + [f"note: {note}" for note in result.run.notes]


def calls(case: Case) -> int:
    """All-reduces of a step split by tensor."""
    return 2 * int(case.shape["layers"])


def title(case: Case) -> str:
    """`2 chats at once; 32 KiB an all-reduce`."""
    shape = case.shape
    what = f"a chunk of {shape['tokens']} tokens" if "tokens" in shape else (
        f"{shape['slots']} chat{'s at once' if shape['slots'] > 1 else ''}")
    return f"{what}; {size_text(case.size_bytes)} an all-reduce"


def tokens(case: Case) -> int:
    """That a step makes, or takes in."""
    return int(case.shape.get("tokens") or case.shape["slots"])


def best(cases: list[Case], costs: Mapping[int, Costs]) -> list[Case]:
    """Of each algorithm the fastest variant; a library has several on GPUs."""
    found: dict[str, Case] = {}
    for case in cases:
        known = found.get(case.algorithm)
        if known is None or _median(costs, case) < _median(costs, known):
            found[case.algorithm] = case
    return list(found.values())


def _median(costs: Mapping[int, Costs], case: Case) -> float:
    of = costs.get(case.case)
    return float(np.median(list(of.values()))) if of and case.status == "ok" else float("inf")


def _table(steps: Mapping[str, Case], costs: Mapping[int, Costs]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for name, width in (("", 25), ("ms\na step", 7), ("\ntokens/s", 8), ("exposed ms\n[95 %]", 19), ("of\nstep", 5),
                        ("\n#wrong", 6)):
        table.add_column(name, justify="left" if not name else "right", no_wrap=True, min_width=width)
    for algorithm, case in steps.items():
        wrong = "-" if case.n_wrong is None else str(case.n_wrong)
        name = {COMPUTE: "compute, split by tensor", LIBRARY: f"{TENSOR}, {case.library}"}.get(algorithm, algorithm)
        took_us = _median(costs, case)
        if not np.isfinite(took_us):
            table.add_row(name, "-", "-", case.status.upper() if case.status == "wrong" else "-", "-", wrong)
            continue
        exposed = _exposed(steps, costs, case) if algorithm in (TENSOR, LIBRARY, SEQUENCE) else None
        text = interval_text(_scaled(exposed, 1e-3))
        speed = "-" if algorithm == COMPUTE else number(1e6 * tokens(case) / took_us)
        table.add_row(name, number(took_us / 1e3), speed, text, share(exposed[0], took_us) if exposed else "-", wrong)
    return table


def _scaled(interval: Interval | None, by: float) -> Interval | None:
    if interval is None:
        return None
    middle, low, high = interval
    return middle * by, None if low is None else low * by, None if high is None else high * by


def _exposed(steps: Mapping[str, Case], costs: Mapping[int, Costs], case: Case) -> Interval | None:
    alone = costs.get(steps[COMPUTE].case, {}) if COMPUTE in steps else {}
    rounds = [turn for turn in costs[case.case] if turn in alone]
    return median_interval([costs[case.case][turn] - alone[turn] for turn in rounds]) if rounds else None


def verdict(result: Result, steps: Mapping[str, Case], costs: Mapping[int, Costs]) -> list[str]:
    """Which split to take at this many chats, and at which time of an all-reduce the answer flips."""
    measured = {name: case for name, case in steps.items() if np.isfinite(_median(costs, case))}
    where = title(steps[next(iter(steps))]).partition(";")[0]
    if not {COMPUTE, TENSOR, PIPELINE} <= measured.keys():
        return [f"{where}: no verdict, tensor and pipeline were not both measured."]
    tensor, pipe, alone = (measured[name] for name in (TENSOR, PIPELINE, COMPUTE))
    tensor_us, pipe_us, alone_us = (_median(costs, case) for case in (tensor, pipe, alone))
    rounds = [turn for turn in costs[tensor.case] if turn in costs[pipe.case]]
    ratio = ratio_interval([costs[pipe.case][t] for t in rounds], [costs[tensor.case][t] for t in rounds])
    low, high = ratio[1] or 0.0, ratio[2] or float("inf")
    faster = "TP is faster" if low > MARGIN else "PP is faster" if high * MARGIN < 1 else "they are not told apart"
    ends = f" [{low:.2f} {high:.2f}]" if ratio[1] is not None else ""
    how = f" ({tensor.chosen})" if tensor.chosen else ""
    said = [f"{where}: a TP step takes {number(tensor_us / 1e3)} ms{how}, a PP step {number(pipe_us / 1e3)} ms "
            f"(paired PP/TP {ratio[0]:.2f}{ends}): {faster}."]
    n = calls(tensor)
    here, flips = (_exposed(steps, costs, case) for case in (tensor, pipe))
    if here is None or flips is None:
        return [*said, "The compute alone has no round in common with both: no word on where the answer flips."]
    here_us, flips_us = here[0] / n, flips[0] / n
    if flips_us <= 0:
        said.append(f"TP's compute alone, {number(alone_us / 1e3)} ms, is no faster than the pipeline: no all-reduce "
                    "is fast enough.")
    elif here_us <= 0:
        said.append(f"The answer flips where an all-reduce costs {number(flips_us)} us; here none is to be seen.")
    else:
        far = flips_us / here_us
        side = f"{far:.1f} times below" if far >= 1 else f"{1 / far:.1f} times above"
        said.append(f"The answer flips where an all-reduce costs {number(flips_us)} us; here it costs "
                    f"{number(here_us)} us, {side} that.")
    if all(rank.get("device") == "cpu" for rank in result.run.world.get("ranks", [])):
        said[-1] += " That is of these cores, which share one memory; cards have one each."
    return said
