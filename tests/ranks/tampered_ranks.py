"""Run by mpirun: `bench.allreduce`, while rank 1 shares memory that the other ranks must not
accept.

`tampered_ranks.py FAULT ...options of bench.allreduce`. FAULT: `none`, `stale` (memory of an
earlier run), `swapped` (labelled as rank 0's), `no handle`, or `killed` (while its memory has a
name, which rank 1 prints).
"""

import os
import signal
import sys

from bench.features import FEATURES
from bench.harness.command import main
from collectives.communicator import launched_rank
from kernels.devices import shared_memory

allocate = shared_memory.allocate


def tampered(fault: str, size_bytes: int, type: str, label: str) -> shared_memory.HostMemory:
    labels = {"stale": "an earlier run's of rank 1", "swapped": label.replace("rank 1", "rank 0")}
    if fault == "killed":
        handle = allocate(size_bytes, shared_memory.NAMED, label).handle
        print(f"holds {handle.decode()}", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    memory = allocate(size_bytes, type, labels.get(fault, label))
    if fault == "no handle":
        shared_memory.forget_name(memory.handle)
        memory.handle = b'{"path": "/etc/passwd"}'
    return memory


if __name__ == "__main__":
    if launched_rank() == 1:
        kind = sys.argv[1]
        shared_memory.allocate = lambda *arguments: tampered(kind, *arguments)
    sys.argv[1:] = sys.argv[2:]
    main("allreduce", "all_reduce", "All-reduce while rank 1 shares wrong memory.", FEATURES)
