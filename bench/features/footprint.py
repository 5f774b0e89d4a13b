"""The footprint: how much a collective slows compute that runs beside it.

Each case runs a second time with a matmul in the background, as a case with `beside` in its shape.
The matmul's rate during the collective is held against its rate during a wait of the same length in
the collective's place, with the same writing of the send buffer and reading of the result."""

import argparse
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from bench.features.background import Matmul, Progress, open_matmul
from bench.harness.feature import Feature
from bench.harness.iteration import ARRIVED, BEGUN, DONE, LEFT, Iteration, come_late
from bench.harness.options import CASES, AddOption, Parser
from bench.harness.session import Session
from bench.harness.timing import perform
from collectives.collective import COLLECTIVES, Shape
from collectives.operation import Case, Operation
from kernels.devices.device import Action, Counts, Stamps
from reports.store.schema import CaseHeader


class Footprint(Feature):
    """Every case once more beside a matmul. `change` raises DeviceError if no core is left."""

    mode = "as_used"  # a single short call would end within one item of the matmul
    matmul: Matmul | None = None

    @staticmethod
    def add_options(add: AddOption) -> None:
        add(
            "--collective",
            changes=CASES,
            choices=list(COLLECTIVES),
            default="all_reduce",
            metavar="NAME",
            help=f"{', '.join(COLLECTIVES)} (all_reduce)",
        )

    @classmethod
    def parse(cls, parser: Parser, namespace: argparse.Namespace) -> "Footprint":
        if namespace.dispatch == "python":
            parser.error(
                "the footprint is measured in the native loop: leave out --dispatch python"
            )
        return cls()

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        return [*shapes, *({**shape, "beside": "gemm"} for shape in shapes)]

    def change(
        self, session: Session, header: CaseHeader, case: Case, iteration: Iteration
    ) -> Iteration:
        if "beside" not in case.shape:
            return iteration
        self.matmul = self.matmul or open_matmul(session.world, session.place.beside)
        return Measured(session, self.matmul, iteration).iteration


class Measured:
    """`iteration` with the matmul in its background, and the matmul's last progress."""

    def __init__(self, session: Session, matmul: Matmul, iteration: Iteration) -> None:
        self.session, self.matmul = session, matmul
        self.iteration = replace(iteration, executor=self.execute, facts=self.facts)
        self.wait = come_late(session.world)
        self.waiting = replace(self.iteration, operation=Operation(self.wait, lambda: None))
        self.progress: Progress = np.zeros(0)

    def execute(self, actions: list[Action], counts: Counts) -> Stamps:
        world, watch = self.session.world, self.session.flight.watch

        def run(counts: Counts) -> Stamps:
            return world.device.run(actions, self.iteration.check, counts, watch, world.graph)

        stamps, self.progress = self.matmul.during(run, counts)
        return stamps

    def facts(self, stamps: Stamps) -> dict[str, float] | None:
        """The matmul's rates in the block and in one that waits as long; None if it ended early."""
        if not len(stamps):
            return None
        calls = max(1, self.iteration.chain_calls)
        spans_ns = stamps[:, LEFT] - stamps[:, ARRIVED]
        if self.iteration.chain_calls:
            spans_ns = spans_ns - (stamps[:, DONE] - stamps[:, BEGUN])
        during = self.rate_gflop_s(stamps)
        self.wait.argument.timeout_ns = max(0, int(np.median(spans_ns) / calls))
        counts = Counts(self.iteration.warmup, self.iteration.count)
        alone = self.rate_gflop_s(perform(self.session, self.waiting, counts))
        if during is None or alone is None:
            return None
        return {"matmul_gflop_s": during, "matmul_alone_gflop_s": alone}

    def rate_gflop_s(self, stamps: Stamps) -> float | None:
        """The matmul's rate over the iterations that it outlasted."""
        lasted = np.isfinite(self.progress[: len(stamps)])
        span_ns = int((stamps[lasted, LEFT] - stamps[lasted, ARRIVED]).sum())
        if not span_ns:
            return None
        return float(self.matmul.flops * self.progress[: len(stamps)][lasted].sum() / span_ns)
