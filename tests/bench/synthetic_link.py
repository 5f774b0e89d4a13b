"""Writes runs of `bench.link` on GPUs with made-up figures through the real store."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from bench.link import MEASUREMENTS
from tests.reports.synthetic_run import without_fsync
from wiretax.record.schema import Block, CaseHeader, End, Result, Run
from wiretax.record.writing import RunFile

WITHIN_A_HOST = ("push", "pull", "ping_pong")
BETWEEN_HOSTS = ("send_library", "ping_pong_library")
SUBMISSIONS_US = {"submit_wait": 33.0, "submit_wait_graph": 20.0}
# The others move 64 MiB.
SIZES = {"ping_pong": 0, "ping_pong_library": 4, **dict.fromkeys(SUBMISSIONS_US, 0)}


def headers_of(nodes: Sequence[Sequence[int]]) -> list[CaseHeader]:
    cases = []
    for name in (*WITHIN_A_HOST, *SUBMISSIONS_US, *(BETWEEN_HOSTS if len(nodes) > 1 else ())):
        size = SIZES.get(name, 64 << 20)
        kind = next(kind for kind in MEASUREMENTS if kind.key == name)
        for pairs in kind.groups(nodes):
            cases.append(
                CaseHeader(
                    collective="link",
                    algorithm=name,
                    shape=dict(kind.shape(pairs)),
                    size_bytes=size,
                    count=size // 4,
                    datatype="float32",
                    redop="none",
                    library="NCCL 2.28.3" if kind.is_by_library else None,
                )
            )
    return cases


@without_fsync
def made_up(
    folder: Path,
    ranks: int,
    gb_s: Callable[[int, int], float],
    blocks: int = 12,
    one_way_us: float = 2.0,
    hosts: int = 1,
) -> Result:
    """A run in which rank `src` moves data to `dst` at `gb_s(src, dst)`. GPUs of several hosts have
    the same PCI addresses."""
    each = ranks // hosts
    cases = headers_of([range(first, first + each) for first in range(0, ranks, each)])
    world = [
        {
            "rank": rank,
            "host": rank // each,
            "node": "abcdefgh"[rank // each],
            "device": "cuda",
            "arch": "sm_90",
            "gpu": "NVIDIA H200",
            "cpus": [rank],
            "pci_bus_id": f"0000:{rank % each:02x}:00.0",
        }
        for rank in range(ranks)
    ]
    run = Run(
        run_id=f"2026-11-20T06-15-00Z-link-{ranks}",
        benchmark="link",
        version="0.1.0",
        argv=[],
        seed=0,
        machine_id="a",
        software_id="b",
        environment={},
        clock_shared=False,
        cases=cases,
        world={"size": ranks, "hosts": hosts, "ranks": world},
    )
    file, rng = RunFile.create(folder, run), np.random.default_rng(1)
    for turn in range(blocks):
        for number, case in enumerate(cases):
            moving_us = case.size_bytes / gb_s(*(case.shape or {}).values()) / 1e3
            time_us = {0: one_way_us, 4: 20.0}.get(case.size_bytes, moving_us)
            time_us = SUBMISSIONS_US.get(case.algorithm, time_us)
            file.append(
                Block(
                    case=number,
                    block=turn,
                    round=turn,
                    n=5,
                    time_us=time_us * rng.normal(1, 0.01),
                    n_wrong=0,
                    link_rtt_ns=(4000.0, 4050.0),
                )
            )
    return file.finish({}, End(status="complete", elapsed_s=2.0))
