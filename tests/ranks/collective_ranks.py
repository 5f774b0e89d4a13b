"""Run by mpirun: random collectives, the same on every rank, on one device, with one kind of peers' memory.

`collective_ranks.py EXAMPLES SEED [DEVICE [MEMORY [COLLECTIVE ...]]]`. EXAMPLES is a number of drawn examples, or
`fixed`. A rank that failed alone would draw other examples than its peers, so all ranks fail together or not at all.
"""

import sys

import numpy as np

from collectives.algorithm import ALGORITHMS
from collectives.operation import Operation, Unsupported
from collectives.peer_buffer import set_epoch
from tests.collectives.collective_examples import (
    ROOM_BYTES,
    Buffers,
    Example,
    check,
    fixed_examples,
    inputs,
)
from tests.ranks.world import connect, launch


def main(
    examples: str, seed: int, device: str = "cpu", memory: str = "auto", *collectives: str
) -> None:
    streams = {
        "STREAM_SLAB": seed % 2,
        "STREAM_RECEIVE": seed // 2 % 2,
        "SEVERAL_PAGES": seed // 4 % 2,
    }
    world, watch = connect(30.0, device, memory, **streams)
    communicator, rank = world.communicator, world.communicator.rank
    peers = world.peers
    send, receive = (
        world.device.private(ROOM_BYTES)
        if isinstance(peers, Unsupported)
        else peers.register(ROOM_BYTES)
        for _ in range(2)
    )
    buffers = Buffers(rank, communicator.size, send, receive)
    ran = set()

    def problem(example: Example, every: np.ndarray) -> str | None:
        algorithm = ALGORITHMS[example.collective.name][example.algorithm]
        if example.algorithm != "library" and example.variant not in algorithm.variants(world):
            return None
        operation = algorithm.bind(world, buffers.case(example, every))
        if isinstance(operation, Unsupported):
            return None
        assert isinstance(operation, Operation)
        ran.add(example.algorithm)
        launch(world.device, operation.step, 1 if example.in_place else example.launches)
        own_error = operation.failure() or buffers.problem(example, every)
        if watch.timed_out:
            own_error = f"rank {watch.peer} never came"
        errors, bits = zip(
            *communicator.all_gather((own_error, buffers.result(example).tobytes())), strict=True
        )
        alike = example.collective.name in ("all_reduce", "all_gather")
        if alike and len(set(bits)) > 1 and example.algorithm != "library" and not any(errors):
            return "ranks got different bits"
        return next(
            (f"rank {r}: {sentence}" for r, sentence in enumerate(errors) if sentence), None
        )

    fixed = [
        example
        for example in fixed_examples(communicator.size)
        if examples == "fixed" and (not collectives or example.collective.name in collectives)
    ]
    if not isinstance(world.peers, Unsupported):
        set_epoch(
            world.peers, 2**32 - 1 - (len(fixed) or int(examples)) // 2
        )  # the epoch wraps halfway
        communicator.barrier()
    for example in fixed:
        error = problem(example, inputs(example, communicator.size))
        assert not error, f"{example}: {error}"
    if not fixed:
        check(int(examples), seed, problem, communicator.size, *collectives)
    assert ran, f"nothing ran: {peers}"
    if rank == 0:
        print(f"{examples} examples right on {communicator.size} ranks")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
