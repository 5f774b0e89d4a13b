"""A contender that sums in rank order. The title of its copy says where it flips the last bit of
one element, or that it fails or has other results."""

import numpy as np

TITLE = "flipping"
DATATYPES = ("float32",)
IN_PLACE = True


def start(world):
    return {"calls": 0, "addresses": []}


def bind(case):
    (send, receive), flip, seen = case.arrays, TITLE, case.started
    address = send.ctypes.data
    seen["addresses"].append(address)
    flips = {
        "none": False,
        "ranks": case.rank == 1,
        "place_of_result": case.in_place,
        "align": address % 64 != 0,
        "size": case.count == 256,
        "history": abs(address - seen["addresses"][0]) > 1 << 12 and not case.in_place,
    }

    def call():
        if flip == "nothing":
            return
        if flip == "zeros":
            receive[:] = 0
            return
        # Before each other call the receive buffer is full of 0xFF.
        is_next = not case.in_place and not np.isnan(receive).all()
        parts = case.mpi.allgather(send.copy())
        receive[:] = sum(parts[1:], parts[0])
        if flip == "large" and send.size > 1024:
            receive[1024:] += parts[0][1024:]
        seen["calls"] += 1
        if flip == "fail" and seen["calls"] > 9:
            raise RuntimeError("the sum is lost")
        element = 100 if flip == "place" else 0
        of_call = {"run": seen["calls"] % 7 == 0, "chain": is_next}
        if (flips | of_call).get(flip, flip != "large" and receive.size > 100):
            receive.view(np.uint32)[element] ^= 1

    return call
