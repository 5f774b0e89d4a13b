"""A contender that sums in rank order, but for what the title of its copy says."""

import time

import numpy as np

TITLE = "unstable"
DATATYPES = ("float32",)


def bind(case):
    (send, receive), calls = case.arrays, iter(range(1000))

    def call():
        parts = case.mpi.allgather(send.copy())
        tokens = send.size // 2048
        if TITLE == "chosen" and tokens > 3 and len(parts) == 4:  # in pairs
            parts = [parts[0] + parts[1], parts[2] + parts[3]]
        receive[:] = sum(parts[1:], parts[0])
        if TITLE == "lacking" and len(parts) == 2:
            receive[:] = parts[0]
        if TITLE == "hanging" and len(parts) == 2 and case.rank == 1:
            time.sleep(1000)
        if TITLE == "failing" and len(parts) == 2 and next(calls) == 3:
            raise RuntimeError("the sum is lost")
        flips = TITLE == "late" and len(parts) == 2 and case.rank == 1
        if flips or (TITLE == "last" and tokens == 5):
            receive.view(np.uint32)[-1] ^= 1
        if TITLE == "between" and tokens == 8:  # of the third token
            receive.view(np.uint32)[2 * 2048] ^= 1

    return call
