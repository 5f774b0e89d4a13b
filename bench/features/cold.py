"""Cold caches: before each iteration every rank reads more memory than the last-level cache holds,
as compute that uses other memory would. Then a collective finds its buffers and slabs in memory;
only the flags of the barrier are in a cache."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from bench.harness.feature import Feature
from bench.harness.iteration import Iteration, consume_step
from bench.harness.parser import CASES, Option
from collectives.collective import Shape
from collectives.operation import CollectiveCase
from kernels.devices.device import DeviceError, Memory

if TYPE_CHECKING:
    from bench.harness.session import Session

FLUSHED = 2  # times the last-level cache: a pass of its size alone leaves some of the older lines


class Cold(Feature):
    """Every case with cold caches. `other` is the memory that is read."""

    other: Memory | None = None
    name = "cold"
    options = (
        Option(
            CASES,
            ["--cold"],
            action="store_true",
            help="flush the caches before each iteration; isolated mode only",
        ),
    )
    mode = "isolated"  # only the first call of a chain would be cold

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        return [{**shape, "caches": "cold"} for shape in shapes]

    def change(self, session: "Session", case: CollectiveCase, iteration: Iteration) -> None:
        world, device = session.world, session.world.device
        if not device.last_level_bytes:
            raise DeviceError("--cold: the system does not say how large the last-level cache is")
        other = self.other = self.other or device.private(FLUSHED * device.last_level_bytes)
        count = other.size_bytes // case.datatype.size_bytes
        flush = consume_step(world, replace(case, receive=other.address), "read_own", count)
        iteration.prepare = device.sequence([iteration.prepare, flush])
