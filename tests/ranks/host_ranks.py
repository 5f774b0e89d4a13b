"""Run by mpirun on several hosts: every collective between hosts beside numpy, and the bytes that
cross.

`host_ranks.py right` tries types, operations, counts, places and variants. `host_ranks.py bytes
NAME SIZE CALLS` prints what leaves rank 0's host in a call of an algorithm, as its network
interface counts it. `host_ranks.py same` compares the calls on hosts of one rank. `host_ranks.py
refused` prints what all ranks say if one rank fails.
"""

import re
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

from bench.harness.iteration import Buffers as PlainBuffers
from collectives.algorithm import ALGORITHMS, BETWEEN_HOSTS
from collectives.collective import COLLECTIVES, DATATYPES
from collectives.communicator import Disagreement
from collectives.library import mpi
from collectives.operation import Algorithm, Case, Message, Operation, Unsupported, World
from collectives.peer_buffer import PeerBuffer, WaitPolicy
from collectives.world import open_world
from kernels.devices.device import DeviceError
from tests.collectives.collective_examples import ROOM_BYTES, Buffers, Example, inputs
from tests.launch import few
from tests.ranks.world import connect, launch, same_on_all_ranks

# Counts, types and operations.
REDUCED = few(
    [
        (40_001, "float32", "sum"),
        (5, "int8", "prod"),
        (0, "float32", "sum"),
        (1003, "float32", "sum"),
        *product((5,), ("float64", "int32", "int64", "uint8", "float16"), ("max", "sum")),
    ],
    2,
)
MOVED = few([(40_001, "int8", "none"), (5, "float64", "none"), (0, "int8", "none")], 2)


def check_all(world: World) -> None:
    """Every algorithm between hosts, in place or not."""
    communicator, shared = world.communicator, world.shared
    assert not isinstance(shared, Unsupported), shared.reason
    shared.make_room(ROOM_BYTES)
    buffers = Buffers(
        communicator.rank,
        communicator.size,
        shared.register(ROOM_BYTES),
        shared.register(ROOM_BYTES),
    )
    done = 0
    for name, in_place in product(("all_reduce", "all_gather", "reduce_scatter"), (False, True)):
        examples = REDUCED if COLLECTIVES[name].reduces else MOVED
        forms = [*BETWEEN_HOSTS[name][:-1], ALGORITHMS[name]["auto"]]
        for algorithm, example in product(forms, examples):
            for variant in algorithm.variants(world):
                count, datatype, redop = example
                drawn = Example(
                    COLLECTIVES[name],
                    {},
                    algorithm.name,
                    variant,
                    DATATYPES[datatype],
                    redop,
                    count,
                    in_place,
                    shift=3,
                    data_seed=count,
                    special=False,
                    launches=1 if in_place else 2,
                )
                error = problem(world, buffers, algorithm, drawn)
                assert not error, f"{algorithm.name} of {drawn}: {error}"
                done += 1
    say(world, f"{done} right on {communicator.nodes}")


def problem(world: World, buffers: Buffers, algorithm: Algorithm, example: Example) -> str | None:
    every = inputs(example, world.communicator.size)
    operation = algorithm.bind(world, buffers.case(example, every))
    if isinstance(operation, Unsupported):
        return operation.reason
    example = replace(example, algorithm=operation.chosen or algorithm.name)
    world.communicator.barrier()
    launch(world.device, operation.step, example.launches)
    error = operation.failure() or buffers.problem(example, every)
    alike = example.collective.name == "all_reduce" and example.algorithm != "flat"
    bits = [buffers.result(example)] if alike else []
    return same_on_all_ranks(world, world.watch, error, *bits)


def same_call(world: World) -> None:
    """Hosts of one rank need no step of ours."""
    memory, calls = world.library.allocate(world, 1 << 20), []
    at = memory.address, memory.address + 4000
    case = Case(COLLECTIVES["all_reduce"], 1000, DATATYPES["float32"], "sum", *at)
    named = ALGORITHMS["all_reduce"]
    for algorithm in named["library"], *BETWEEN_HOSTS["all_reduce"], named["auto"]:
        operation = algorithm.bind(world, case)
        assert isinstance(operation, Operation)
        call = operation.step.argument
        calls.append((operation.step.kernel.function, call.function, list(call.arguments)))
    assert calls == calls[:1] * 5
    say(world, "hierarchical, hierarchical_whole and flat are one call with equal arguments")


def sent_bytes() -> int:
    """The bytes that left this host: the ninth number of its interface's line."""
    line = next(line for line in Path("/proc/net/dev").read_text().splitlines() if "eth0:" in line)
    return int(line.split(":")[1].split()[8])


def count_bytes(world: World, name: str, size: str, calls: str) -> None:
    """The bytes of a call of each collective, less those that leave in the same time without
    calls."""
    communicator, datatype = world.communicator, DATATYPES["float32"]
    send, receive = (world.library.allocate(world, int(size)) for _ in range(2))
    buffers = PlainBuffers(send, receive, 0)
    for collective in list(COLLECTIVES.values())[:3]:
        count = collective.count(int(size), communicator.size, datatype)
        at = buffers.addresses(collective, 4 * count, communicator.rank, False)
        redop = "sum" if collective.reduces else "none"
        case = Case(collective, count, datatype, redop, *at)
        operation = ALGORITHMS[collective.name][name].bind(world, case)
        assert isinstance(operation, Operation), operation
        launch(world.device, operation.step, 2)
        figures, took_s = [], 0.0
        for n in (int(calls), 0):
            communicator.barrier()
            before, start_s = sent_bytes(), time.monotonic()
            for _ in range(n):
                launch(world.device, operation.step, 1)
            time.sleep(took_s)
            communicator.barrier()
            took_s = time.monotonic() - start_s
            figures.append(sent_bytes() - before)
        of_call = (figures[0] - figures[1]) / int(calls)
        say(world, f"{collective.name}: {of_call:.0f} bytes a call, {figures[1]} bytes idle")


def refuse(world: World) -> None:
    """One rank fails in each step that others wait in; or hosts share memory in different ways."""
    communicator, device = world.communicator, world.device
    memory, own = world.library.allocate(world, 1 << 20), communicator.rank
    at = memory.address, memory.address + 4000
    case = Case(COLLECTIVES["all_gather"], 1000, DATATYPES["int32"], "none", *at)
    form = ALGORITHMS["all_gather"]["hierarchical"]

    def fail(*_: object) -> Any:
        raise DeviceError("no room")

    def tell(name: str, work: Callable[[], object]) -> None:
        try:
            result = work()
            sentence = result.reason if isinstance(result, Unsupported) else "nothing"
        except Disagreement as refusal:
            sentence = str(refusal)
        everyone = communicator.all_gather(re.sub(r" on \S+:", " on HOST:", sentence))
        say(world, f"{name}: {sorted(set(everyone))}")

    def on_rank_3(function: str) -> Any:
        return mock.patch.object(device, function, fail) if own == 3 else nullcontext()

    with on_rank_3("allocate"):
        tell("register", lambda: world.library.allocate(world, 1 << 20))
    with on_rank_3("private"):
        tell("scratch", lambda: form.bind(world, case))
    mpi.MOST_COUNT, world.library.ranks.function = 10, lambda name: 0  # type: ignore
    messages = [[Message(own == 0, 3 - own, memory.address, 64)]] if own in (0, 3) else []
    tell("messages", lambda: world.library.bind_messages(world, messages))
    if own in communicator.nodes[1]:
        PeerBuffer.kind = property(lambda _: "host_staged")  # type: ignore
    other = open_world(communicator, device, WaitPolicy(world.watch, True), "auto")
    tell("kinds", lambda: other.shared)


def say(world: World, text: str) -> None:
    if world.communicator.rank == 0:
        print(text)


if __name__ == "__main__":
    opened, _ = connect(30.0)
    checks: dict[str, Any] = {
        "right": check_all,
        "same": same_call,
        "bytes": count_bytes,
        "refused": refuse,
    }
    checks[sys.argv[1]](opened, *sys.argv[2:])
