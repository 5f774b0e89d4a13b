"""The footprint: how much a collective slows compute that runs beside it.

Each case runs a second time with a matmul in the background, as a case with `beside` in its shape.
The matmul's rate during the collective is held against its rate during a wait of the same length in
the collective's place, with the same writing of the send buffer and reading of the result."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from bench.features.background import Matmul, Progress, open_matmul
from bench.harness.feature import Feature, SessionView
from bench.harness.iteration import ARRIVED, BEGUN, DONE, LEFT, Iteration, Perform, Run, come_late
from bench.harness.options import AddOption
from collectives.collective import COLLECTIVES, Shape
from collectives.operation import Case, Operation, World
from kernels.devices.device import Counts, Stamps
from reports.store.schema import CaseHeader


class Footprint(Feature):
    """Every case once more beside a matmul. `change` raises DeviceError if no core is left."""

    mode = "as_used"  # a single short call would end within one item of the matmul
    matmul: Matmul | None = None

    @staticmethod
    def add_options(add: AddOption) -> None:
        add(
            "--collective",
            choices=list(COLLECTIVES),
            default="all_reduce",
            metavar="NAME",
            help=f"{', '.join(COLLECTIVES)} (all_reduce)",
        )

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        return [*shapes, *({**shape, "beside": "gemm"} for shape in shapes)]

    def change(
        self, session: SessionView, header: CaseHeader, case: Case, iteration: Iteration
    ) -> Iteration:
        if "beside" not in case.shape:
            return iteration
        self.matmul = self.matmul or open_matmul(session.world, session.place.beside)
        return Measured(session.world, self.matmul, iteration).iteration


class Measured:
    """`iteration` with the matmul in its background, and the matmul's last progress."""

    def __init__(self, world: World, matmul: Matmul, iteration: Iteration) -> None:
        self.matmul = matmul
        self.iteration = replace(iteration, around=self.around, facts=self.facts)
        self.wait = come_late(world)
        self.waiting = replace(self.iteration, operation=Operation(self.wait, lambda: None))
        self.progress: Progress = np.zeros(0)

    def around(self, run: Run, counts: Counts) -> Stamps:
        stamps, self.progress = self.matmul.during(run, counts)
        return stamps

    def facts(self, stamps: Stamps, perform: Perform) -> dict[str, float] | None:
        """The matmul's rates in the block and in one that waits as long; None if it ended early."""
        if not len(stamps):
            return None
        calls = max(1, self.iteration.chain_calls)
        spans_ns = stamps[:, LEFT] - stamps[:, ARRIVED]
        if self.iteration.chain_calls:
            spans_ns = spans_ns - (stamps[:, DONE] - stamps[:, BEGUN])
        during = self.rate_gflop_s(stamps)
        self.wait.argument.timeout_ns = max(0, int(np.median(spans_ns) / calls))
        schedule = self.iteration.schedule
        alone = self.rate_gflop_s(perform(self.waiting, Counts(schedule.warmup, schedule.count)))
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
