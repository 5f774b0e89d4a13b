"""Run by mpirun on several hosts: every collective between hosts beside numpy, and the bytes that cross.

`host_ranks.py right` tries types, operations, counts, places and variants. `host_ranks.py bytes NAME SIZE CALLS`
prints what leaves rank 0's host in a call of an algorithm, as its network interface counts it. `host_ranks.py same`
compares the calls on hosts of one rank. `host_ranks.py refused` prints what all ranks say if one rank fails.
"""

import hashlib
import re
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from bench.harness.iteration import Buffers as PlainBuffers
from collectives.algorithm import ALGORITHMS, BETWEEN_HOSTS
from collectives.collective import COLLECTIVES, DATATYPES
from collectives.communicator import Disagreement
from collectives.library import mpi
from collectives.operation import Case, Message, Operation, Unsupported, World
from collectives.peer_buffer import PeerBuffer, WaitPolicy
from collectives.world import open_world
from kernels.devices.device import DeviceError
from tests.collectives.collective_examples import ROOM_BYTES, Buffers, Example, inputs
from tests.ranks.world import connect, launch

# Counts, with types and operations.
REDUCED = [
    *product(
        (5,),
        [
            ("float32", "prod"),
            ("float64", "max"),
            ("int32", "min"),
            ("int64", "sum"),
            ("int8", "prod"),
            ("uint8", "sum"),
            ("float16", "sum"),
        ],
    ),
    *product((0, 1, 1003, 40_001), [("float32", "sum")]),
]
MOVED = [
    *product((5,), [("bfloat16", "none"), ("float64", "none")]),
    *product((0, 40_001), [("int8", "none")]),
]


def main(world: World) -> None:
    communicator, shared = world.communicator, world.shared
    assert not isinstance(shared, Unsupported), shared.reason
    shared.make_room(ROOM_BYTES)
    send, receive = (shared.register(ROOM_BYTES) for _ in range(2))
    buffers = Buffers(communicator.rank, communicator.size, send, receive)
    done, refusals = 0, set()
    for collective, in_place in product(list(COLLECTIVES.values())[:3], (False, True)):
        examples = [
            *product(BETWEEN_HOSTS[collective.name][:-1], REDUCED if collective.reduces else MOVED),
            *product(
                [ALGORITHMS[collective.name]["auto"]],
                (REDUCED if collective.reduces else MOVED)[-2:],
            ),
        ]
        for algorithm, (count, (name, redop)) in examples:
            for variant in algorithm.variants(world):
                example = Example(
                    collective,
                    {},
                    algorithm.name,
                    variant,
                    DATATYPES[name],
                    redop,
                    count,
                    in_place,
                    shift=3,
                    data_seed=count,
                    special=False,
                    launches=2,
                )
                every = inputs(example, communicator.size)
                operation = algorithm.bind(world, buffers.case(example, every))
                if isinstance(operation, Unsupported):
                    refusals.add((algorithm.name, operation.reason))
                    continue
                example = replace(example, algorithm=operation.chosen or algorithm.name)
                communicator.barrier()
                launch(world.device, operation.step, 1 if in_place else example.launches)
                error = operation.failure() or buffers.problem(example, every)
                bits = set(
                    communicator.all_gather(hashlib.md5(buffers.result(example).tobytes()).digest())
                )
                if (
                    collective.name == "all_reduce"
                    and len(bits) > 1
                    and example.algorithm != "flat"
                ):
                    error = error or "ranks got different bits"
                error = communicator.first_word(error)
                assert not error, f"{algorithm.name} of {example}: {error}"
                done += 1
    if communicator.rank == 0:
        print(f"{done} right on {communicator.nodes}; refused: {sorted(refusals)}")


def same_call(world: World) -> None:
    """Hosts of one rank need no step of ours."""
    memory = world.library.allocate(world, 1 << 20)
    case = Case(
        COLLECTIVES["all_reduce"],
        1000,
        DATATYPES["float32"],
        "sum",
        memory.address,
        memory.address + 4000,
    )
    calls = []
    named = ALGORITHMS["all_reduce"]
    for algorithm in named["library"], *BETWEEN_HOSTS["all_reduce"], named["auto"]:
        operation = algorithm.bind(world, case)
        assert isinstance(operation, Operation)
        call = operation.step.argument
        calls.append((operation.step.kernel.function, call.function, list(call.arguments)))
    assert calls == calls[:1] * 5
    if world.communicator.rank == 0:
        print("hierarchical, hierarchical_whole and flat are one call with equal arguments")


def sent_bytes() -> int:
    """The bytes that left this host: the ninth number of its interface's line."""
    line = next(line for line in Path("/proc/net/dev").read_text().splitlines() if "eth0:" in line)
    return int(line.split(":")[1].split()[8])


def count_bytes(world: World, name: str, size: int, calls: int) -> None:
    """The bytes of a call of each collective, less those that leave in the same time without calls."""
    communicator = world.communicator
    buffers = PlainBuffers(
        world.library.allocate(world, size), world.library.allocate(world, size), 0
    )
    for collective in list(COLLECTIVES.values())[:3]:
        count = collective.count(size, communicator.size, DATATYPES["float32"])
        case = Case(
            collective,
            count,
            DATATYPES["float32"],
            "sum" if collective.reduces else "none",
            *buffers.addresses(collective, 4 * count, communicator.rank, False),
        )
        operation = ALGORITHMS[collective.name][name].bind(world, case)
        assert isinstance(operation, Operation), operation
        launch(world.device, operation.step, 2)
        figures, took_s = [], 0.0
        for n in (calls, 0):
            communicator.barrier()
            before, start_s = sent_bytes(), time.monotonic()
            for _ in range(n):
                launch(world.device, operation.step, 1)
            time.sleep(took_s)
            communicator.barrier()
            took_s = time.monotonic() - start_s
            figures.append(sent_bytes() - before)
        if communicator.rank == 0:
            print(
                f"{collective.name}: {(figures[0] - figures[1]) / calls:.0f} bytes a call, {figures[1]} bytes idle"
            )


def refuse(world: World) -> None:
    """One rank fails in each step that others wait in; or hosts share memory in different ways."""
    communicator, device = world.communicator, world.device
    memory, own = world.library.allocate(world, 1 << 20), communicator.rank
    allocate, private = device.allocate, device.private
    case = Case(
        COLLECTIVES["all_gather"],
        1000,
        DATATYPES["int32"],
        "none",
        memory.address,
        memory.address + 4000,
    )

    def fail(*_: object) -> Any:
        raise DeviceError("no room")

    def said(work: Callable[[], object]) -> list[str]:
        try:
            result = work()
            sentence = result.reason if isinstance(result, Unsupported) else "nothing"
        except Disagreement as refusal:
            sentence = str(refusal)
        device.allocate, device.private = allocate, private  # type: ignore
        return sorted(set(communicator.all_gather(re.sub(r" on \S+:", " on HOST:", sentence))))

    if own == 3:
        device.allocate = fail  # type: ignore
    print_on_first(world, "register", said(lambda: world.library.allocate(world, 1 << 20)))
    if own == 3:
        device.private = fail  # type: ignore
    print_on_first(
        world, "scratch", said(lambda: ALGORITHMS["all_gather"]["hierarchical"].bind(world, case))
    )
    mpi.MOST_COUNT, world.library.ranks.function = 10, lambda name: 0  # type: ignore
    messages = [[Message(own == 0, 3 - own, memory.address, 64)]] if own in (0, 3) else []
    print_on_first(world, "messages", said(lambda: world.library.bind_messages(world, messages)))
    if own in communicator.nodes[1]:
        PeerBuffer.kind = property(lambda _: "host_staged")  # type: ignore
    other = open_world(communicator, device, WaitPolicy(world.watch, True), "auto")
    print_on_first(world, "kinds", said(lambda: other.shared))


def print_on_first(world: World, name: str, sentences: list[str]) -> None:
    if world.communicator.rank == 0:
        print(f"{name}: {sentences}")


if __name__ == "__main__":
    opened, _ = connect(30.0)
    if sys.argv[1] == "refused":
        refuse(opened)
    elif sys.argv[1] == "right":
        main(opened)
    elif sys.argv[1] == "same":
        same_call(opened)
    else:
        count_bytes(opened, sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
