"""Run by mpirun: `bench.allreduce`, while rank 1 shares memory that the other ranks must not
accept.

`tampered_ranks.py FAULT ...options of bench.allreduce`. FAULT: `stale` (the handle of other memory)
or `gone` (a descriptor that is not open)."""

import re
import sys

from bench.sweep import main
from kernels.devices import shared_memory
from wiretax.common.launched import launched_rank

allocate = shared_memory.allocate


def tampered(fault: str, size_bytes: int) -> shared_memory.HostMemory:
    memory = allocate(size_bytes)
    if fault == "stale":
        memory.handle = memory.handle[:-32] + b"0" * 32
    else:
        memory.handle = re.sub(rb"fd/[0-9]+", b"fd/99999", memory.handle)
    return memory


if __name__ == "__main__":
    if launched_rank() == 1:
        kind = sys.argv[1]
        shared_memory.allocate = lambda size_bytes: tampered(kind, size_bytes)
    sys.argv[1:] = sys.argv[2:]
    main("allreduce", "all_reduce", "All-reduce while rank 1 shares wrong memory.")
