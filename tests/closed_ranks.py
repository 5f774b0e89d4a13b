"""Run by mpirun: `bench.allreduce` whose ranks let nobody but root into their /proc/PID/fd."""

import ctypes
import sys

import bench.harness.session

PR_SET_DUMPABLE = 4

if __name__ == "__main__":
    assert ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0
    bench.harness.session.main("allreduce", "all_reduce", "All-reduce between ranks that are closed.", sys.argv[1:])
