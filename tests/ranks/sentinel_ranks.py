"""Run by mpirun: one_shot_sentinel over data that equal the sentinel, words of ones, on rank 0 or on every rank.

Each element must be NaN, and all ranks must get the same bits. Rank 0 prints the number of launches.
"""

import numpy as np

from collectives.allreduce_packets import SENTINEL
from collectives.collective import COLLECTIVES, DATATYPES
from collectives.operation import Case, Operation, Unsupported
from collectives.peer_buffer import PeerBuffer
from tests.ranks.world import connect, launch

COUNT = 1003  # with a tail


def main() -> None:
    world, watch = connect(5.0)
    communicator, launches = world.communicator, 0
    assert isinstance(world.peers, PeerBuffer)
    send, receive = (world.peers.register(8 * COUNT) for _ in range(2))
    for datatype in DATATYPES.values():
        case = Case(
            COLLECTIVES["all_reduce"], COUNT, datatype, "max", send.address, receive.address
        )
        operation = SENTINEL.bind(world, case)
        if not datatype.is_float:
            assert isinstance(operation, Unsupported)
            assert "none can be the sentinel" in operation.reason
            continue
        assert isinstance(operation, Operation)
        for sentinels in (1, communicator.size):
            of_rank = -1 if communicator.rank < sentinels else 0
            send.write(np.full(8 * COUNT, of_rank, np.int8).view(np.uint8))
            launch(world.device, operation.step, 3)
            launches += 3
            result = receive.read()[: COUNT * datatype.size_bytes]
            stored: np.ndarray = result.view(datatype.storage)
            everyone = communicator.all_gather((bool(watch.timed_out), result.tobytes()))
            assert not any(late for late, _ in everyone), (
                f"{datatype.name}: a rank waited for a sentinel"
            )
            assert np.isnan(datatype.decode(stored)).all(), f"{datatype.name}: not NaN"
            assert len({bits for _, bits in everyone}) == 1, f"{datatype.name}: different bits"
    if communicator.rank == 0:
        print(f"{launches} launches right")


if __name__ == "__main__":
    main()
