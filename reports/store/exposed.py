"""Overlap of compute and communication: how much of the communication a model waits for.

Each form of a shape, fused or sequential, is compared with the compute alone, round by round,
because blocks of one round are close in time. The extra time of the form is exposed. It can be
negative: by chance, which the interval shows, or if the compute alone leaves its result where the
reader gets it slowly.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from reports.store.case import summary_of
from reports.store.schema import Block, Case, Result
from reports.store.stats import Interval, median_interval

BENCHMARKS = ("allreduce_rmsnorm", "gemv_allreduce", "gemm_reduce_scatter", "allgather_gemm")
TOGETHER = (*BENCHMARKS, "decode", "prefill")  # these also compute, and have no bandwidth
COMPUTE, FUSED, LIBRARY = "compute", "fused", "then_library"
KINDS = (COMPUTE, LIBRARY, "ours", FUSED)  # of forms, in the order of the table
COMMUNICATES = (FUSED, "then_", "tensor_parallel", "sequence_parallel")

Costs = Mapping[int, Mapping[int, float]]  # microseconds by case and round


def is_of(result: Result) -> bool:
    """Whether the run measured compute and communication together."""
    return result.run.benchmark in BENCHMARKS


def costs_in(blocks: Sequence[Block], of_block: Sequence[int | None],
             state: int | None) -> dict[int, dict[int, float]]:
    """The cost of every block in `state` of the link, by case and round."""
    costs: dict[int, dict[int, float]] = {}
    for block, state_of_block in zip(blocks, of_block, strict=True):
        if state_of_block == state:
            costs.setdefault(block.case, {})[block.round] = block.cost_us
    return costs


def work_of(case: Case) -> str:
    """The work of a case without its algorithm: cases with equal work are comparable."""
    return repr((case.collective, case.shape, case.size_bytes, case.datatype, case.redop,
                 case.mode))


def set_exposed(cases: Sequence[Case], costs: Costs) -> None:
    """Fills in `compute_us` and `exposed_us`, over the rounds that measured both a case and its
    compute alone."""
    alone = {work_of(case): case for case in cases
             if case.algorithm == COMPUTE and case.status == "ok"}
    for case in cases:
        compute = alone.get(work_of(case))
        if (case.status != "ok" or compute is None
                or not case.algorithm.startswith(COMMUNICATES)):
            continue
        case_us, compute_us = costs.get(case.case, {}), costs.get(compute.case, {})
        if rounds := sorted(case_us.keys() & compute_us.keys()):
            case.compute_us = summary_of([compute_us[r] for r in rounds])
            case.exposed_us = summary_of([case_us[r] - compute_us[r] for r in rounds])


@dataclass
class Form:
    """A row of the table: the compute alone, or the best of several ways to add the communication.
    Odd rounds choose the best way, even rounds report it. Costs are in microseconds by round."""

    name: str
    case: Case
    costs: Mapping[int, float]
    rounds: list[int]


def forms(cases: Sequence[Case], costs: Costs) -> list[Form]:
    """The forms of one shape: the compute alone, the library's best sequential form, our best
    sequential form, and the best fused form."""
    measured = [case for case in cases
                if case.status == "ok" and len(costs.get(case.case, {})) > 1]
    kinds = [[case for case in measured if _kind(case.algorithm) == kind] for kind in KINDS]
    return [_best_form(kind, costs) for kind in kinds if kind]


def _kind(algorithm: str) -> str | None:
    if algorithm in (COMPUTE, LIBRARY):
        return algorithm
    if algorithm.startswith("then_"):
        return "ours"
    return FUSED if algorithm.partition("+")[0] == FUSED else None


def _best_form(cases: Sequence[Case], costs: Costs) -> Form:
    """The best of one kind of form: odd rounds choose between several, even rounds report."""

    def odd_median_us(case: Case) -> float:
        odd = [cost for number, cost in costs[case.case].items() if number % 2]
        return float(np.median(odd)) if odd else float("inf")

    best = min(cases, key=odd_median_us)
    rounds = [r for r in sorted(costs[best.case]) if len(cases) == 1 or r % 2 == 0]
    variants = {case.variant for case in cases if case.algorithm == best.algorithm}
    return Form(_form_name(best, len(variants) > 1), best, costs[best.case], rounds)


def _form_name(case: Case, has_variants: bool) -> str:
    """The name with the variant, and the build that followed the link or the number of chunks."""
    if case.algorithm == COMPUTE:
        return "compute alone"
    variant = f" {case.variant}" if has_variants else ""
    if case.algorithm == LIBRARY:
        return f"then {case.library}{variant}"
    build, _, chunks = (case.chosen or "").partition("+")
    detail = chunks if build == case.algorithm else build
    name = re.sub("^then_", "then ", case.algorithm) + variant
    return f"{name}, {detail}" if detail else name


def difference(form: Form, other: Form) -> Interval | None:
    """The extra cost of the first form over the other, round by round, in microseconds."""
    extra_us = [form.costs[r] - other.costs[r] for r in form.rounds if r in other.costs]
    return median_interval(extra_us) if extra_us else None


def surely(interval: Interval | None) -> bool:
    """Whether the whole interval is above zero."""
    return interval is not None and interval[1] is not None and interval[1] > 0


def interval_text(interval: Interval | None) -> str:
    """`5.73 [5.51 5.92]`, all with the digits of the widest; from a million on
    `1.2e+06 [1.1e+06 1.3e+06]`."""
    if interval is None:
        return "-"
    median, low, high = interval
    most = max(abs(end) for end in interval if end is not None)
    limits = ((9.995, ".2f"), (99.95, ".1f"), (999_999.5, ".0f"))
    digits = next((fixed for limit, fixed in limits if most < limit), ".1e")
    ends = f" [{low:{digits}} {high:{digits}}]" if low is not None and high is not None else ""
    return f"{median:{digits}}{ends}"


def share(part: float, whole: float) -> str:
    return f"{part / whole:.0%}" if whole > 0 else "-"


def shapes(result: Result) -> list[list[Case]]:
    """The cases of each shape, in the order of the run."""
    groups: dict[str, list[Case]] = {}
    for case in result.cases:
        groups.setdefault(work_of(case), []).append(case)
    return list(groups.values())
