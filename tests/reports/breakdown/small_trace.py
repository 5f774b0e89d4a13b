"""A trace of a few steps, as torch.profiler writes it."""

import json
from pathlib import Path

CALL = "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)"


def write_trace(
    path: Path,
    rank: int = 0,
    steps: int = 6,
    late_us: float = 0.0,
) -> Path:
    """Steps of 100 us: 40 of a product, and 20 of a call, longer where it waits for a rank that is
    `late_us` late."""
    events = []
    for step in range(steps):
        start_us = 1e6 + 100 * step
        events += [
            event("user_annotation", f"ProfilerStep#{step}", start_us, 100),
            event("kernel", "gemm", start_us, 40, stream=7),
            event("kernel", CALL, start_us + 40, 20 + late_us, stream=7),
        ]
    content = {"distributedInfo": {"rank": rank, "world_size": 2}, "traceEvents": events}
    path.write_text(json.dumps(content))
    return path


def event(cat: str, name: str, ts: float, dur: float, **args: object) -> dict[str, object]:
    return {
        "ph": "X",
        "cat": cat,
        "name": name,
        "ts": ts,
        "dur": dur,
        "args": args,
    }
