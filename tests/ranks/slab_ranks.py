"""Run by mpirun on a GPU: slabs grow with the message, and operations bound before and after that
work in turn.

`slab_ranks.py DEVICE` prints, for each all-reduce of 32 MiB, the chunks and the beats, and why the
slabs did not grow.
"""

import sys
from dataclasses import replace

import numpy as np

from collectives.collective import COLLECTIVES, DATATYPES
from collectives.connect import make_room
from collectives.operation import CollectiveCase, Operation
from collectives.registry import ALGORITHMS
from tests.ranks.world import connect, launch

LARGE_BYTES = 32 << 20
ALGORITHMS_OF_LONG = "two_shot", "two_shot_push"  # in two beats more than chunks


def main(name: str) -> None:
    world, watch = connect(30.0, name)
    peers, device, rank = world.mapped, world.device, world.communicator.rank
    count = 5000
    send, receive = device.private(4 * count), device.private(4 * count)
    send.write(np.full(count, rank + 1, np.float32))
    case = CollectiveCase(
        COLLECTIVES["all_reduce"], count, DATATYPES["float32"], "sum", send.address, receive.address
    )

    def bound(name: str, case: CollectiveCase) -> Operation:
        operation = ALGORITHMS["all_reduce"][name].bind(world, case)
        assert isinstance(operation, Operation), operation
        return operation

    names = *ALGORITHMS_OF_LONG, "one_shot_ll"
    before = [bound(name, case) for name in names]
    make_room(peers, LARGE_BYTES)
    after = [bound(name, case) for name in names]
    for operations in zip(before, after, strict=True):
        for operation in (*operations, *operations):
            receive.write(np.zeros(count, np.float32))
            world.communicator.barrier()
            launch(device, operation.step, 2)
            got = receive.read().view(np.float32)[:count]
            assert not watch.timed_out
            assert (got == sum(range(1, world.communicator.size + 1))).all(), (
                operation.step.kernel.name
            )
    large = replace(case, count=LARGE_BYTES // 4)
    for name in ALGORITHMS_OF_LONG:
        chunks = -(-LARGE_BYTES // bound(name, large).step.argument.chunk_bytes)
        if rank == 0:
            print(name, chunks, chunks + 2)
    if rank == 0:
        print(peers.half_bytes, *peers.refusals)


if __name__ == "__main__":
    main(sys.argv[1])
