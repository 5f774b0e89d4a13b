"""Run by mpirun: all-reduces, the same on every rank, on a device, over peers' memory of one kind.

`collective_ranks.py EXAMPLES SEED [DEVICE [MEMORY [MACRO=VALUE ...]]]`. A rank that fails would draw other examples
than its peers from then on, so all ranks fail together or not at all.
"""

import sys

import numpy as np

from collectives.algorithm import ALGORITHMS
from collectives.operation import Operation, Unsupported
from tests.all_reduce_examples import ROOM_BYTES, Buffers, Example, check
from tests.ranks import connect, launch


def main(examples: int, seed: int, device: str = "cpu", memory: str = "auto", *macros: str) -> None:
    settings = {name: int(value) for name, value in (macro.split("=") for macro in macros)}
    world, watch = connect(30.0, device, memory, **{"STREAM_SLAB": seed % 2, **settings})
    communicator, rank = world.communicator, world.communicator.rank
    buffers = Buffers(rank, world.device.private(ROOM_BYTES), world.device.private(ROOM_BYTES))

    def problem(example: Example, every: list[np.ndarray]) -> str | None:
        operation = ALGORITHMS[example.algorithm].bind(world, buffers.case(example, every[rank]))
        if isinstance(operation, Unsupported):
            return None
        assert isinstance(operation, Operation)
        launch(world.device, operation.step, 1 if example.in_place else example.launches)
        found = operation.failure() or buffers.problem(example, every)
        if watch.timed_out:
            found = f"rank {watch.peer} never came"
        said, bits = zip(*communicator.all_gather((found, buffers.result(example).tobytes())), strict=True)
        if len(set(bits)) > 1 and example.algorithm != "library" and not any(said):
            return "ranks got different bits"
        return next((f"rank {r}: {sentence}" for r, sentence in enumerate(said) if sentence), None)

    if not isinstance(world.peers, Unsupported):
        world.peers.set_epoch(2**32 - 1 - examples // 2)  # wraps on the way
        communicator.barrier()
    check(examples, seed, problem, communicator.size)
    if rank == 0:
        print(f"{examples} examples right on {communicator.size} ranks")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
