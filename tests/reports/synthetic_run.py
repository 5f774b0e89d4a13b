"""Writes runs with plausible synthetic figures through the real store, so that tests of readers
need no hours of measuring. The link has two states in stretches, as on a virtual machine."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import numpy as np

from wiretax.record.result import read
from wiretax.record.schema import Block, CaseHeader, End, LinkBlock, Result, Run
from wiretax.record.writing import RunFile

# A run of one case.
ONE: dict[str, Any] = {
    "sizes": [16384],
    "algorithms": ["library"],
    "modes": ["isolated"],
    "n": 5,
}
SIZES = [16384 << step for step in range(12)]
OURS = ["one_shot_push", "one_shot_pull", "two_shot", "ring"]
ALGORITHMS = ["library", "auto", *OURS]
FAST_NS, SLOW_NS = 105.0, 540.0
CHAINED_UP_TO = 512 << 10
NOTES = [
    "Peer memory is mapped (shared) and was probed byte by byte in every direction.",
    "virtual machine: the link between two cores can change under the run",
]

Record = dict[str, Any]
Change = Callable[[Block], Block | None]

# Synthetic runs need not survive a crash, and fsync of every block takes nine tenths of the time.
without_fsync = mock.patch("os.fsync", lambda file: None)  # noqa: PT008


def chosen_for(algorithm: str, size_bytes: int) -> str | None:
    if not algorithm.startswith("auto"):
        return None
    if size_bytes <= 128 << 10:
        return "one_shot_push"
    return "two_shot" if size_bytes <= 4 << 20 or algorithm == "auto_stable" else "ring"


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


def parts_of(algorithm: str, size: int, n: int) -> Record:
    hops = {"two_shot": 2, "ring": 2 * (n - 1)}.get(algorithm, 1)
    moved = (n - 1) * size if algorithm.startswith("one_shot") else 2 * size * (n - 1) / n
    return {"hops": hops, "stages": [[moved, 0], [0, moved]], "memory_bytes": 2 * size}


@dataclass(frozen=True)
class Sweep:
    """The cases and blocks of a synthetic run.

    The link is in its fast state in `fast_rounds`; `us` sets the times of a block, and `change` may
    replace it, or drop it by returning None. Without `finish`, the run is cut off after its last
    block.
    """

    sizes: Sequence[int] = tuple(SIZES)
    algorithms: Sequence[str] = tuple(ALGORITHMS)
    modes: Sequence[str] = ("isolated", "chained")
    unsupported: Sequence[str] = ()
    datatype: str = "float32"
    world_size: int = 2
    library_variants: Sequence[str] = ("plain",)
    variants: Sequence[str] = ("copied",)
    n_blocks: int = 10
    n: int = 20
    fast_rounds: Sequence[int] = ()
    gpu: str | None = None  # of the ranks, which launch chains from graphs
    us: Callable[[CaseHeader, Block], float] | None = None
    change: Change = lambda block: block
    scale: float = 1.0
    seed: int = 7
    finish: bool = True
    keeps_samples: bool = False
    status: str = "complete"
    run_id: str = "2026-11-20T06-15-00Z-allreduce-1a2b3c"

    def cases(self) -> list[CaseHeader]:
        return [
            self.case(size, mode, algorithm, variant)
            for size, mode, algorithm in product(self.sizes, self.modes, self.algorithms)
            if mode == "isolated" or size <= CHAINED_UP_TO
            for variant in (self.library_variants if algorithm == "library" else self.variants)
        ]

    def case(self, size: int, mode: str, algorithm: str, variant: str) -> CaseHeader:
        chosen = chosen_for(algorithm, size)
        missing = algorithm in self.unsupported
        case = CaseHeader(
            collective="all_reduce",
            size_bytes=size,
            count=size // 4,
            datatype=self.datatype,
            redop="sum",
            algorithm=algorithm,
            mode=mode,
            calls=160 if mode == "chained" else 1,
            variant=variant,
            chosen=chosen,
            sums_in_rank_order=(chosen or algorithm) not in ("library", "ring"),
            status="unsupported" if missing else "ok",
            reason=f"MPICH 5.0.2 has no {self.datatype}" if missing else None,
        )
        if algorithm == "library":
            case.library = "MPICH 5.0.2"
        else:
            case.bound_parts = parts_of(chosen or algorithm, size, self.world_size)
        return case

    def head(self) -> Run:
        facts = {"cpu.model": "AMD EPYC 9B45", "mpi.thread_level": "funneled"}
        world, method = world_of(self.world_size), {}
        if self.gpu:
            world["ranks"], method["graph"] = ranks_of(self.gpu, self.world_size), 1
        return head_of(
            self.cases(),
            run_id=self.run_id,
            benchmark="allreduce",
            argv=["--seed", str(self.seed)],
            seed=self.seed,
            environment={
                name: {"value": value, "source": "/proc", "status": "ok"}
                for name, value in facts.items()
            },
            world=world,
            method=method,
            notes=list(NOTES),
        )

    def round(
        self, turn: int, rng: np.random.Generator, cases: Sequence[CaseHeader]
    ) -> Iterator[tuple[LinkBlock | Block, np.ndarray]]:
        """The blocks of a round in the order of measuring, with the samples of each, (ranks, n,
        5)."""
        rtt_ns = FAST_NS if turn in self.fast_rounds else SLOW_NS
        trips = (rtt_ns * rng.normal(1, 0.02, (len(cases) + len(self.sizes), 2))).tolist()
        for size in self.sizes:
            yield (
                LinkBlock(
                    size_bytes=size,
                    round=turn,
                    copy_in_us=self.scale * size / 22e3,
                    peer_read_us=self.scale * size / 16e3,
                    memory_us=self.scale * size / (30e3 if size < 4 << 20 else 17e3),
                    link_rtt_ns=tuple(trips.pop()),
                ),
                np.empty(0),
            )
        for number in rng.permutation(len(cases)).tolist():
            case = cases[number]
            if case.status != "ok":
                continue
            base_us = self.scale * cost_us(
                case.chosen or case.algorithm, case.size_bytes, rtt_ns, self.world_size
            )
            shape = (self.world_size, self.n)
            rows = np.empty((*shape, 5))
            times_us = base_us * rng.lognormal(0.0, 0.03, shape) * rng.normal(1, 0.004)
            rows[..., 0], rows[..., 1] = turn, np.arange(self.world_size)[:, None]
            rows[..., 2], rows[..., 4] = times_us, rng.exponential(0.05, shape)
            rows[..., 3] = 0.25 * times_us if case.mode == "isolated" else np.nan
            slowest, consume, skew = np.moveaxis(rows[..., 2:].max(axis=0), -1, 0)
            block = Block(
                case=number,
                block=turn,
                round=turn,
                n=self.n,
                time_us=float(np.median(slowest)),
                mean_us=float(slowest.mean()),
                total_us=float(np.median(slowest)),
                link_rtt_ns=tuple(trips.pop()),
                n_wrong=0,
            )
            if case.mode == "isolated":
                block.consume_us = float(np.median(consume))
                block.total_us = float(np.median(slowest + consume))
                block.arrival_skew_us = float(np.median(skew))
            else:
                block.chain_only_us = 0.1 * base_us
            if self.us:
                block.time_us = block.total_us = self.us(case, block)
            if changed := self.change(block):
                yield changed, rows


def world_of(size: int) -> Record:
    """Ranks on cores of one host."""
    ranks = [
        {"rank": rank, "device": "cpu", "arch": "znver5", "numa": 0, "cpus": [rank]}
        for rank in range(size)
    ]
    return {"size": size, "hosts": 1, "ranks": ranks}


def head_of(cases: Sequence[CaseHeader], **fields: Any) -> Run:
    """The head of a run of these cases, with these fields in place of made-up ones."""
    made: Record = {
        "run_id": "2026-11-20T06-15-00Z-made-1a2b3c",
        "version": "0.1.0",
        "argv": [],
        "seed": 7,
        "machine_id": "a1b2c3",
        "software_id": "d4e5f6",
        "environment": {},
        "world": world_of(2),
    }
    return Run(cases=list(cases), **made | fields)


@without_fsync
def write_run(folder: Path, **fields: Any) -> Result:
    """Writes the run of a `Sweep` with these fields, and returns it."""
    sweep = Sweep(**fields)
    run, rng = sweep.head(), np.random.default_rng(sweep.seed)
    file = RunFile.create(folder, run)
    samples: dict[int, list[np.ndarray]] = defaultdict(list)
    for turn in range(sweep.n_blocks):
        for block, rows in sweep.round(turn, rng, run.cases):
            file.append(block)
            if isinstance(block, Block):
                samples[block.case].append(rows.reshape(-1, 5))
    if not sweep.finish:
        return read(file.path)
    reason = None if sweep.status == "complete" else "interrupted"
    kept = samples if sweep.keeps_samples else {}
    joined = {str(number): np.concatenate(rows) for number, rows in kept.items()}
    end = End(status=sweep.status, reason=reason, elapsed_s=52.0)
    return file.finish(joined, end)


def rewrite(path: Path, change: Callable[[Record], object]) -> Path:
    """Changes each line of a run file in place by a function."""
    lines = [msgspec.json.decode(line) for line in path.read_bytes().splitlines()]
    for line in lines:
        change(line)
    path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    return path


def disturb(path: Path, share: float = 0.4) -> None:
    """Says of a run that the hypervisor withheld this share of its CPU time."""
    rewrite(path, lambda line: line["kind"] == "end" and line.update(steal_share=share))


def run_id(night: int, name: str = "made") -> str:
    """The run_id of a night's run: months have 28 days."""
    return f"2026-{1 + night // 28:02d}-{1 + night % 28:02d}T03-00-00Z-allreduce-{name}{night:03d}"


def rewrite_cases(path: Path, change: Callable[[Record], object]) -> Path:
    """Changes each case of a run file, in the head and in its own line."""

    def change_line(line: Record) -> None:
        for case in line.get("cases", [line] if line["kind"] == "case" else []):
            change(case)

    return rewrite(path, change_line)


def rewrite_head(run: Path, **changes: Any) -> None:
    """Sets values in a run's first line; `world__size=4` sets a nested value."""
    head, _, rest = run.read_bytes().partition(b"\n")
    record = msgspec.json.decode(head)
    for path, value in changes.items():
        *outer, name = path.split("__")
        inner = record
        for key in outer:
            inner = inner.setdefault(key, {})
        inner[name] = value
    run.write_bytes(msgspec.json.encode(record) + b"\n" + rest)


def write_run_with_few_blocks(folder: Path) -> Result:
    """Writes an all-reduce of two sizes, of which the small one has three blocks a case, and so no
    interval."""
    return write_run(
        folder,
        sizes=[16384, 1 << 20],
        algorithms=["library", "auto"],
        modes=["isolated"],
        change=lambda block: block if block.case > 1 or block.round < 3 else None,
    )


def ranks_of(gpu: str, n: int = 2, **facts: str) -> list[Record]:
    """The ranks of a head, each on a GPU of this name, or with the same facts on one."""
    return [{"rank": rank, "device": "hip", "gpu": gpu, **facts} for rank in range(n)]


def mark_wrong(path: Path, *cases: int) -> None:
    """Changes the results of these cases of a run file, or of all: 12 elements of each were
    wrong."""

    def change(line: Record) -> None:
        if line["kind"] == "case" and (not cases or line["case"] in cases):
            line |= {"status": "wrong", "reason": "12 elements were wrong", "n_wrong": 12}

    rewrite(path, change)
