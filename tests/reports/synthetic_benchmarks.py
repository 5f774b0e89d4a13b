"""Writes a small run of every benchmark, with the fields that only this benchmark's cases have, for
the fuzzer."""

from __future__ import annotations

import shutil

from tests.bench.synthetic_link import made_up
from tests.reports.synthetic_run import rewrite_cases, rewrite_head, write_run
from tests.reports.synthetic_together import FUSED, LAYER, MPI, STEP, THEN, Made, always
from wiretax.record.case import COMPUTE

COLUMNS = {name: value for name, value in LAYER.items() if name != "inner"} | {"columns": 256}
PREFILL = {name: value for name, value in STEP.items() if name != "slots"} | {
    "tokens": 1024,
    "timed_layers": 4,
}
GATHERED = {"collective": "all_gather", "redop": "none"}
ROUTED = {"way": "combine", "experts": 8, "top_k": 2, "tokens": 40, "hidden": 96}


def is_small(case):
    return bool(case["size_bytes"] == 16384)


def sent(case):
    way = "one_way" if is_small(case) else "ping_pong"
    return {"collective": "sendrecv", "redop": "none", "shape": {"way": way}}


def routed(case):
    """The larger size becomes a second skew of the smaller one."""
    skew, most = ("uniform", 1.2) if is_small(case) else ("zipf:1.2", 1.6)
    routing = {
        "expert_max_over_mean": 1.5,
        "rank_max_over_mean": most,
        "leaving_bytes": [7680, 9000],
    }
    return {
        "collective": "alltoall",
        "redop": "none",
        "size_bytes": 16384,
        "shape": ROUTED | {"skew": skew},
        "routing": routing,
    }


def late(case):
    return {} if is_small(case) else {"shape": {"arrival_skew_us": 50.0}}


def quantised(case):
    return {"snr_db": {"normal": 30.5, "heavy tails": 21.0}} if case["algorithm"] == "ring" else {}


def paired(case):
    """One push becomes two pairs at once, one pull a copy within a rank."""
    others = {
        (0, 1, "push"): {"algorithm": "disjoint_pairs", "shape": {"pairs": [[0, 1], [2, 3]]}},
        (1, 0, "pull"): {"algorithm": "local_copy", "shape": {"src": 1, "dst": 1}},
    }
    return others.get((case["shape"]["src"], case["shape"]["dst"], case["algorithm"]), {})


SMALL = {
    "sizes": [16384, 65536, 1 << 20],
    "algorithms": ["library", "auto", "ring"],
    "n": 3,
    "n_blocks": 6,
}
TWO = SMALL | {"sizes": [16384, 65536]}
# The benchmark, the options of `write_run`, and the change of a case.
SWEEPS = {
    "allreduce": ("allreduce", SMALL, dict),
    "tune": ("tune", SMALL, dict),
    "late": ("allreduce", TWO, late),
    "quantised": ("allreduce", SMALL, quantised),
    "allgather": ("allgather", SMALL, lambda case: GATHERED),
    "sendrecv": ("sendrecv", TWO, sent),
    "alltoall": ("alltoall", TWO, routed),
}
FORMS = {COMPUTE: 10.0, FUSED: 11.0, MPI: 16.0, THEN: 15.0}
SPLITS = {COMPUTE: 10e3, "tensor_parallel": 14e3, "pipeline_parallel": 20e3}
COMPUTE_BENCHMARKS = {
    "gemv_allreduce": (LAYER, FORMS),
    "allgather_gemm": (COLUMNS, FORMS),
    "decode": (STEP, SPLITS),
    "prefill": (PREFILL, SPLITS),
}
BENCHMARKS = [*SWEEPS, *COMPUTE_BENCHMARKS, "link"]


def write_benchmark(folder, name):
    """Writes `run.jsonl`, and `other.jsonl` with the same figures, into `folder`."""
    benchmark = name
    if name in SWEEPS:
        benchmark, options, change = SWEEPS[name]
        path = write_run(folder, **options).path
        rewrite_cases(path, lambda case: case.update(change(case)))
    elif name in COMPUTE_BENCHMARKS:
        shape, costs = COMPUTE_BENCHMARKS[name]
        made = Made(folder, benchmark=name, shape=shape, rounds=8)
        path = made.run({form: always(us) for form, us in costs.items()}).path
    else:
        path = made_up(folder, 4, lambda *_: 5.0, blocks=6).path
        rewrite_cases(path, lambda case: case.update(paired(case)))
    path.rename(folder / "run.jsonl")
    shutil.copy(folder / "run.jsonl", folder / "other.jsonl")
    for minute, file in enumerate(("run", "other")):
        run_id = f"2026-11-20T06-{minute:02}-00Z-{benchmark}-1a2b3c"
        rewrite_head(folder / f"{file}.jsonl", benchmark=benchmark, run_id=run_id)
