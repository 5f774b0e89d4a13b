"""Copy-engine all-reduces on the software GPU: `copy_engine_ranks.py GRAPH FAULT`, under mpirun.

Every rank prints how many results were wrong. FAULT names an ordering of streams or ranks that this program leaves out.
"""

import gc
import os
import sys
import time
from collections.abc import Callable
from itertools import product
from typing import Any, cast

import numpy as np

from collectives import allreduce_copy_engine as forms
from collectives.build import Build
from collectives.collective import COLLECTIVES, DATATYPES
from collectives.operation import Algorithm, Case, Operation, World
from collectives.probe import probe_kernels
from kernels.devices.copy_engine import GpuCopyEngine
from kernels.devices.device import Kernel, Memory, Step
from kernels.devices.gpu import GpuDevice
from tests.ranks.world import connect

forms.LEAST_BYTES, forms.LEAST_PIECE_BYTES = 0, 256
SIZES, ROUNDS, LATE_S = (4096, 5000), 2, 0.3
NOTHING = Step(Kernel("nothing", lambda blocks, argument: None), None)


def leave_out(fault: str) -> None:
    program, engine = cast(Any, forms.Program), cast(Any, GpuCopyEngine)
    plain_mark, plain_beside = program.mark, engine.beside

    def mark(self, entry, peers, number):
        left_out = entry == "await_copies" and (number == 1 if fault == "entry" else number > 1)
        return NOTHING if left_out else plain_mark(self, entry, peers, number)

    def at_once(self, steps):
        def enqueue(blocks, argument):
            self.stream.use()
            self.device.enqueue(*steps)
            self.device.stream.use()

        is_first = (
            steps[-1].argument.step == 2
        )  # waits for the launch's entry, so that epochs stay in order
        return (
            plain_beside(self, steps)
            if is_first
            else Step(Kernel("copies at once", enqueue), steps)
        )

    if fault in (
        "entry",
        "flag",
    ):  # a launch does not wait for all ranks; a sum does not wait for its inputs
        program.mark = mark
    elif fault == "event":  # copies do not wait for the sums that they send
        engine.beside = at_once
    elif fault == "order":  # the flag before the copies
        engine.beside = lambda self, steps: plain_beside(self, [*steps[-1:], *steps[:-1]])
    elif fault == "join":  # a launch ends before its copies
        engine.join = lambda self: NOTHING


def gpu(world: World) -> GpuDevice:
    assert isinstance(world.device, GpuDevice)
    return world.device


def copying(world: World, source: int, target: int, size_bytes: int) -> Step:
    kernel = probe_kernels(world.device, world.communicator.size).kernel("copy_local")
    return Step(kernel, world.mapped.arguments(source, target, size_bytes // 4, 0))


def bound(world: World, form: Algorithm, case: Case) -> Step:
    operation = form.bind(world, case)
    assert isinstance(operation, Operation), operation
    return operation.step


def each_form(world: World, graph: bool, memories: list[Memory]) -> int:
    """All forms, sizes and variants, three launches in a row. The buffer is overwritten behind them: the copies of
    the launch must have read it."""
    send, receive, result, blank = memories
    rank, ranks, wrong = world.communicator.rank, world.communicator.size, 0
    for form, (number, (size, variant)) in product(
        (forms.TWO_SHOT_COPY_ENGINE, forms.RING_COPY_ENGINE),
        enumerate(product(SIZES, ("copied", "registered"))),
    ):
        shift, in_place = 4 * (number % 2), number == 1
        source = receive if in_place else send
        case = Case(
            COLLECTIVES["all_reduce"],
            size // 4,
            DATATYPES["float32"],
            "sum",
            source.address + shift,
            receive.address + shift,
            in_place,
            variant,
            build=Build(chunk_bytes=256 if number == 2 else None),
        )
        step = bound(world, form, case)
        steps = [world.device.replayed(step) if graph else step] * (1 if in_place else 3)
        after = [
            copying(world, receive.address + shift, result.address, size),
            copying(world, blank.address, receive.address + shift, size),
        ]
        draws = [np.random.default_rng([number, each]) for each in range(ranks)]
        for _ in range(ROUNDS):
            inputs = [draw.integers(-99, 99, size // 4).astype(np.float32) for draw in draws]
            source.write(inputs[rank], shift)
            world.communicator.barrier()
            gpu(world).enqueue(*steps, *after)
            gpu(world).stream.synchronize()
            wrong += int(
                np.count_nonzero(result.read()[:size].view(np.float32) != np.sum(inputs, axis=0))
            )
            world.communicator.barrier()
    return wrong


def in_turn(world: World, memories: list[Memory]) -> int:
    """Forms with different places in the inboxes, in turn, while one rank is late to read the sums."""
    send, receive, result, _ = memories
    rank, ranks, size = world.communicator.rank, world.communicator.size, 4096
    program = cast(Any, forms.Program)
    plain = program.run

    def run(self, entry, target, sources, size_bytes):
        if entry == "take" and rank == 1:
            late = Kernel(
                "late",
                lambda blocks, argument: gpu(world).stream.launch_host_func(time.sleep, LATE_S),
            )
            self.steps.append(Step(late, None))
        plain(self, entry, target, sources, size_bytes)

    steps = list[Step]()
    program.run = run
    # The ring's first copy covers all of the other form's inbox. Its case is first, so that both share an inbox.
    for form, many, target in (
        (forms.RING_COPY_ENGINE, 4, result),
        (forms.TWO_SHOT_COPY_ENGINE, 1, receive),
    ):
        case = Case(
            COLLECTIVES["all_reduce"],
            many * size // 4,
            DATATYPES["float32"],
            "sum",
            send.address,
            target.address,
            build=Build(chunk_bytes=many * size),
        )
        steps.insert(0, bound(world, form, case))
    inputs = [
        np.random.default_rng(each).integers(-99, 99, size).astype(np.float32)
        for each in range(ranks)
    ]
    send.write(inputs[rank])
    world.communicator.barrier()
    gpu(world).enqueue(*steps)
    gpu(world).stream.synchronize()
    parts = (receive, size // 4), (result, size)
    return int(
        sum(
            np.count_nonzero(
                memory.read()[: 4 * count].view(np.float32) != np.sum(inputs, axis=0)[:count]
            )
            for memory, count in parts
        )
    )


def in_the_first_inbox(world: World, memories: list[Memory]) -> Callable[[], int]:
    """A function that launches a case that is bound now, and counts its wrong elements. Its inbox must stay mapped when
    later cases have larger ones."""
    send, receive, *_ = memories
    case = Case(
        COLLECTIVES["all_reduce"], 256, DATATYPES["float32"], "sum", send.address, receive.address
    )
    step = bound(world, forms.TWO_SHOT_COPY_ENGINE, case)

    def launch() -> int:
        gc.collect()
        send.write(np.full(256, world.communicator.rank + 1, np.float32))
        world.communicator.barrier()
        gpu(world).enqueue(step)
        gpu(world).stream.synchronize()
        expected = sum(range(world.communicator.size + 1))
        return int(np.count_nonzero(receive.read()[:1024].view(np.float32) != expected))

    return launch


def main() -> None:
    graph, fault = sys.argv[1] == "1", sys.argv[2]
    leave_out(fault)
    world, watch = connect(
        20.0, os.environ.get("FAKE_GPU_VENDOR", "cuda"), os.environ.get("MEMORY", "auto")
    )
    memories = [world.mapped.register((16 << 10) + 64) for _ in range(4)]
    launch_early = in_the_first_inbox(world, memories)
    wrong = each_form(world, graph, memories) if fault != "entry" else 0
    if not graph:
        wrong += in_turn(world, memories)
        wrong += launch_early()
    print(f"wrong: {wrong}, timed out: {watch.timed_out}", flush=True)
    world.communicator.barrier()


main()
