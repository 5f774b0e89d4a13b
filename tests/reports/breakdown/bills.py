"""Bills of known figures, for what shows them."""

from typing import Any

import numpy as np

from reports.breakdown.bill import Alone, Bill, CallBill
from reports.breakdown.step_parts import PARTS, StepParts

STEP_MS = {
    "compute": 7.5,
    "overlap": 0.2,
    "transport": 2.9,
    "waiting": 3.6,
    "idle": 0.8,
}


def step_parts(ranks=2, steps=12, **ms):
    """All steps and ranks are equal."""
    return StepParts({part: np.full((ranks, steps), 1e3 * ms.get(part, 0.0)) for part in PARTS})


def call_bill(size_bytes=16384, **changed):
    """161 calls a step of 12, for which rank 0 waits."""
    values: dict[str, Any] = {
        "collective": "all_reduce",
        "by": "NCCL or RCCL",
        "group": "tp",
        "stream": 7,
        "n_calls": 161 * 12,
        "transport_us": (35.1, 34.2, 36.0),
        "is_bound": False,
        "waiting_us": [(45.1, 44.0, 46.2), (0.4, 0.3, 0.5)],
        "last_share": [0.02, 0.98],
        "alone": Alone((31.2, 30.0, 32.0), "this run"),
        "verdict": "waiting",
        "late_ranks": [1],
    }
    return CallBill(size_bytes=size_bytes, **values | changed)


def two_cards(**changed):
    values: dict[str, Any] = {
        "title": "2 of 2 ranks, R9700",
        "parts": step_parts(**STEP_MS),
        "calls": [call_bill()],
        "ranks": [0, 1],
        "gpus": 2,
    }
    return Bill(**values | changed)


def without_calls():
    """The step of one card."""
    return Bill("1 of 1 ranks, R9700", step_parts(1, 3, compute=13.5, idle=1.5), [], [0])


def many_kinds(n=40, ranks=8):
    """So many kinds of calls of eight ranks, each of another size."""
    waits = [(10.0 * rank, None, None) for rank in range(ranks)]
    shares = [0.3, *[0.1] * (ranks - 1)]
    calls = [
        call_bill(
            1024 << kind,
            n_calls=1200 - kind,
            waiting_us=waits,
            last_share=shares,
        )
        for kind in range(n)
    ]
    parts = step_parts(ranks, **STEP_MS)
    return Bill("8 of 8 ranks, H100", parts, calls, [*range(ranks)])
