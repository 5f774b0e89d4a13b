"""Claims on chains from a graph, whose times and ratios are without their link: how often their
intervals contain the truth."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np

from reports.tables.rows import default_rows
from tests.calibration.synthetic import Figure, Floats, Rng, Simulation, blocks
from tests.reports.synthetic_run import head_of, ranks_of
from wiretax.record.blocks import count_blocks
from wiretax.record.schema import Block, CaseHeader, End, Result, Run
from wiretax.record.summarise import build_cases

SIZES = (16384, 65536)
CALLS_US = {"library": 6.0, "auto": 3.0, "ring": 4.0}
LINK_US, UPPER_MODE = 1.5, 3.6  # and how many times as long links of the upper mode take


@dataclass(frozen=True)
class Machine:
    """How its blocks scatter: `spread` is of the log of a time, `rho` the correlation of blocks in
    a row; `shared`, the share of the variance that all blocks of a round have in common; `upper`,
    the share of links in the upper mode."""

    name: str
    spread: float = 0.03
    rho: float = 0.0
    shared: float = 0.0
    upper: float = 0.0

    def noise(self, rng: Rng, rounds: int) -> Floats:
        """Factors of the times of all blocks, (cases, rounds)."""
        own = blocks(rng, (len(SIZES) * len(CALLS_US), rounds), self.rho)
        common = blocks(rng, (rounds,), self.rho)
        logs = np.sqrt(1 - self.shared) * own + np.sqrt(self.shared) * common
        return np.asarray(np.exp(self.spread * logs.astype(float)))

    def draw(self, rng: Rng, rounds: int) -> Result:
        """A run on GPUs, whose chains are timed with their links."""
        calls_us = np.tile([*CALLS_US.values()], len(SIZES))[:, None]
        stamped_us = (calls_us + LINK_US) * self.noise(rng, rounds)
        links_us = LINK_US * self.noise(rng, rounds)
        links_us[rng.random(links_us.shape) < self.upper] *= UPPER_MODE
        return run_of(stamped_us, links_us)


def run_of(stamped_us: Floats, links_us: Floats) -> Result:
    """A run with these times of its blocks, (cases, rounds)."""
    every = [
        Block(case=case, block=turn, round=turn, n=20, time_us=us, chain_only_us=link_us, n_wrong=0)
        for case, times in enumerate(zip(stamped_us.tolist(), links_us.tolist(), strict=True))
        for turn, (us, link_us) in enumerate(zip(*times, strict=True))
    ]
    run = plan()
    counted = count_blocks(run, every)
    cases = build_cases(run, counted, every, [])
    return Result(Path("made.jsonl"), run, cases, counted, every, [], End(status="complete"))


def plan() -> Run:
    cases = [
        CaseHeader(
            collective="all_reduce",
            size_bytes=size_bytes,
            count=size_bytes // 4,
            datatype="float32",
            redop="sum",
            mode="chained",
            calls=160,
            algorithm=name,
            library="NCCL 2.32.3" if name == "library" else None,
        )
        for size_bytes, name in product(SIZES, CALLS_US)
    ]
    world = {"size": 2, "hosts": 1, "ranks": ranks_of("NVIDIA H100")}
    return head_of(cases, benchmark="allreduce", method={"graph": True}, world=world)


def coverage(machine: Machine, rounds: int, rng: Rng, n: int) -> list[Figure]:
    """The share of the times, and of the ratios, whose interval contains the truth. Two ratios tell
    little of a high `rho`, so their intervals are narrower there. Runs an eighth of the
    replications."""
    times, ratios = list[float](), list[float]()
    for _ in range(n // 8):
        result = machine.draw(rng, rounds)
        spans = [
            (CALLS_US[case.algorithm], case.time_us.ci_low, case.time_us.ci_high)
            for case in result.cases
            if case.time_us
        ]
        times.append(share_covered(spans))
        truth = CALLS_US["library"] / CALLS_US["auto"]
        rows = default_rows(result, ("chained", None))
        ratios.append(share_covered([(truth, *row.ratio[1:]) for row in rows if row.ratio]))
    name = f"{machine.name}, {rounds} rounds"
    return [
        Figure(f"{name}: time", times, 0.92, 0.99),
        Figure(f"{name}: ratio", ratios, 0.88 if machine.rho else 0.92, 0.99),
    ]


def share_covered(spans: Sequence[tuple[float, float | None, float | None]]) -> float:
    """The share of these intervals, behind their truth, that contain it."""
    return float(np.mean([(low or 0.0) <= truth <= (high or np.inf) for truth, low, high in spans]))


CLAIMS: dict[str, list[Simulation]] = {
    "A call of a chain without its link": [
        *(
            partial(coverage, machine, 12)
            for machine in (
                Machine("spread 3 %"),
                Machine("half of links slow", upper=0.5),
                Machine("rho 0.6", rho=0.6),
                Machine("rounds hang together", shared=0.7),
            )
        ),
        partial(coverage, Machine("spread 3 %"), 30),
    ],
}
