"""Claims on runs that overlap compute and communication: how often the table of equal forms says
that one exposes less, how often it names the faster of two equal splits, and how often the interval
of an exposed time contains the truth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from reports.tables import exposed
from tests.calibration.synthetic import Figure, Floats, Rng, Simulation, blocks
from tests.reports.synthetic_run import head_of
from wiretax.record.blocks import count_blocks
from wiretax.record.case import COMPUTE
from wiretax.record.schema import Block, CaseHeader, End, Result, Run
from wiretax.record.summarise import build_cases

SPREAD = 0.02  # of the log of a block's cost
RHOS = (0.0, 0.3, 0.5, 0.7)


@dataclass(frozen=True)
class Plan:
    """A benchmark, its shapes, the costs of its forms in us, and the words of a table that finds no
    difference."""

    benchmark: str
    shapes: Sequence[Mapping[str, Any]]
    costs_us: Mapping[str, float]
    no_difference: str

    def run(self) -> Run:
        cases = [
            CaseHeader(
                collective=self.benchmark,
                shape=shape,
                size_bytes=32768,
                count=8192,
                datatype="float32",
                redop="sum",
                algorithm=name,
                library="MPICH 5.0.2" if "library" in name else None,
            )
            for shape in self.shapes
            for name in self.costs_us
        ]
        return head_of(cases, benchmark=self.benchmark)

    def measured(self, costs_us: Floats) -> Result:
        """A run with these costs, (shapes, forms, rounds)."""
        run, of_cases = self.run(), costs_us.reshape(-1, costs_us.shape[-1]).tolist()
        every = [
            Block(case=case, block=turn, round=turn, n=20, time_us=us, total_us=us, n_wrong=0)
            for case, of_case in enumerate(of_cases)
            for turn, us in enumerate(of_case)
        ]
        counted = count_blocks(run, every)
        cases = build_cases(run, counted, every, [])
        return Result(Path("made.jsonl"), run, cases, counted, every, [], End(status="complete"))

    def draw(self, rho: float, rounds: int, rng: Rng) -> Result:
        """A run whose blocks are log-normal, an AR(1)."""
        noise = blocks(rng, (len(self.shapes), len(self.costs_us), rounds), rho).astype(float)
        return self.measured(np.array([*self.costs_us.values()])[:, None] * np.exp(SPREAD * noise))


LAYER = Plan(
    "gemv_allreduce",
    [{"tokens": tokens, "hidden": 8192} for tokens in (1, 4)],
    {COMPUTE: 10.0, "fused": 15.0, "then_one_shot_pull": 15.0, "then_library": 20.0},
    "do not clearly differ",
)
STEP = Plan(
    "decode",
    [{"layers": 32, "slots": slots} for slots in (1, 8)],
    {
        COMPUTE: 9e3,
        "tensor_parallel": 1e4,
        "tensor_parallel_library": 1.1e4,
        "pipeline_parallel": 1e4,
    },
    "no clear difference",
)


def equal_forms(plan: Plan, rho: float, rounds: int, rng: Rng, n: int) -> list[Figure]:
    """Tables of equal forms or splits: the share of their verdicts that find a difference, and of
    the exposed times whose interval contains the truth. Runs a quarter of the replications."""
    differs, covered = list[float](), list[float]()
    for _ in range(n // 4):
        result = plan.draw(rho, rounds, rng)
        text = " ".join(exposed.render(result).split())
        differs.append(1 - text.count(plan.no_difference) / len(plan.shapes))
        contains = [
            (gap.ci_low or 0.0) <= plan.costs_us[case.algorithm] - plan.costs_us[COMPUTE]
            and plan.costs_us[case.algorithm] - plan.costs_us[COMPUTE] <= (gap.ci_high or np.inf)
            for case in result.cases
            if (gap := case.exposed_us)
        ]
        covered.append(float(np.mean(contains)))
    name = f"{plan.benchmark.partition('_')[0]}, rho {rho}, {rounds} rounds"
    return [
        Figure(f"{name}: differs", differs, most=0.10),
        Figure(f"{name}: interval", covered, 0.90),
    ]


CLAIMS: dict[str, list[Simulation]] = {
    "Equal forms of a layer, equal splits of a step": [
        partial(equal_forms, plan, rho, rounds)
        for plan in (LAYER, STEP)
        for rho, rounds in (*((rho, 12) for rho in RHOS), (0.7, 30))
    ],
}
