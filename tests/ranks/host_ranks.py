"""Run by mpirun on several hosts: `host_ranks.py NAME SIZE CALLS` prints what leaves rank 0's host
in a call of an algorithm, as its network interface counts it."""

import sys
import time
from pathlib import Path

from collectives.collective import COLLECTIVES, DATATYPES
from collectives.operation import CollectiveCase, Operation, World
from collectives.registry import ALGORITHMS
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


if __name__ == "__main__":
    count_bytes(connect(30.0)[0], *sys.argv[1:])
