"""Writes a small run of every benchmark, with the fields that only this benchmark's cases have, for the fuzzer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bench.test_link import made_up
from tests.reports.advice.test_advise import link_run
from tests.reports.synthetic_run import write_run
from tests.reports.synthetic_together import FUSED, LAYER, MPI, STEP, THEN, Made, always

Record = dict[str, Any]
COLUMNS = {name: value for name, value in LAYER.items() if name != "inner"} | {"columns": 256}
PREFILL = {name: value for name, value in STEP.items() if name != "slots"} | {
    "tokens": 1024,
    "timed_layers": 4,
}
ROUTED = {"way": "combine", "experts": 8, "top_k": 2, "tokens": 40, "hidden": 96}
ROUTING = {"expert_max_over_mean": 1.5, "expert_cv": 0.2, "rank_max_over_mean": 1.2, "rank_cv": 0.1}


def gathered(case: Record) -> Record:
    return {"collective": "all_gather", "redop": "none"}


def sent(case: Record) -> Record:
    return {
        "collective": "sendrecv",
        "redop": "none",
        "shape": {"way": "ping_pong" if case["size_bytes"] > 16384 else "one_way"},
    }


def routed(case: Record) -> Record:
    """The larger size becomes a second skew of the smaller one."""
    is_even = case["size_bytes"] == 16384
    shape = ROUTED | {"skew": "uniform" if is_even else "zipf:1.2"}
    return {
        "collective": "alltoall",
        "redop": "none",
        "size_bytes": 16384,
        "shape": shape,
        "routing": ROUTING
        | {"leaving_bytes": [7680, 9000], "rank_max_over_mean": 1.2 if is_even else 1.6},
    }


def late(case: Record) -> Record:
    return {"shape": {"arrival_skew_us": 50.0}} if case["size_bytes"] > 16384 else {}


def beside(case: Record) -> Record:
    """The larger size becomes the smaller one beside a matmul."""
    is_alone = case["size_bytes"] == 16384
    return {"size_bytes": 16384, "shape": None if is_alone else {"beside": "gemm"}}


def quantised(case: Record) -> Record:
    return {"snr_db": {"normal": 30.5, "heavy tails": 21.0}} if case["algorithm"] == "ring" else {}


def paired(case: Record) -> Record:
    """One push becomes two pairs at once, one pull a copy within a rank."""
    others = {
        (0, 1, "push"): {"algorithm": "disjoint_pairs", "shape": {"pairs": [[0, 1], [2, 3]]}},
        (1, 0, "pull"): {"algorithm": "local_copy", "shape": {"src": 1, "dst": 1}},
    }
    return others.get((case["shape"]["src"], case["shape"]["dst"], case["algorithm"]), {})


def rewritten(
    path: Path,
    change: Callable[[Record], Record],
    head: Record | None = None,
    block: Record | None = None,
) -> None:
    """Changes each case of a run file, in the head and in its own line, and fields of the head and of all blocks."""
    lines: list[Record] = [json.loads(line) for line in path.read_bytes().splitlines()]
    lines[0] |= head or {}
    for case in [*lines[0]["cases"], *(line for line in lines if line["kind"] == "case")]:
        case |= change(case)
    for line in lines:
        line |= (block or {}) if line["kind"] == "block" else {}
    path.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))


SMALL: Record = {
    "sizes": [16384, 65536, 1 << 20],
    "algorithms": ["library", "auto", "ring"],
    "n": 3,
    "n_blocks": 6,
}
TWO = SMALL | {"sizes": [16384, 65536]}
# The options of `write_run`, the change of a case, and the fields of a block.
SWEEPS: dict[str, tuple[Record, Callable[[Record], Record], Record]] = {
    "allreduce": (SMALL, dict, {}),
    "tune": (SMALL, dict, {}),
    "late": (TWO, late, {}),
    "quantised": (SMALL, quantised, {}),
    "allgather": (SMALL, gathered, {}),
    "sendrecv": (TWO, sent, {}),
    "alltoall": (TWO, routed, {}),
    "footprint": (TWO, beside, {"matmul_gflop_s": 90.0, "matmul_alone_gflop_s": 100.0}),
}
FORMS = {"compute": always(10.0), FUSED: always(11.0), MPI: always(16.0), THEN: always(15.0)}
SPLITS = {
    "compute": always(10e3),
    "tensor_parallel": always(14e3),
    "pipeline_parallel": always(20e3),
}
TOGETHER: dict[str, tuple[Record, Record]] = {
    "gemv_allreduce": (LAYER, FORMS),
    "allgather_gemm": (COLUMNS, FORMS),
    "decode": (STEP, SPLITS),
    "prefill": (PREFILL, SPLITS),
}
BENCHMARKS = [*SWEEPS, *TOGETHER, "link"]


def write_benchmark(folder: Path, name: str) -> None:
    """Writes `run.jsonl`, and `other.jsonl` with the same figures, into `folder`."""
    benchmark = {"late": "allreduce", "quantised": "allreduce"}.get(name, name)
    if name in SWEEPS:
        options, change, block = SWEEPS[name]
        path = write_run(folder, **options).path
        rewritten(path, change, {"benchmark": benchmark}, block)
    elif name in TOGETHER:
        shape, costs = TOGETHER[name]
        path = Made(folder, benchmark=name, shape=shape, rounds=8).run(costs).path
    else:
        path = made_up(folder, 4, lambda *_: 5.0, blocks=6).path
        rewritten(path, paired)
    for made in (path, path.with_suffix(".samples")):
        if made.exists():
            made.rename(folder / f"run{made.suffix}")
    shutil.copy(folder / "run.jsonl", folder / "other.jsonl")
    for minute, file in enumerate(("run", "other")):
        rewritten(
            folder / f"{file}.jsonl",
            dict,
            {"run_id": f"2026-11-20T06-{minute:02}-00Z-{benchmark}-1a2b3c"},
        )


def write_validation(folder: Path) -> None:
    """Writes what `advise --validate` takes: `run.jsonl` of bench.decode, `reduces.jsonl` and `link.jsonl`."""
    machine = {"machine_id": "a"}
    write_benchmark(folder, "decode")
    reduces = write_run(folder, **SMALL | {"sizes": [32768]}).path
    rewritten(reduces, dict, machine)
    reduces.rename(folder / "reduces.jsonl")
    link_run(folder, 20).rename(folder / "link.jsonl")
