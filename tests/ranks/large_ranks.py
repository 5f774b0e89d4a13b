"""Run by mpirun: an all-reduce of more than 4 GiB of int8, by the algorithm that the command line
names. The library gets a short message, and MPI-4's functions with counts of 64 bits.

Its buffers are 48 MiB that are mapped again and again. 4 GiB are no multiple of 48 MiB, so an
address that has lost its upper bits holds other data.
"""

import ctypes
import mmap
import os
import sys

import numpy as np

from collectives.collective import COLLECTIVES, DATATYPES
from collectives.operation import CollectiveCase, Operation
from collectives.registry import ALGORITHMS
from tests.ranks.world import connect, launch

WINDOW_BYTES = 48 << 20
COUNT = (4 << 30) + 12345
MAP_FIXED, MAP_NORESERVE = 0x10, 0x4000  # of Linux


def repeated(window: int) -> int:
    """Map a file of WINDOW_BYTES over and over. Return the address of COUNT bytes."""
    map_pages = ctypes.CDLL(None).mmap
    map_pages.restype = ctypes.c_void_p
    map_pages.argtypes = [
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_long,
    ]
    size, readable = -(-COUNT // WINDOW_BYTES) * WINDOW_BYTES, mmap.PROT_READ | mmap.PROT_WRITE
    start: int = map_pages(
        None, size, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE, -1, 0
    )
    for at in range(start, start + size, WINDOW_BYTES):
        assert map_pages(at, WINDOW_BYTES, readable, mmap.MAP_SHARED | MAP_FIXED, window, 0) == at
    return start


def main(name: str) -> None:
    world, watch = connect(60.0)
    rank, ranks, int8 = world.communicator.rank, world.communicator.size, DATATYPES["int8"]
    files = [os.memfd_create("window") for _ in range(2)]
    windows = []
    for file in files:
        os.ftruncate(file, WINDOW_BYTES)
        windows.append(np.frombuffer(mmap.mmap(file, WINDOW_BYTES), np.int8))
    inputs = [
        np.random.default_rng(each).integers(-128, 128, WINDOW_BYTES, np.int8)
        for each in range(ranks)
    ]
    windows[0][:] = inputs[rank]
    send, receive = map(repeated, files)
    case = CollectiveCase(COLLECTIVES["all_reduce"], COUNT, int8, "sum", send, receive)
    operation = ALGORITHMS["all_reduce"][name].bind(world, case)
    assert isinstance(operation, Operation)
    world.communicator.barrier()
    launch(world.device, operation.step, 1)
    assert not watch.timed_out
    wrong = np.count_nonzero((windows[1] != np.add.reduce(inputs, dtype=np.int8))[:COUNT])
    assert not any(world.communicator.all_gather(wrong)), wrong
    if rank == 0:
        print(f"{name}: {COUNT} elements right")


if __name__ == "__main__":
    main(sys.argv[1])
