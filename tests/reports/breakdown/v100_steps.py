"""All work of a V100's device in five steps of training, of rank 1 of two, and when the host
launched it: without operators and arguments, and the names of other kernels than NCCL's shortened.
From HolisticTraceAnalysis, tests/data/df_index_resolver (MIT, copyright Meta Platforms, Inc. and
affiliates)."""

import csv
import json
import lzma
from pathlib import Path

PACKED = Path(__file__).parent / "traces" / "v100-steps.csv.xz"
HEAD = {
    "deviceProperties": [{"name": "Tesla V100-SXM2-32GB"}],
    "distributedInfo": {
        "backend": "nccl",
        "rank": 1,
        "world_size": 2,
    },
}
LAUNCH_US = 5  # the published ones take 3 us and more


def write_v100_steps(path: Path, base_us: int = 1669783687384669) -> Path:
    """Writes it as torch.profiler does. Work has its begin since the work before it, and the time
    of its launch since its own begin."""
    events = list[dict[str, object]]()
    at_us = base_us
    with lzma.open(PACKED, "rt") as file:
        for number, row in enumerate(csv.DictReader(file)):
            if not row["stream"]:
                start_us = base_us + int(row["since_us"])
                events.append(event(row, start_us, row["us"]))
                continue
            at_us += int(row["since_us"])
            args = {
                "stream": int(row["stream"]),
                "correlation": number,
                "device": 1,
            }
            events.append({**event(row, at_us, row["us"]), "args": args})
            if row["launched_us"]:
                launch = {"cat": "cuda_runtime", "name": "cudaLaunchKernel"}
                start_us = at_us + int(row["launched_us"])
                events.append(
                    {**event(launch, start_us, LAUNCH_US), "args": {"correlation": number}}
                )
    path.write_text(json.dumps({**HEAD, "traceEvents": events}))
    return path


def event(
    row: dict[str, str],
    start_us: int,
    us: object,
) -> dict[str, object]:
    named = {"cat": row["cat"], "name": row["name"] or row["cat"]}
    return {"ph": "X", "pid": 1, "tid": 1, **named, "ts": start_us, "dur": int(str(us))}
