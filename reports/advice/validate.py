"""`advise --validate`: compares measured decode steps with predictions for the same machine.

A prediction is the bytes of a rank's weights over the memory bandwidth of `bench.link`, plus the
chained all-reduces of `bench.allreduce`. A second prediction takes the compute time that
`bench.decode` measured alone, which separates errors of the all-reduces from errors of the memory.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from reports.advice.reduce_times import check_run, is_plain
from reports.store.exposed import COMPUTE
from reports.store.result import ResultError
from reports.store.schema import Case, Result, State
from reports.tables import steps
from reports.tables.forms import shapes
from reports.tables.rows import cost_us
from reports.tables.sentences import machine, number, opening

AIM = 0.05
BYTES = {"int8": 1, "float16": 2, "bfloat16": 2, "float32": 4}
# The algorithm of each split's all-reduces.
SPLITS = {steps.TENSOR: "auto", steps.LIBRARY: "library", steps.PIPELINE: "auto"}


class Memory(NamedTuple):
    """GB/s of a rank, reads and writes together, while all ranks copy and while one does."""

    together_gb_s: float
    single_gb_s: float


class Row(NamedTuple):
    """A step: measured, and predicted from the memory and from the measured compute."""

    name: str
    measured_us: float
    by_memory_us: float
    by_compute_us: float | None


def render(decode: Result, results: Sequence[Result]) -> str:
    """Prediction, measurement and error of each split, at most 80 columns. Raises ResultError for
    runs of other benchmarks or of several machines."""
    if decode.run.benchmark != "decode":
        raise ResultError(f"{decode.path} is a run of {decode.run.benchmark}, not of decode")
    links = [result for result in results if result.run.benchmark == "link"]
    reduces = [result for result in results if result.run.benchmark != "link"]
    for result in reduces:
        check_run(result, decode.run.world["size"])
    for result in results:
        if result.run.machine_id != decode.run.machine_id:
            raise ResultError(f"{result.path} is of another machine than {decode.path}")
    if not reduces or not links:
        raise ResultError("--validate needs a --run of bench.allreduce and one of bench.link, of "
                          "the same machine")
    memory = memory_bandwidth(links)
    sentences = [*opening(decode), machine(decode),
                 f"memory, by copies of bench.link: {number(memory.together_gb_s)} GB/s a rank "
                 f"read and written while all copy, {number(memory.single_gb_s)} while one does"]
    lines = [textwrap.fill(sentence, 80) for sentence in sentences]
    errors = []
    for cases in shapes(decode):
        lines += ["", steps.title(cases[0]), f"{'':<25}{'measured':>9}{'from the link':>15}"
                  f"{'error':>8}{'from compute':>14}{'error':>8}"]
        for row in rows(cases, reduces, memory):
            lines.append(f"{row.name:<25}{number(row.measured_us / 1e3):>9}"
                         f"{_cells(row.by_memory_us, row, 15)}{_cells(row.by_compute_us, row, 14)}")
            errors.append(abs(row.by_memory_us / row.measured_us - 1))
    verdict = "meets" if max(errors) <= AIM else "misses"
    lines += ["", f"ms a step. The worst error from the link is {max(errors):.1%}: {verdict} the "
              f"aim of {AIM:.0%}."]
    return "\n".join(lines) + "\n"


def _cells(predicted_us: float | None, row: Row, width: int) -> str:
    if not predicted_us:
        return f"{'-':>{width}}{'-':>8}"
    return f"{number(predicted_us / 1e3):>{width}}{predicted_us / row.measured_us - 1:>+8.1%}"


def memory_bandwidth(links: Sequence[Result]) -> Memory:
    """The medians over the copies of the largest size. Raises ResultError without copies."""
    blocks = [block for result in links for block in result.link_blocks if block.memory_us]
    if not blocks:
        raise ResultError(f"{links[0].path} has not measured its memory")
    size = max(block.size_bytes for block in blocks)
    together = [2 * size / block.memory_us / 1e3 for block in blocks
                if block.size_bytes == size and block.memory_us]
    copies = [case for result in links for case in result.cases
              if case.algorithm == "local_copy" and case.alg_bw_gb_s]
    largest = max((case.size_bytes for case in copies), default=0)
    single = [2 * case.alg_bw_gb_s for case in copies
              if case.size_bytes == largest and case.alg_bw_gb_s]
    return Memory(float(np.median(together)), float(np.median(single or together)))


def rows(cases: Sequence[Case], reduces: Sequence[Result], memory: Memory) -> list[Row]:
    """The compute and each split of one shape. In a pipeline with one stream one stage works at a
    time and has the memory to itself. Raises ResultError without chained all-reduces."""
    shape, ranks = cases[0].shape, reduces[0].run.world["size"]
    weights = sum(shape["inner"]) * shape["hidden"] * BYTES[shape["weights"]] * shape["layers"]
    together_us = weights / memory.together_gb_s / 1e3
    single_us = weights / memory.single_gb_s / 1e3
    if not any(chained_us(reduces, algorithm, cases[0]) for algorithm in SPLITS.values()):
        raise ResultError(f"{reduces[0].path} has no chained all-reduce of {cases[0].size_bytes} B "
                          f"in {cases[0].datatype}")
    by_algorithm = {case.algorithm: case for case in cases if cost_us(case)}
    compute = by_algorithm.get(COMPUTE)
    compute_us = cost_us(compute) if compute else None
    lines = []
    for name, case in by_algorithm.items():
        took_us = cost_us(case) or 0.0
        if name == COMPUTE:
            lines.append(Row("compute", took_us, together_us, None))
        elif name == "one_rank":
            lines.append(Row("one rank", took_us, ranks * single_us, None))
        elif name in SPLITS and (each_us := chained_us(reduces, SPLITS[name], case)):
            is_pipe = name == steps.PIPELINE
            stages, calls = (ranks, ranks) if is_pipe else (1, steps.calls(case))
            read_us = stages * (single_us if is_pipe and shape["slots"] == 1 else together_us)
            lines.append(Row(name.replace("_parallel", "").replace("_", ", "), took_us,
                             read_us + calls * each_us,
                             stages * compute_us + calls * each_us if compute_us else None))
    return lines


def chained_us(reduces: Sequence[Result], algorithm: str, step: Case) -> float | None:
    """A chained all-reduce of the step's size and type: the fastest variant, the median over runs;
    None if no run measured it."""
    key = algorithm, step.size_bytes, step.datatype, "chained"
    by_run = [[_time_near(case, step) for case in result.cases if is_plain(case)
               and (case.algorithm, case.size_bytes, case.datatype, case.mode) == key]
              for result in reduces]
    fastest = [min(times_us) for times_us in by_run if times_us]
    return float(np.median(fastest)) if fastest else None


def _time_near(case: Case, step: Case) -> float:
    """The time of the case in the link state with the round trip nearest to the step's."""
    step_ns = step.link_rtt_ns.median if step.link_rtt_ns else 0.0
    states: list[Case | State] = [case, *case.states]
    choices = []
    for state in states:
        rtt_ns = state.link_rtt_ns.median if state.link_rtt_ns else 0.0
        distance = float(abs(np.log(rtt_ns / step_ns))) if rtt_ns and step_ns else 0.0
        choices += [(distance, state.time_us.median)] if state.time_us else []
    return min(choices)[1]
