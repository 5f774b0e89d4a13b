"""Run by mpirun on several hosts: the bytes that cross, and failures of one rank.

`host_ranks.py bytes NAME SIZE CALLS` prints what leaves rank 0's host in a call of an algorithm, as
its network interface counts it. `host_ranks.py refused` prints what all ranks say if one rank
fails.
"""

import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

from collectives.collective import COLLECTIVES, DATATYPES
from collectives.communicator import Refusal
from collectives.library import mpi
from collectives.operation import CollectiveCase, Message, Operation, Unsupported, World
from collectives.peer_buffer import PeerBuffer, WaitPolicy
from collectives.registry import ALGORITHMS
from collectives.world import open_world
from kernels.devices.device import DeviceError
from tests.ranks.world import connect, launch


def sent_bytes() -> int:
    """The bytes that left this host: the ninth number of its interface's line."""
    line = next(line for line in Path("/proc/net/dev").read_text().splitlines() if "eth0:" in line)
    return int(line.split(":")[1].split()[8])


def count_bytes(world: World, name: str, size: str, calls: str) -> None:
    """The bytes of a call of the all-reduce, less those that leave in the same time without
    calls."""
    communicator, all_reduce = world.communicator, COLLECTIVES["all_reduce"]
    send, receive = (world.library.allocate(world, int(size)) for _ in range(2))
    case = CollectiveCase(
        all_reduce, int(size) // 4, DATATYPES["float32"], "sum", send.address, receive.address
    )
    operation = ALGORITHMS["all_reduce"][name].bind(world, case)
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
    say(world, f"{of_call:.0f} bytes a call, {figures[1]} bytes idle")


def refuse(world: World) -> None:
    """One rank fails in each step that others wait in; or hosts share memory in different ways."""
    communicator, device = world.communicator, world.device
    memory, own = world.library.allocate(world, 1 << 20), communicator.rank
    at = memory.address, memory.address + 4000
    case = CollectiveCase(COLLECTIVES["all_reduce"], 1000, DATATYPES["int32"], "sum", *at)
    form = ALGORITHMS["all_reduce"]["hierarchical"]

    def fail(*_: object) -> Any:
        raise DeviceError("no room")

    def tell(name: str, work: Callable[[], object]) -> None:
        try:
            result = work()
            sentence = result.reason if isinstance(result, Unsupported) else "nothing"
        except Refusal as refusal:
            sentence = str(refusal)
        everyone = communicator.all_gather(sentence)
        say(world, f"{name}: {sorted(set(everyone))}")

    def on_rank_3(function: str) -> Any:
        return mock.patch.object(device, function, fail) if own == 3 else nullcontext()

    with on_rank_3("allocate"):
        tell("register", lambda: world.library.allocate(world, 1 << 20))
    with on_rank_3("compile"):
        tell("kernel", lambda: form.bind(world, case))
    mpi.MOST_COUNT = 10
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
        "bytes": count_bytes,
        "refused": refuse,
    }
    checks[sys.argv[1]](opened, *sys.argv[2:])
