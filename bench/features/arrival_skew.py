"""Arrival skew: one rank arrives late at each collective, as after uneven compute."""

import argparse
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from bench.harness.feature import Feature
from bench.harness.iteration import Iteration, come_late
from bench.harness.parser import CASES, Option, duration_s, listed
from collectives.collective import Shape
from collectives.operation import CollectiveCase
from wiretax.common.launched import launched_ranks
from wiretax.record.lateness_file import MOST_LATE_US

if TYPE_CHECKING:
    from bench.harness.session import Session


def delay_us(text: str) -> float:
    """`0`, `5us` or `1.5ms`, to the nanosecond."""
    delay = 0.0 if text == "0" else round(1e6 * duration_s(text), 3)
    if delay > MOST_LATE_US:
        raise argparse.ArgumentTypeError(f"{text} is above the longest, {MOST_LATE_US // 1000}ms")
    if delay and launched_ranks() == 1:
        raise argparse.ArgumentTypeError("one rank waits for nobody")
    return delay


class ArrivalSkew(Feature):
    """Every case once for each delay in us, its value; a delay of 0 is the case itself."""

    name = "arrival_skew"
    options = (
        Option(
            CASES,
            ["--arrival-skew"],
            **listed(delay_us),
            help="delay one rank by these times, such as 0,5us,1.5ms; isolated mode only (none)",
        ),
    )
    mode = "isolated"  # a rank arrives at a chain, not at each of its calls

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        return [
            {**shape, "arrival_skew_us": delay_us} if delay_us else shape
            for shape in shapes
            for delay_us in self.value
        ]

    def change(self, session: "Session", case: CollectiveCase, iteration: Iteration) -> None:
        late_us = case.shape.get("arrival_skew_us")
        if not late_us:
            return
        world = session.world
        receives = partial(case.collective.receives, case.shape)
        # The rank that is delayed: the last one that receives anything.
        late = max(rank for rank in range(world.ranks) if receives(rank, world.ranks))
        # Of stamps that cannot be compared only the late rank's contain no waiting for others.
        iteration.ranks = () if world.shares_clock() else (late,)
        if world.rank == late:
            iteration.late = come_late(world, round(1e3 * late_us))
