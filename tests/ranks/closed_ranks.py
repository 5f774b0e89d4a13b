"""Run by mpirun: `bench.allreduce` with ranks that let only root read their /proc/PID/fd."""

import ctypes

from bench.features import FEATURES
from bench.harness.command import main

PR_SET_DUMPABLE = 4

if __name__ == "__main__":
    assert ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0
    main(
        "allreduce", "all_reduce", "All-reduce between ranks that hide their descriptors.", FEATURES
    )
