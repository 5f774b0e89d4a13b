"""`advise --validate`: a measured decode step held against what is predicted for it, from what the same machine's
`bench.link` and `bench.allreduce` found: the bytes of a rank's weights over the bandwidth of its memory, and one
chained all-reduce after another. Beside it the same with the compute as `bench.decode` measured it alone, so that the
all-reduces' part of an error can be told from the memory's.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence

import numpy as np

from reports.advice.reduce_times import check, counts
from reports.store import exposed
from reports.store.result import ResultError
from reports.store.schema import Case, Result
from reports.tables import steps
from reports.tables.rows import cost_us
from reports.tables.sentences import machine, number, opening

AIM = 0.05
Row = tuple[str, float, float | None, float | None]
ELEMENT_BYTES = {"int8": 1, "float16": 2, "bfloat16": 2, "float32": 4}
SPLITS = {steps.TENSOR: "auto", steps.LIBRARY: "library", steps.PIPELINE: "auto"}  # and whose all-reduces it takes


def render(decode: Result, results: Sequence[Result]) -> str:
    """Predicted, measured and the error of each split, at most 80 columns. Raises ResultError for runs that are not of
    one machine, or not what they have to be."""
    if decode.run.benchmark != "decode":
        raise ResultError(f"{decode.path} is a run of {decode.run.benchmark}, not of decode")
    links = [result for result in results if result.run.benchmark == "link"]
    reduces = [result for result in results if result not in links]
    for result in reduces:
        check(result, decode.run.world["size"])
    if other := next((result for result in results if result.run.machine_id != decode.run.machine_id), None):
        raise ResultError(f"{other.path} is of another machine than {decode.path}")
    if not reduces or not links:
        raise ResultError("--validate needs a --run of bench.allreduce and one of bench.link, of the same machine")
    memory, out, worst = memory_gb_s(links), io.StringIO(), list[float]()
    for line in [*opening(decode), machine(decode), f"memory, by copies of bench.link: {number(memory[0])} GB/s a rank "
                 f"read and written where all do, {number(memory[1])} where one does"]:
        print(textwrap.fill(line, 80), file=out)
    for cases in exposed.shapes(decode):
        print(f"\n{steps.title(cases[0])}\n{'':<25}{'measured':>9}{'from the link':>15}{'error':>8}"
              f"{'from compute':>14}{'error':>8}", file=out)
        for name, measured_us, *predicted in rows(cases, reduces, memory):
            cells = [f"{number(us / 1e3):>{width}}{us / measured_us - 1:>+8.1%}" if us else f"{'-':>{width}}{'-':>8}"
                     for us, width in zip(predicted, (15, 14), strict=True)]
            print(f"{name:<25}{number(measured_us / 1e3):>9}{''.join(cells)}", file=out)
            worst += [abs(us / measured_us - 1) for us in predicted[:1] if us]
    met = "meets" if max(worst) <= AIM else "misses"
    print(f"\nms a step. The worst error from the link is {max(worst):.1%}: {met} the aim of {AIM:.0%}.", file=out)
    return out.getvalue()


def memory_gb_s(links: Sequence[Result]) -> tuple[float, float]:
    """What a rank reads and writes in GB/s while all do, and alone, by copies of the largest size."""
    blocks = [block for result in links for block in result.link_blocks if block.memory_us]
    if not blocks:
        raise ResultError(f"{links[0].path} has not measured its memory")
    size = max(block.size_bytes for block in blocks)
    at_once = [2 * size / block.memory_us / 1e3 for block in blocks if block.size_bytes == size and block.memory_us]
    copies = [case for result in links for case in result.cases if case.algorithm == "local_copy" and case.alg_bw_gb_s]
    largest = max((case.size_bytes for case in copies), default=0)
    alone = [2 * case.alg_bw_gb_s for case in copies if case.size_bytes == largest and case.alg_bw_gb_s]
    return float(np.median(at_once)), float(np.median(alone or at_once))


def rows(cases: Sequence[Case], reduces: Sequence[Result], memory: tuple[float, float]) -> list[Row]:
    """Of the compute and of each split: its name, what was measured, and what is predicted from the memory's bandwidth
    and from the compute that was measured, in microseconds. Of a pipeline with one chat one stage is at work at a
    time."""
    found = {case.algorithm: case for case in cases if cost_us(case)}
    shape, ranks = cases[0].shape, reduces[0].run.world["size"]
    weights = sum(shape["inner"]) * shape["hidden"] * ELEMENT_BYTES[shape["weights"]] * shape["layers"]
    by_memory, by_one = (weights / gb_s / 1e3 for gb_s in memory)
    alone = cost_us(found[exposed.COMPUTE]) if exposed.COMPUTE in found else None
    if not any(chained_us(reduces, name, cases[0]) for name in SPLITS.values()):
        size, datatype = cases[0].size_bytes, cases[0].datatype
        raise ResultError(f"{reduces[0].path} has no chained all-reduce of {size} B in {datatype}")
    lines: list[Row] = []
    for algorithm, case in found.items():
        took = cost_us(case) or 0.0
        if algorithm == exposed.COMPUTE:
            lines.append(("compute", took, by_memory, None))
        elif algorithm == "one_rank":
            lines.append(("one rank", took, ranks * by_one, None))
        elif algorithm in SPLITS and (each := chained_us(reduces, SPLITS[algorithm], case)):
            is_pipe = algorithm == steps.PIPELINE
            times, waits = (ranks, ranks) if is_pipe else (1, steps.calls(case))
            read_us = by_one if is_pipe and shape["slots"] == 1 else by_memory
            lines.append((algorithm.replace("_parallel", "").replace("_", ", "), took, times * read_us + waits * each,
                          times * alone + waits * each if alone else None))
    return lines


def chained_us(reduces: Sequence[Result], algorithm: str, step: Case) -> float | None:
    """A chained all-reduce of the step's size and type, in the state of the link that is nearest to the one the step
    was in; of its variants the fastest, over runs the median. None where it was not measured."""
    rtt_ns = step.link_rtt_ns.median if step.link_rtt_ns else 0.0
    by_run = []
    for result in reduces:
        times = []
        for case in result.cases:
            if counts(case) and (case.algorithm, case.size_bytes, case.datatype, case.mode) == (
                    algorithm, step.size_bytes, step.datatype, "chained"):
                near = [(abs(np.log(trip.median / rtt_ns)) if trip and trip.median and rtt_ns else 0.0, of.median)
                        for trip, of in [(case.link_rtt_ns, case.time_us),
                                         *((state.link_rtt_ns, state.time_us) for state in case.states)] if of]
                times.append(min(near)[1])
        by_run += [min(times)] if times else []
    return float(np.median(by_run)) if by_run else None
