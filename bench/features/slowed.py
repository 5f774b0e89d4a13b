"""Launches slowed on purpose, which show the effect that a comparison can see.

docs/calibration.md uses it; `--slowed-percent` is a hidden option. A library is never slowed."""

import argparse
import ctypes
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from bench.harness.feature import Feature, SessionView
from bench.harness.options import NOTHING, AddOption, Parser, positive_number
from collectives.operation import Case, Operation, World
from kernels.devices.device import Step

if TYPE_CHECKING:
    from bench.harness.iteration import Iteration
    from reports.store.schema import CaseHeader


class Slowdown(ctypes.Structure):
    """`Slowdown` of slowed.cu: the time at the start, and the share of it to add."""

    _fields_ = [("start_ns", ctypes.c_void_p), ("share", ctypes.c_double)]


@dataclass(frozen=True)
class Slowed(Feature):
    """Every launch of ours takes `percent` longer than it needs."""

    percent: float

    @staticmethod
    def add_options(add: AddOption) -> None:
        add(
            "--slowed-percent",
            changes=NOTHING,  # it stands for slower code, which comparisons are to find
            type=partial(positive_number, "percent", 100),
            help=argparse.SUPPRESS,
        )

    @classmethod
    def parse(cls, parser: Parser, namespace: argparse.Namespace) -> "Slowed | None":
        return cls(namespace.slowed_percent) if namespace.slowed_percent else None

    def change(
        self, session: SessionView, header: "CaseHeader", case: Case, iteration: "Iteration"
    ) -> "Iteration":
        if header.library:
            return iteration
        return replace(
            iteration,
            operation=self.slowed(session.world, iteration.operation),
            consume=self.slowed_step(session.world, iteration.consume),
        )

    def slowed(self, world: World, operation: Operation) -> Operation:
        step = self.slowed_step(world, operation.step)
        by_link = {
            rtt_ns: self.slowed(world, of_state) for rtt_ns, of_state in operation.by_link.items()
        }
        return replace(operation, step=step, call=world.device.caller(step), by_link=by_link)

    def slowed_step(self, world: World, step: Step) -> Step:
        start = world.device.private(8)
        slowdown = Slowdown(start.address, self.percent / 100)
        slowdown.keep_alive = start
        kernels = world.device.compile("slowed", {}, (Slowdown,))
        begin, end = (Step(kernels.kernel(name), slowdown) for name in ("note_start", "linger"))
        return world.device.sequence([begin, step, end])

    def notes(self) -> list[str]:
        return [f"Slowed on purpose: our kernels take {self.percent:g} % longer than they need."]

    def world_facts(self) -> dict[str, Any]:
        return {"slowed_percent": self.percent}
