"""How a GPU runs iterations: launches into one stream, behind a gate, stamped by events."""

import ctypes
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np

from kernels.devices.device import Action, Counts, Device, Gate, Stamps, Step, Watch
from kernels.devices.gpu_driver import (
    bindings_name,
    calling,
    driver_library,
    load_bindings,
    ordinals,
    wide,
)

# Entries of a stream, also a library's. After about 1,000 a launch blocks: at a gate, for ever.
MOST_QUEUED = 500
HOLD_NS = 2_000_000_000  # filling a batch takes ms; a display's driver kills kernels after seconds
STAMPS = 4
OUT_OF_MEMORY = 2  # CUDA_ERROR_OUT_OF_MEMORY, hipErrorOutOfMemory
PORTABLE, MAPPED = 1, 2  # host allocations: for all devices of the process, in their address space
# hipEventDisableSystemFence: other events write L2 back, which then counts as the kernel's time.
HIP_WITHOUT_FENCE = 0x20000000
HIP_COHERENT = 0x40000000  # otherwise a running kernel may not see the host's writes


def whole_parts(steps: Sequence[Step]) -> Iterator[Step]:
    """The steps that have no parts, of these and of their parts."""
    for step in steps:
        yield from whole_parts(step.parts) if step.parts else [step]


class GpuStream(Device):
    """A GPU, by its PCI bus id, and its stream. The gate's kernel polls `pinned_gate`."""

    def __init__(self, pci_bus_id: str) -> None:
        self.bindings, self.pci_bus_id = load_bindings(), pci_bus_id
        runtime = self.runtime = self.bindings.cuda.runtime
        self.name = "hip" if runtime.is_hip else "cuda"
        with self.calling("opening the device"):
            self.ordinal = ordinals(runtime)[pci_bus_id]
            runtime.setDevice(self.ordinal)
            self.stream = self.bindings.cuda.Stream(non_blocking=True)
            self.stream.use()
            self.second = self.bindings.cuda.Stream(non_blocking=True, priority=-1)
        self.pinned_gate: Gate = self.pinned(Gate)
        self.pinned_watch: Watch = self.pinned(Watch)
        self.gates = 1  # the last one's number; `pinned_gate.wanted` is 0 until one gives up
        self.graph_of = cache(self.replayed)
        self.launched = weakref.WeakSet[Step]()

    def calling(self, call: str) -> Any:
        return calling(f"on GPU {self.pci_bus_id}, {call}")

    def driver(self, name: str, *arguments: Any) -> None:
        """Calls a function of the driver's own library, which CuPy lacks. Raises DeviceError."""
        with self.calling(name):
            status = driver_library(self.name)[name](*wide(arguments))
            if status:
                kind = " OutOfMemory" if status == OUT_OF_MEMORY else ""
                raise RuntimeError(f"error {status}{kind}")

    def driver_value(self, name: str, *arguments: Any) -> int:
        """What such a function writes to its first argument, which `arguments` leave out."""
        value = ctypes.c_uint64()
        self.driver(name, ctypes.byref(value), *arguments)
        return value.value

    def current_stream(self) -> int:
        """The stream of the calls now: the kernels', or within `beside` the second one."""
        return int(self.bindings.cuda.get_current_stream().ptr)

    def pinned(self, kind: type[ctypes.Structure]) -> Any:
        """A zeroed structure in memory of the host, at the same address for kernels."""
        flags = PORTABLE | MAPPED | (HIP_COHERENT if self.name == "hip" else 0)
        with self.calling("hostAlloc"):
            address = int(self.runtime.hostAlloc(ctypes.sizeof(kind), flags))
        ctypes.memset(address, 0, ctypes.sizeof(kind))
        return kind.from_address(address)

    def take_kernels(self) -> None:
        """Takes the launches of iteration.cu that frame an iteration."""
        entries = "begin_iteration", "hold", "nothing"
        self.begin, self.hold, self.nothing = (self.loop_step(entry, Gate()) for entry in entries)

    def watch(self, record: Watch) -> Watch:
        return self.pinned_watch

    def enqueue(self, *steps: Step) -> None:
        for step in steps:
            step.function(step.blocks, step.argument)

    def captured(self, *steps: Step) -> Any:
        self.finish_builds()  # a module cannot be loaded while a stream is captured
        self.stream.begin_capture()
        self.enqueue(*steps)
        graph = self.stream.end_capture()
        for step in dict.fromkeys(steps):
            if step.after_capture:
                step.after_capture()
        return graph

    def reason_against_graphs(self) -> str | None:
        try:
            self.captured(self.nothing).launch(self.stream)
            self.stream.synchronize()
        except RuntimeError as error:
            name = bindings_name(self.bindings)
            return f"{name} cannot capture a graph on GPU {self.pci_bus_id}: {error}"
        return None

    def _with_graphs(self, actions: Sequence[Action]) -> list[Action]:
        """The actions, with the steps between two stamps, which are timed, as one: the launch of
        their graph. Stamps are in pairs, one before and one after."""
        shown, pending, is_timed = list[Action](), list[Step](), False
        for action in actions:
            if action.step and is_timed:
                pending.append(action.step)
                continue
            if pending:
                shown.append(Action(self.graph_of(*pending)))
                pending = []
            if action.stamp >= 0:
                is_timed = not is_timed
            shown.append(action)
        return shown

    def run(
        self,
        actions: Sequence[Action],
        check: Step,
        counts: Counts,
        watch: Watch,
        graph: bool = False,
    ) -> Stamps:
        """Runs iterations in batches behind a closed gate, which hides the host's launch time. The
        first iteration of an operation has no gate: a library connects then, and waits for the
        device, as a new graph does. Blocks without timed iterations have none either: these may be
        longer than a stream. Stamps are ns of the host's monotonic clock, exact within an
        iteration; its place is as exact as the host sees the batch end. Raises DeviceError."""
        rows: list[list[int]] = []
        begun = 0
        with self.calling("the timed loop"):
            # Before a gate closes: a new graph may wait for the device.
            actions = self._with_graphs(actions) if graph else actions
            entries = 4 + sum(action.step.entries if action.step else 1 for action in actions)
            batch_size = max(1, MOST_QUEUED // entries)
            while begun < counts.total and not watch.stop:
                steps = {action.step for action in actions if action.step}
                is_first = not self.launched >= steps
                self.launched.update(steps)
                stop = min(counts.total, begun + (1 if is_first else batch_size))
                if counts.timed and not is_first:
                    self._close_gate(watch)
                marks = [
                    self._iterate(actions, check if counts.is_checked(number) else None, watch)
                    for number in range(begun, stop)
                ]
                self._open_gate()
                end = time.monotonic_ns(), next(reversed(marks[-1].values()), None)
                rows += [
                    self._stamps_ns(events, *end)
                    for number, events in enumerate(marks, begun)
                    if counts.is_timed(number) and not watch.stop
                ]
                begun = stop
        return np.array(rows, np.int64).reshape(-1, STAMPS)

    def _iterate(
        self, actions: Sequence[Action], check: Step | None, watch: Watch
    ) -> dict[int, Any]:
        """Puts one iteration into the stream and returns its events by column of the stamps."""
        events: dict[int, Any] = {}
        for action in actions:
            if action.step:
                self.enqueue(action.step)
            elif action.stamp < 0:
                note = Gate(wanted=action.call, watch=ctypes.addressof(watch))
                self.enqueue(replace(self.begin, argument=note))
            else:
                events[action.stamp] = self._stamp()
                events[action.stamp].record(self.stream)
        if check:
            self.enqueue(check)
        return events

    def _stamp(self) -> Any:
        Event = self.bindings.cuda.Event
        if self.name != "hip":
            return Event()
        event = Event.__new__(Event)  # CuPy's own takes no flags of HIP
        event.ptr = self.runtime.eventCreateWithFlags(HIP_WITHOUT_FENCE)
        return event

    def _stamps_ns(self, events: dict[int, Any], ended_ns: int, last: Any) -> list[int]:
        """Of an iteration with these events, one or more, whose batch ended then, after the last
        event."""
        origin = next(iter(events.values()))
        since_ms = partial(self.bindings.cuda.get_elapsed_time, origin)
        began_ns = ended_ns - round(1e6 * since_ms(last))
        stamps_ns = [began_ns] * STAMPS
        for column, event in events.items():
            stamps_ns[column] += round(1e6 * since_ms(event))
        return stamps_ns

    def _close_gate(self, watch: Watch) -> None:
        """Launches from now on wait for `_open_gate`."""
        self.gates += 1
        opened, stopped = ctypes.addressof(self.pinned_gate), ctypes.addressof(watch)
        gate = Gate(opened, self.gates, HOLD_NS, stopped)
        self.enqueue(replace(self.hold, argument=gate))

    def _open_gate(self) -> None:
        """Lets the stream run. Raises RuntimeError if the gate gave up: launches would be timed."""
        self.pinned_gate.opened = self.gates
        self.stream.synchronize()
        if self.pinned_gate.wanted == self.gates:  # `hold` wrote it
            raise RuntimeError("the stream was full before the host had filled it")

    def caller(self, step: Step) -> Callable[[], None]:
        def call() -> None:
            with self.calling(step.name):
                self.enqueue(step)
                self.stream.synchronize()

        return call

    def sequence(self, steps: Sequence[Step]) -> Step:
        entries = sum(step.entries for step in steps)
        return self.python("steps in a row", lambda: self.enqueue(*steps), entries)

    def beside(self, steps: Sequence[Step]) -> tuple[Step, Step]:
        with self.calling("making events"):
            begun, ended = (self.bindings.cuda.Event(disable_timing=True) for _ in range(2))

        def enqueue() -> None:
            begun.record(self.stream)
            self.second.wait_event(begun)
            self.second.use()  # CuPy's `with` would end with its default stream
            try:
                self.enqueue(*steps)
            finally:
                self.stream.use()
            ended.record(self.second)

        entries = 3 + sum(step.entries for step in steps)
        wait = self.python("end of the steps beside", lambda: self.stream.wait_event(ended))
        return self.python("steps beside", enqueue, entries), wait

    def python(self, name: str, function: Callable[[], object], entries: int = 1) -> Step:
        return Step(name, lambda blocks, argument: function(), None, entries=entries)

    def replayed(self, *steps: Step) -> Step:
        """Each graph has as many of the steps, or of their parts, as surely fit."""
        parts = [*whole_parts(steps)]
        most = len(parts)
        if self.most_graph_nodes:
            most = max(1, self.most_graph_nodes // max(part.entries for part in parts))
        graphs = [self.captured(*parts[at : at + most]) for at in range(0, len(parts), most)]

        def launch() -> None:
            for graph in graphs:
                graph.launch(self.stream)

        # As many as fill a stream: each launch has a gate of its own. NCCL 2.32, with two ranks on
        # one H100, made the host wait at a graph's second launch for the end of its first.
        step = self.python(steps[0].name, launch, MOST_QUEUED)
        return replace(step, argument=steps)  # which it keeps alive
