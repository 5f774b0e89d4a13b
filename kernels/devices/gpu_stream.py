"""How a GPU runs iterations: launches into one stream, behind a gate, stamped by events."""

import ctypes
import weakref
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from kernels.devices.device import Action, Counts, Gate, Kernel, Stamps, Step, Watch

# Entries of a stream, including the ones that a library adds. Beyond about 1,000 the next launch
# blocks, and behind a closed gate it blocks for ever.
MOST_QUEUED = 500
HOLD_NS = 2_000_000_000  # filling a batch takes ms; a display's driver kills kernels after seconds
STAMPS = 4


class GpuStream:
    """The stream of a GPU's kernels. `words` is the watch in pinned host memory; the gate's
    kernel polls `gate_words`; `origin` is the first event of the last iteration."""

    def __init__(self, cupy: Any, calling: Callable[[str], Any], gate_words: Gate,
                 words: Watch) -> None:
        self.cupy, self.calling = cupy, calling
        self.gate_words, self.words, self.passes = gate_words, words, 0
        self.stream = cupy.cuda.Stream(non_blocking=True)
        self.stream.use()
        self.graphs: dict[tuple[int, int], tuple[Step, Any]] = {}
        self.events: list[Any] = []
        self.launched = weakref.WeakValueDictionary[int, Step]()
        self.origin: Any = None

    def load(self, module: Any) -> None:
        """Takes the kernels of iteration.cu that frame an iteration."""
        self.begin, self.hold, self.nothing = (
            module.kernel(name) for name in ("begin_iteration", "hold", "nothing"))

    def enqueue(self, step: Step) -> None:
        step.kernel.function(step.blocks, step.argument)

    def captured(self, steps: Sequence[Step]) -> Any:
        self.stream.begin_capture()
        for step in steps:
            self.enqueue(step)
        return self.stream.end_capture()

    def launch(self, steps: Sequence[Step], graph: bool) -> None:
        """Puts the steps into the stream, one by one or as one captured graph."""
        if not graph:
            for step in steps:
                self.enqueue(step)
            return
        key = (id(steps[0]), len(steps))
        if key not in self.graphs:
            self.graphs[key] = (steps[0], self.captured(steps))
        self.graphs[key][1].launch(self.stream)

    def run(self, actions: Sequence[Action], check: Step, counts: Counts, watch: Watch,
            graph: bool) -> Stamps:
        """Runs iterations in batches behind a closed gate, so that the host's launch time does not
        show. The first iteration of an operation has no gate: a library connects then, and waits
        for the device. A block without timed iterations has none either: its iterations may be
        longer than a stream. Stamps are ns since the first event of their iteration.

        Raises DeviceError if the driver refuses a call or the device is lost.
        """
        entries = 4 + sum(action.step.entries if action.step else 1 for action in actions)
        batch_size = max(1, MOST_QUEUED // entries)
        rows: list[list[int]] = []
        begun = 0
        with self.calling("the timed loop"):
            while begun < counts.total and not watch.stop:
                is_first = self._is_first(actions)
                stop = min(counts.total, begun + (1 if is_first else batch_size))
                gate = None if is_first or not counts.timed else self.close_gate(watch)
                marks = [self._iterate(actions, check if counts.is_checked(number) else None,
                                       number - begun, watch, graph)
                         for number in range(begun, stop)]
                self.open_gate(gate)
                rows += [self._stamps_ns(events) for number, events in enumerate(marks, begun)
                         if counts.is_timed(number) and not watch.stop]
                begun = stop
        return np.array(rows, np.int64).reshape(-1, STAMPS)

    def _is_first(self, actions: Sequence[Action]) -> bool:
        """Whether one of these steps is new to the stream; from now on none of them is."""
        new = [action.step for action in actions
               if action.step and id(action.step) not in self.launched]
        self.launched.update({id(step): step for step in new})
        return bool(new)

    def _iterate(self, actions: Sequence[Action], check: Step | None, place: int, watch: Watch,
                 graph: bool) -> dict[int, Any]:
        """Puts one iteration into the stream and returns its events by column of the stamps."""
        while len(self.events) < STAMPS * (place + 1):
            self.events.append(self.cupy.cuda.Event())
        events: dict[int, Any] = {}
        pending: list[Step] = []  # between two stamps
        for action in actions:
            if action.step and events and len(events) % 2:
                pending.append(action.step)
            elif action.step:
                self.enqueue(action.step)
            elif action.stamp < 0:
                note = Gate(wanted=action.call, watch=ctypes.addressof(watch))
                self.enqueue(Step(self.begin, note))
            else:
                if pending:
                    self.launch(pending, graph)
                    pending = []
                events[action.stamp] = self.events[STAMPS * place + action.stamp]
                events[action.stamp].record(self.stream)
        if check:
            self.enqueue(check)
        return events

    def _stamps_ns(self, events: dict[int, Any]) -> list[int]:
        self.origin = next(iter(events.values()), None)
        elapsed_ms = self.cupy.cuda.get_elapsed_time
        stamps_ns = [0] * STAMPS
        for column, event in events.items():
            stamps_ns[column] = round(1e6 * elapsed_ms(self.origin, event))
        return stamps_ns

    def close_gate(self, watch: Watch) -> Gate:
        """Launches from now on wait for `open_gate`."""
        self.passes += 1
        gate = Gate(ctypes.addressof(self.gate_words), self.passes, HOLD_NS,
                    ctypes.addressof(watch))
        self.enqueue(Step(self.hold, gate))
        return gate

    def open_gate(self, gate: Gate | None) -> None:
        """Lets the stream run to its end. Raises RuntimeError, like the driver, if the gate gave up
        waiting: then the host's launches would have been timed."""
        opened = ctypes.c_uint64.from_address(ctypes.addressof(self.gate_words))
        opened.value = self.passes
        self.stream.synchronize()
        if gate and self.gate_words.wanted == gate.wanted:  # `hold` wrote it
            raise RuntimeError("the stream was full before the host had filled it")

    def time_us(self, step: Step, calls: int) -> float:
        """The median time of a step in the stream, in microseconds, over `calls` launches."""
        events = [self.cupy.cuda.Event() for _ in range(calls + 1)]
        with self.calling(step.kernel.name):
            gate = self.close_gate(self.words)
            events[0].record(self.stream)
            for event in events[1:]:
                self.enqueue(step)
                event.record(self.stream)
            self.open_gate(gate)
            times_ms = [self.cupy.cuda.get_elapsed_time(*pair) for pair in pairwise(events)]
        return float(1e3 * np.median(times_ms))

    def event_resolution_us(self) -> float | None:
        """The smallest time between two events, in microseconds; about 1 on some cards."""
        events = [self.cupy.cuda.Event() for _ in range(100)]
        with self.calling("recording events"):
            for event in events:
                event.record(self.stream)
            self.stream.synchronize()
            gaps_ms = [self.cupy.cuda.get_elapsed_time(*pair) for pair in pairwise(events)]
        return min((round(1e3 * gap_ms, 3) for gap_ms in gaps_ms if gap_ms > 0), default=None)

    def caller(self, step: Step) -> Callable[[], None]:
        """A Python function that launches a step once and waits for its end."""

        def call() -> None:
            with self.calling(step.kernel.name):
                self.enqueue(step)
                self.stream.synchronize()

        return call

    def sequence(self, steps: Sequence[Step]) -> Step:
        """The steps one after another in the stream, as one step."""
        def enqueue_all(blocks: int, argument: Any) -> None:
            for step in steps:
                self.enqueue(step)

        entries = sum(step.entries for step in steps)
        return Step(Kernel("steps in a row", enqueue_all), None, entries=entries)

    def replayed(self, step: Step) -> Step:
        """The step as the replay of a graph that is captured once."""
        graph = self.captured([step])
        replay = Kernel(step.kernel.name, lambda blocks, argument: graph.launch(self.stream))
        return Step(replay, step, step.blocks)
