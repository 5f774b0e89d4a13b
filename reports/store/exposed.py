"""Compute and communication together: how much of the communication is left to see.

Every form of a shape, fused or one after the other, is held against the compute alone, block by block of the same
round, which stand close in time. What it takes longer is exposed. It is below zero where the compute alone is the
slower one: by chance, which the interval tells, or because it leaves its result where the reader is slow to get it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from reports.store.schema import Block, Case, Result, Summary
from reports.store.stats import Interval, median_interval

BENCHMARKS = ("allreduce_rmsnorm", "gemv_allreduce", "gemm_reduce_scatter", "allgather_gemm")
TOGETHER = (*BENCHMARKS, "decode", "prefill")  # what is more than to move data, and has no bandwidth
COMPUTE, FUSED, LIBRARY = "compute", "fused", "then_library"
COMMUNICATES = (FUSED, "then_", "tensor_parallel", "sequence_parallel")  # and does the compute besides

Costs = Mapping[int, Mapping[int, float]]  # of each case by round, in microseconds


def is_of(result: Result) -> bool:
    """Whether the run is of compute and communication together."""
    return result.run.benchmark in BENCHMARKS


def costs_in(blocks: Sequence[Block], of_block: Sequence[int | None], state: int | None) -> dict[int, dict[int, float]]:
    """The cost of every block that was in `state` of the link, by case and round."""
    costs: dict[int, dict[int, float]] = {}
    for block, its in zip(blocks, of_block, strict=True):
        if its == state:
            total_us = block.time_us if block.total_us is None else block.total_us
            costs.setdefault(block.case, {})[block.round] = total_us
    return costs


def work_of(case: Case) -> str:
    """What is done, however: cases that have this in common can be held against each other."""
    return repr((case.collective, case.shape, case.size_bytes, case.datatype, case.redop, case.mode))


def set_exposed(cases: Sequence[Case], costs: Costs) -> None:
    """Fills in `compute_us` and `exposed_us`, over the rounds in which a case and its compute alone were measured."""
    alone = {work_of(case): case for case in cases if case.algorithm == COMPUTE and case.status == "ok"}
    for case in cases:
        compute = alone.get(work_of(case))
        if case.status != "ok" or compute is None or not case.algorithm.startswith(COMMUNICATES):
            continue
        if rounds := sorted(costs.get(case.case, {}).keys() & costs.get(compute.case, {}).keys()):
            case.compute_us = _summary([costs[compute.case][r] for r in rounds])
            case.exposed_us = _summary([costs[case.case][r] - costs[compute.case][r] for r in rounds])


def _summary(values: Sequence[float]) -> Summary:
    median, low, high = median_interval(values)
    return Summary(median=median, ci_low=low, ci_high=high, n_blocks=len(values))


@dataclass
class Form:
    """What a row shows: the compute alone, or the best of several ways to add the communication, which is chosen on odd
    rounds and reported on even ones. Costs in microseconds by round."""

    name: str
    case: Case
    costs: Mapping[int, float]
    rounds: list[int]


def forms(cases: Sequence[Case], costs: Costs) -> list[Form]:
    """Of one shape: the compute alone, the library's best, our best one after the other, the best fused."""
    measured = [case for case in cases if case.status == "ok" and len(costs.get(case.case, {})) > 1]

    def best(name: Callable[[Case], str], of: Callable[[str], bool]) -> Iterator[Form]:
        candidates = [case for case in measured if of(case.algorithm)]
        if not candidates:
            return
        several = len(candidates) > 1

        def on_odd(case: Case) -> float:
            odd = [cost for turn, cost in costs[case.case].items() if turn % 2]
            return float(np.median(odd)) if odd else float("inf")

        chosen = min(candidates, key=on_odd)
        rounds = [turn for turn in sorted(costs[chosen.case]) if not several or turn % 2 == 0]
        yield Form(name(chosen), chosen, costs[chosen.case], rounds)

    def variant(case: Case) -> str:
        return f" {case.variant}" if len({c.variant for c in measured if c.algorithm == case.algorithm}) > 1 else ""

    def built(case: Case) -> str:
        """Its build, if it followed the link, or its number of chunks."""
        name, _, words = (case.chosen or "").partition("+")
        said = words if name == case.algorithm else name
        return variant(case) + (f", {said}" if said else "")

    return [*best(lambda case: "compute alone", lambda a: a == COMPUTE),
            *best(lambda case: f"then {case.library}{variant(case)}", lambda a: a == LIBRARY),
            *best(lambda case: f"then {case.algorithm.removeprefix('then_')}{built(case)}",
                  lambda a: a.startswith("then_") and a != LIBRARY),
            *best(lambda case: f"{case.algorithm}{built(case)}", lambda a: a.partition("+")[0] == FUSED)]


def difference(one: Form, other: Form) -> Interval | None:
    """What the one costs more than the other, round by round, in microseconds."""
    rounds = [turn for turn in one.rounds if turn in other.costs]
    return median_interval([one.costs[turn] - other.costs[turn] for turn in rounds]) if rounds else None


def surely(interval: Interval | None) -> bool:
    """Whether it is known to be above zero."""
    return interval is not None and interval[1] is not None and interval[1] > 0


def interval_text(interval: Interval | None) -> str:
    """`5.73 [5.51 5.92]`, all with the digits of the widest; from a million on `1.2e+06 [1.1e+06 1.3e+06]`."""
    if interval is None:
        return "-"
    middle, low, high = interval
    known = max(abs(end) for end in interval if end is not None)
    digits = ".2f" if known < 9.995 else ".1f" if known < 99.95 else ".0f" if known < 999_999.5 else ".1e"
    ends = f" [{low:{digits}} {high:{digits}}]" if low is not None and high is not None else ""
    return f"{middle:{digits}}{ends}"


def share(part: float, whole: float) -> str:
    return f"{part / whole:.0%}" if whole > 0 else "-"


def shapes(result: Result) -> list[list[Case]]:
    """The cases of each shape, in the order of the run."""
    found: dict[str, list[Case]] = {}
    for case in result.cases:
        found.setdefault(work_of(case), []).append(case)
    return list(found.values())
