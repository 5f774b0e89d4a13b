"""Run by 2 ranks: launches two_shot_direct on rank 1 only after rank 0's time-out.

Rank 0 sends 1. Rank 1 sends 2, which it stores after rank 0's time-out, over zeros. The receive
buffers hold -1. Rank 0 prints the values in the halves of both ranks' receive buffers after its
time-out and after rank 1's launch, and who timed out, as JSON.
"""

import json

import numpy as np

from collectives.algorithm import ALGORITHMS
from collectives.collective import COLLECTIVES, DATATYPES
from collectives.operation import Case, Operation
from tests.ranks.world import connect

COUNT = 4096

world, watch = connect(timeout_s=0.3)
rank, communicator = world.communicator.rank, world.communicator
send, receive = (world.mapped.register(4 * COUNT) for _ in range(2))
send.write(np.full(COUNT, 1 - rank, np.float32))
receive.write(np.full(COUNT, -1, np.float32))
case = Case(
    COLLECTIVES["all_reduce"],
    COUNT,
    DATATYPES["float32"],
    "sum",
    send.address,
    receive.address,
    variant="registered",
)
operation = ALGORITHMS["all_reduce"]["two_shot_direct"].bind(world, case)
assert isinstance(operation, Operation), operation


def halves() -> list[list[float]]:
    values = receive.read().view(np.float32)[:COUNT].reshape(2, -1)
    return [sorted(map(float, set(half))) for half in values]


states = []
for turn in range(2):
    communicator.barrier()
    if rank == turn:
        send.write(np.full(COUNT, rank + 1, np.float32))
        operation.call()
    communicator.barrier()
    states.append(communicator.all_gather(halves()))
timed_out = communicator.all_gather(bool(watch.timed_out))
if rank == 0:
    print(json.dumps({"before": states[0], "after": states[1], "timed_out": timed_out}))
