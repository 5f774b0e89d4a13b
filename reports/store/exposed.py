"""Overlap of compute and communication: how much of the communication a model waits for.

Each form of a shape, fused or sequential, is compared with the compute alone, round by round,
because blocks of one round are close in time. The extra time of the form is exposed. It can be
negative: by chance, which the interval shows, or if the compute alone leaves its result where the
reader gets it slowly.
"""

from collections.abc import Mapping, Sequence

from reports.store.case import summary_of
from reports.store.schema import Block, Case

BENCHMARKS = ("allreduce_rmsnorm", "gemv_allreduce", "gemm_reduce_scatter", "allgather_gemm")
TOGETHER = (*BENCHMARKS, "decode", "prefill")  # these also compute, and have no bandwidth
COMPUTE, FUSED, LIBRARY = "compute", "fused", "then_library"
COMMUNICATES = (FUSED, "then_", "tensor_parallel", "sequence_parallel")

Costs = Mapping[int, Mapping[int, float]]  # microseconds by case and round


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
