"""Copy-engine all-reduces on the software GPU: `copy_engine_ranks.py FORM GRAPH FAULT MEMORY`,
under mpirun.

Every rank prints how many results were wrong. FAULT names an ordering of streams or ranks that this
program leaves out.
"""

import os
import sys
from dataclasses import replace
from itertools import product
from typing import Any, cast

import numpy as np

from collectives.algorithms import allreduce_copy_engine as forms
from collectives.build import Build
from collectives.collective import COLLECTIVES, DATATYPES
from collectives.operation import CollectiveCase, Limits, Operation, World
from kernels.devices.device import Memory, Step
from kernels.devices.gpu import GpuDevice
from tests.ranks.world import connect

forms.LEAST_PIECE_BYTES = 256
NAME, GRAPH, FAULT, MEMORY = sys.argv[1:]
(FORM,) = (form for form in forms.ALGORITHMS["all_reduce"] if form.base == NAME)
FORM = replace(FORM, limits=Limits())
SIZES, ROUNDS = (4096, 5000), 2
NOTHING = Step("nothing", lambda blocks, argument: None, None)


def leave_out(fault: str) -> None:
    def step(self, stem, entry, *words, **macros):
        return NOTHING if entry == "await_copies" else plain(self, stem, entry, *words, **macros)

    held = list[Step]()

    def early(self, memops=False):
        engine = plain_engine(self, memops)

        def copy(*place):
            held.append(engine.copy(*place))
            return NOTHING

        def store(address, value):
            steps = [engine.store(address, value), *held]
            held.clear()
            return self.sequence(steps)

        return engine._replace(copy=copy, store=store)

    if fault == "early":  # a flag is stored before its copy
        plain_engine = GpuDevice.copy_engine
        cast(Any, GpuDevice).copy_engine = early
    elif fault == "reset":  # a flag stays up for the next launch
        cast(Any, forms).arrival = lambda engine, flag: [engine.wait(flag, 1)]
    elif fault == "flag":  # a sum does not wait for its inputs
        plain = GpuDevice.step
        cast(Any, GpuDevice).step = step
    elif fault == "join":  # a launch ends before its copies
        beside = GpuDevice.beside
        cast(Any, GpuDevice).beside = lambda self, steps: (beside(self, steps)[0], NOTHING)


class Bed:
    """Ranks with buffers, and the launches over them."""

    def __init__(self, world: World) -> None:
        assert isinstance(world.device, GpuDevice)
        self.world, self.device = world, world.device
        self.rank, self.ranks = world.communicator.rank, world.communicator.size
        allocate = self.device.private if MEMORY == "host_staged" else world.mapped.register
        memories = (allocate((16 << 10) + 64) for _ in range(4))
        self.send, self.receive, self.result, self.blank = memories

    def case(self, count: int, target: Memory, **options: Any) -> CollectiveCase:
        buffers = {"send": self.send.address, "receive": target.address} | options
        collective, datatype = COLLECTIVES["all_reduce"], DATATYPES["float32"]
        (buffers["variant"],) = FORM.variants
        return CollectiveCase(collective, count, datatype, "sum", **buffers)

    def bound(self, case: CollectiveCase) -> Step:
        operation = FORM.bind(self.world, case)
        assert isinstance(operation, Operation), operation
        return operation.step

    def copying(self, source: int, target: int, size_bytes: int) -> Step:
        arguments = self.world.mapped.arguments(source, target, size_bytes // 4, 0)
        return self.device.step("link_probe", "copy_local", arguments, WT_WORLD=self.ranks)

    def launch(self, steps: list[Step], inputs: list[np.ndarray], at: int) -> None:
        """Writes this rank's input to an address of its send or receive buffer, and launches."""
        memory = self.send if 0 <= at - self.send.address < self.send.size_bytes else self.receive
        memory.write(inputs[self.rank], at - memory.address)
        self.world.communicator.barrier()
        self.device.enqueue(*steps)
        self.device.stream.synchronize()

    def wrong(self, memory: Memory, expected: np.ndarray) -> int:
        stored = memory.read()[: 4 * len(expected)].view(np.float32)
        return int(np.count_nonzero(stored != expected))

    def drawn(self, count: int, *seed: int) -> list[np.ndarray]:
        draws = [np.random.default_rng([*seed, rank]) for rank in range(self.ranks)]
        return [draw.integers(-99, 99, count).astype(np.float32) for draw in draws]


def each_size(bed: Bed, graph: bool) -> int:
    """All sizes, in place and out of place, three launches in a row. The buffer is overwritten
    behind them: the copies of the launch must have read it."""
    wrong = 0
    for number, (size, in_place) in enumerate(product(SIZES, (False, True))):
        shift = 4 * (number % 2)
        send, receive = (memory.address + shift for memory in (bed.send, bed.receive))
        source = receive if in_place else send
        options = {"in_place": in_place, "send": source, "receive": receive}
        build = Build(chunk_bytes=256 if number == 2 else None)
        step = bed.bound(bed.case(size // 4, bed.receive, build=build, **options))
        step = bed.device.replayed(step) if graph else step
        after = [
            bed.copying(receive, bed.result.address, size),
            bed.copying(bed.blank.address, receive, size),
        ]
        for turn in range(ROUNDS):
            inputs = bed.drawn(size // 4, number, turn)
            bed.launch([step] * (1 if in_place else 3) + after, inputs, source)
            wrong += bed.wrong(bed.result, np.sum(inputs, axis=0))
            bed.world.communicator.barrier()
    return wrong


def main() -> None:
    graph = GRAPH == "1"
    leave_out(FAULT)
    vendor = os.environ.get("FAKE_GPU_VENDOR", "cuda")
    world, watch = connect(20.0, vendor, MEMORY)
    bed = Bed(world)
    wrong = each_size(bed, graph)
    print(f"wrong: {wrong}, timed out: {watch.timed_out}", flush=True)
    world.communicator.barrier()


main()
