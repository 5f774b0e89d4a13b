"""Run by mpirun on several hosts: the bytes that cross, and failures of one rank.

`host_ranks.py NAME SIZE CALLS` prints what leaves rank 0's host in a call of an algorithm, as its
network interface counts it. `host_ranks.py refused` prints what the ranks say if rank 3 fails.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
    send, receive = (world.allocate(int(size)) for _ in range(2))
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
    if communicator.rank == 0:
        print(f"{of_call:.0f} bytes a call, {figures[1]} bytes idle")


def refuse(world: World) -> None:
    """Rank 3 fails in each step that others wait in; or the hosts share memory in two ways."""
    communicator, device, own = world.communicator, world.device, world.rank
    memory = world.allocate(1 << 20)
    at = memory.address, memory.address + 4000
    case = CollectiveCase(COLLECTIVES["all_reduce"], 1000, DATATYPES["int32"], "sum", *at)
    hierarchical = ALGORITHMS["all_reduce"]["hierarchical"]

    def fail(*_: object, **__: object) -> Any:
        raise DeviceError("no room")

    def tell(name: str, work: Callable[[], object]) -> None:
        try:
            result = work()
            sentence = result.reason if isinstance(result, Unsupported) else "nothing"
        except Refusal as refusal:
            sentence = str(refusal)
        everyone = communicator.all_gather(sentence)
        if own == 0:
            print(f"{name}: {sorted(set(everyone))}")

    working = device.allocate, device.load
    if own == 3:
        device.allocate = device.load = fail  # type: ignore[method-assign]
    tell("register", lambda: world.allocate(1 << 20))
    tell("kernel", lambda: hierarchical.bind(world, case))
    device.allocate, device.load = working  # type: ignore[method-assign]
    mpi.MOST_COUNT = 10
    messages = [[Message(own == 0, 3 - own, memory.address, 64)]] if own in (0, 3) else []
    tell("messages", lambda: world.library.bind_messages(world, messages))
    if own in communicator.nodes[1]:
        PeerBuffer.kind = property(lambda _: "host_staged")  # type: ignore
    other = open_world(communicator, device, WaitPolicy(world.watch, True), "auto")
    tell("kinds", lambda: other.shared)


if __name__ == "__main__":
    opened = connect(30.0)[0]
    refuse(opened) if sys.argv[1:] == ["refused"] else count_bytes(opened, *sys.argv[1:])
