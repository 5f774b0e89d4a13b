"""Timelines of some ranks, as a reader makes them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from reports.breakdown.kernel_names import Names
from reports.breakdown.timeline import Annotation, Timeline
from tests.reports.breakdown.small_trace import CALL

Work = tuple[str, float, float, int]  # name, begin, end, stream


def timeline(works: Sequence[Work], rank: int | None = 0, **more: Any) -> Timeline:
    """A rank's works, whose calls are named CALL, with its facts as the fields of Timeline."""
    works = sorted(works, key=lambda work: work[1])
    texts = [*dict.fromkeys(name for name, *_ in works)]
    facts: dict[str, Any] = {"ranks": 2, "device": "GPU"} | more
    return Timeline(
        source=f"rank-{rank}.json",
        names=Names(),
        texts=texts,
        name=np.array([texts.index(name) for name, *_ in works], int),
        starts_us=np.array([start for _, start, _, _ in works], float),
        ends_us=np.array([end for _, _, end, _ in works], float),
        stream=np.array([stream for *_, stream in works], int),
        size_bytes=facts.pop("size_bytes", np.zeros(len(works), int)),
        group=facts.pop("group", np.zeros(len(works), int)),
        rank=rank,
        **facts,
    )


def decode(
    rank: int | None = 0,
    steps: int = 8,
    late_us: float = 0.0,
    first_step: int = 0,
    clock_us: float = 0.0,
    name: str = "ProfilerStep#{}",
    **more: Any,
) -> Timeline:
    """Steps of 100 us with a product of 30 us, two calls of 10 us and more where this rank waits
    for one that is `late_us` late, and products of 15 us after them."""
    works, annotations = list[Work](), list[Annotation]()
    for step in range(first_step, first_step + steps):
        start_us = 1e6 + 100 * step + clock_us
        annotations.append(Annotation(name.format(step), start_us, start_us + 100))
        works += [
            ("embed", start_us, start_us + 5, 7),
            ("gemm", start_us + 5, start_us + 30, 7),
            (CALL, start_us + 30, start_us + 40 + late_us, 7),
            ("gemm", start_us + 50, start_us + 65, 7),
            (CALL, start_us + 65, start_us + 75 + late_us, 7),
            ("gemm", start_us + 90, start_us + 95, 7),
        ]
    return timeline(works, rank, annotations=annotations if name else [], **more)
