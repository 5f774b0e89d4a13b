"""Writes runs with plausible synthetic figures through the real store, so that tests of readers need no hours of
measuring. The link has two states in stretches, as on a virtual machine.

    python -m tests.reports.synthetic_run FOLDER        # writes one and prints its path
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import numpy as np

from reports.store.result import read
from reports.store.schema import Block, CaseHeader, End, LinkBlock, Result, Run
from reports.store.writing import RunFile

SIZES = [16384 << step for step in range(12)]
OURS = ["one_shot_push", "one_shot_pull", "two_shot", "ring"]
ALGORITHMS = ["library", "auto", *OURS]
FAST_NS, SLOW_NS = 105.0, 540.0
CHAINED_UP_TO = 512 << 10

Change = Callable[[Block], Block | None]

# Synthetic runs need not survive a crash, and fsync of every block takes nine tenths of the time.
without_fsync = mock.patch("os.fsync", lambda file: None)  # noqa: PT008


def chosen_for(size_bytes: int) -> str:
    return (
        "one_shot_push"
        if size_bytes <= 128 << 10
        else "two_shot"
        if size_bytes <= 4 << 20
        else "ring"
    )


def cost_us(algorithm: str, size_bytes: int, rtt_ns: float, n: int) -> float:
    """A start-up time proportional to the round trip, plus bytes over a bandwidth in GB/s."""
    startup_hops, gb_per_s = {
        "library": (5.0, 5.2),
        "one_shot_push": (1.2, 6.4),
        "one_shot_pull": (1.6, 6.2),
        "two_shot": (2.6, 7.1),
        "ring": (4.4, 7.6),
    }[algorithm]
    if algorithm == "one_shot_push" and rtt_ns < 200:
        startup_hops = 30.0
    wire_bytes = size_bytes * ((n - 1) if algorithm.startswith("one_shot") else 2 * (n - 1) / n)
    return 0.4 + startup_hops * rtt_ns / 1e3 + (wire_bytes or size_bytes) / gb_per_s / 1e3


def parts_of(algorithm: str, size: int, n: int) -> dict[str, Any]:
    name = chosen_for(size) if algorithm == "auto" else algorithm
    hops = {"two_shot": 2, "ring": 2 * (n - 1)}.get(name, 1)
    moved = (n - 1) * size if name.startswith("one_shot") else 2 * size * (n - 1) / n
    return {"hops": hops, "stages": [[moved, 0], [0, moved]], "memory_bytes": 2 * size}


def plan(
    sizes: Sequence[int],
    algorithms: Sequence[str],
    modes: Sequence[str],
    in_place: Sequence[bool],
    unsupported: Sequence[str],
    datatype: str,
    world_size: int,
    library_variants: Sequence[str] = ("plain",),
    ours: Sequence[str] = ("copied",),
) -> list[CaseHeader]:
    cases = []
    for size in sizes:
        for mode in modes:
            if mode == "chained" and size > CHAINED_UP_TO:
                continue
            for algorithm in algorithms:
                variants = library_variants if algorithm == "library" else ours
                for place, variant in product(in_place, variants):
                    missing = algorithm in unsupported
                    cases.append(
                        CaseHeader(
                            collective="all_reduce",
                            size_bytes=size,
                            count=size // 4,
                            datatype=datatype,
                            redop="sum",
                            algorithm=algorithm,
                            mode=mode,
                            in_place=place,
                            calls=160 if mode == "chained" else 1,
                            variant=variant,
                            library="MPICH 5.0.2" if algorithm == "library" else None,
                            chosen=chosen_for(size) if algorithm == "auto" else None,
                            status="unsupported" if missing else "ok",
                            reason=f"MPICH 5.0.2 has no {datatype}" if missing else None,
                            bound_parts=None
                            if algorithm == "library"
                            else parts_of(algorithm, size, world_size),
                        )
                    )
    return cases


@without_fsync
def write_run(
    folder: Path,
    *,
    sizes: Sequence[int] = SIZES,
    algorithms: Sequence[str] = ALGORITHMS,
    modes: Sequence[str] = ("isolated", "chained"),
    in_place: Sequence[bool] = (False,),
    unsupported: Sequence[str] = (),
    world_size: int = 2,
    n_blocks: int = 10,
    n: int = 20,
    fast_rounds: Sequence[int] = (),
    datatype: str = "float32",
    change: Change = lambda block: block,
    library_variants: Sequence[str] = ("plain",),
    variants: Sequence[str] = ("copied",),
    scale: float = 1.0,
    seed: int = 7,
    finish: bool = True,
    status: str = "complete",
    run_id: str = "2026-11-20T06-15-00Z-allreduce-1a2b3c",
) -> Result:
    """Write a run and return it; without `finish`, the run is cut off after its last block.

    The link is in its fast state in `fast_rounds`; `change` may replace a block, or drop it by returning None.
    """
    rng = np.random.default_rng(seed)
    cases = plan(
        sizes,
        algorithms,
        modes,
        in_place,
        unsupported,
        datatype,
        world_size,
        library_variants,
        variants,
    )
    run = Run(
        run_id=run_id,
        benchmark="allreduce",
        version="0.1.0",
        argv=["--seed", str(seed)],
        seed=seed,
        machine_id="a1b2c3",
        software_id="d4e5f6",
        environment={
            "cpu.model": {"value": "AMD EPYC 9B45", "source": "/proc/cpuinfo", "status": "ok"},
            "mpi.thread_level": {"value": "funneled", "source": "MPI_Query_thread", "status": "ok"},
        },
        world={
            "size": world_size,
            "hosts": 1,
            "ranks": [
                {"rank": rank, "device": "cpu", "arch": "znver5", "numa": 0, "cpus": [rank]}
                for rank in range(world_size)
            ],
        },
        notes=[
            "Peer memory is mapped (shared) and was probed byte by byte in every direction.",
            "virtual machine: the link between two cores can change under the run",
        ],
        cases=cases,
    )
    file = RunFile.create(folder, run)
    samples: dict[int, list[np.ndarray]] = {}
    for turn in range(n_blocks):
        rtt_ns = FAST_NS if turn in fast_rounds else SLOW_NS
        probes = [
            (float(a), float(b))
            for a, b in rtt_ns * rng.normal(1, 0.02, (len(cases) + len(sizes), 2))
        ]
        for size in sizes:
            file.append(
                LinkBlock(
                    size_bytes=size,
                    round=turn,
                    copy_in_us=scale * size / 22e3,
                    peer_read_us=scale * size / 16e3,
                    memory_us=scale * size / (30e3 if size < 4 << 20 else 17e3),
                    link_rtt_ns=probes.pop(),
                )
            )
        for number in rng.permutation(len(cases)).tolist():
            case = cases[number]
            if case.status != "ok":
                continue
            algorithm = case.chosen or case.algorithm
            base = scale * cost_us(algorithm, case.size_bytes, rtt_ns, world_size)
            times = base * rng.lognormal(0.0, 0.03, (world_size, n)) * rng.normal(1, 0.004)
            isolated = case.mode == "isolated"
            consume = times * 0.25 if isolated else np.full_like(times, np.nan)
            skew = rng.exponential(0.05, (world_size, n))
            slowest = times.max(axis=0)
            measured = Block(
                case=number,
                block=turn,
                round=turn,
                n=n,
                time_us=float(np.median(slowest)),
                mean_us=float(slowest.mean()),
                consume_us=float(np.median(consume.max(axis=0))) if isolated else None,
                total_us=float(np.median(slowest + consume.max(axis=0)))
                if isolated
                else float(np.median(slowest)),
                arrival_skew_us=float(np.median(skew.max(axis=0))) if isolated else None,
                chain_only_us=None if isolated else 0.1 * base,
                link_rtt_ns=probes.pop(),
                n_wrong=0,
                measure_s=float(times.sum() * 1e-6 * case.calls),
            )
            block = change(measured)
            if block is None:
                continue
            file.append(block)
            rows = np.empty((world_size, n, 5))
            rows[..., 0], rows[..., 1] = turn, np.arange(world_size)[:, None]
            rows[..., 2], rows[..., 3], rows[..., 4] = times, consume, skew
            samples.setdefault(number, []).append(rows.reshape(-1, 5))
    if not finish:
        return read(file.path)
    reason = None if status == "complete" else "interrupted"
    joined = {number: np.concatenate(rows) for number, rows in samples.items()}
    return file.finish(joined, End(status=status, reason=reason, measuring_s=41.2, elapsed_s=52.0))


def mark_wrong(path: Path, *cases: int) -> None:
    """Changes the results of these cases of a run file, or of all: 12 elements of each were wrong."""
    lines = [msgspec.json.decode(line) for line in path.read_bytes().splitlines()]
    for line in lines:
        if line["kind"] == "case" and (not cases or line["case"] in cases):
            line |= {"status": "wrong", "reason": "12 elements were wrong", "n_wrong": 12}
    path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))


if __name__ == "__main__":
    print(write_run(Path(sys.argv[1]), fast_rounds=[3], n_blocks=12).path)
