"""What goes on beside a GPU's timed loop, in a stream of its own; and launches mixed without a clock, in its own."""

import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from kernels.devices.device import Draws, Item, Plan, Step, Watch, progress

FEWEST, MOST = 4, 250  # launches beside an iteration, each with an event: a stream has room for about 1,000


def enqueue_mixed(enqueue: Callable[[Step], None], begin: Step, items: Sequence[Item], launches: int, draws: Draws,
                  watch: Watch) -> None:
    """Puts launches of items into a stream as `Device.mix` says, each begun with `begin`, now and then late."""
    order, delays = (random.Random(draw) for draw in draws)
    for _ in range(launches):
        watch.calls = number = order.randrange(len(items))
        for step in (begin, items[number].prepare, items[number].operation, items[number].check):
            enqueue(step)
        items[number].launches += 1
        if delays.random() < 0.05:
            time.sleep(delays.random() * 0.002)
        if watch.stop:
            break
    draws[0], draws[1] = order.getrandbits(64), delays.getrandbits(64)


class SideStream:
    """A second stream, and how many launches in it last as long as an iteration of each operation."""

    def __init__(self, cupy: Any) -> None:
        self.cupy, self.stream = cupy, cupy.cuda.Stream(non_blocking=True)
        self.launches: dict[int, int] = {}

    def fill(self, plan: Plan) -> list[Any]:
        """Begins what goes on beside an iteration, before that is let go; returns the events of its begin and of each
        launch's end."""
        assert plan.beside
        ends = [self.cupy.cuda.Event() for _ in range(1 + self.launches.get(id(plan.operation), FEWEST))]
        with self.stream:
            ends[0].record(self.stream)
            for event in ends[1:]:
                plan.beside.step.kernel.function(plan.beside.step.blocks, plan.beside.step.argument)
                event.record(self.stream)
        return ends

    def done(self, plan: Plan, marks: list[Any], ends: list[Any]) -> int:
        """How much was done between the iteration's first two marks, as `Device.run` has it. The next iteration gets
        twice as much of it as this one took."""
        if not ends:
            return -1
        self.stream.synchronize()
        arrived_ns, left_ns, *ends_ns = (1e6 * self.cupy.cuda.get_elapsed_time(ends[0], event)
                                         for event in (*marks[:2], *ends))
        twice_as_long = int(2 * (len(ends) - 1) * left_ns / ends_ns[-1])
        self.launches[id(plan.operation)] = min(max(twice_as_long, FEWEST), MOST)
        return int(progress(np.array([[arrived_ns, left_ns]]), np.array(ends_ns))[0])
