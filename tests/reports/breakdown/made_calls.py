"""Calls of a known truth, without a trace."""

import numpy as np

from reports.breakdown.bill import Alone, CallBill
from reports.breakdown.calls import Kind
from reports.breakdown.from_traces import bill_of
from reports.breakdown.step_parts import StepParts
from reports.breakdown.timeline import Floats
from reports.breakdown.verdicts import judge


def made_call(
    late_us: Floats,
    transport_us: Floats,
    idle_us: Floats | None = None,
    alone_us: float | None = None,
    gpus: int | None = None,
    size_bytes: int = 16384,
    parts: StepParts | None = None,
    collective: str = "all_reduce",
) -> CallBill:
    """Judged. `late_us` is when each rank comes, and `idle_us` how long its device is idle beside
    the call, both (ranks, calls)."""
    ranks, n_calls = late_us.shape
    events = np.arange(ranks * n_calls).reshape(ranks, n_calls)
    duration_us = late_us.max(axis=0) - late_us + transport_us
    idle = np.zeros_like(late_us) if idle_us is None else idle_us
    kind = Kind(
        collective,
        "NCCL or RCCL",
        size_bytes,
        "",
        7,
        events,
        duration_us,
        step=np.arange(n_calls),  # of one call each
        group_size=gpus or ranks,
    )
    call = bill_of(kind, idle)
    if alone_us is not None:
        call.alone = Alone((alone_us, 0.97 * alone_us, 1.03 * alone_us), "a run")
    transport_us, waiting_us, idle_us = map(
        kind.mean_by_step, (kind.transport_us, kind.waiting_us, idle)
    )
    parts = parts or StepParts({"compute": late_us - idle, "idle": idle})
    judge(call, transport_us, waiting_us, idle_us, parts, range(ranks), kind.group_size)
    return call
