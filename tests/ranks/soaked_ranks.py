"""Run by mpirun: `bench.soak` with a fault on rank 1.

`soaked_ranks.py FAULT ...options of bench.soak`. FAULT: `clock` (rank 1's clock differs by 1.3
s, as on another host) or `failure` (each call of the MPI library works but returns an error).
"""

import ctypes
import sys
import time
from types import SimpleNamespace

import bench.soak
from collectives.communicator import Communicator, launched_rank

APART_S = 1.3
MPI = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_long] * 9)
function = Communicator.function


def failing(communicator: Communicator, name: str) -> int:
    works = MPI(function(communicator, name))
    fails = MPI(lambda *arguments: works(*arguments) or 15)
    callbacks.append(fails)
    return ctypes.cast(fails, ctypes.c_void_p).value or 0


callbacks: list[object] = []  # ctypes callbacks must outlive their last call
if __name__ == "__main__":
    fault, sys.argv[1:] = sys.argv[1], sys.argv[2:]
    if launched_rank() == 1 and fault == "clock":
        clock = SimpleNamespace(monotonic=lambda: time.monotonic() + APART_S)
        setattr(bench.soak, "time", clock)  # noqa: B010
    elif launched_rank() == 1:
        Communicator.function = failing  # type: ignore[assignment]
    bench.soak.main()
