"""Run by mpirun: random collectives, the same on every rank, on one device, with one kind of peers'
memory.

`collective_ranks.py EXAMPLES SEED [DEVICE [MEMORY [NAME ...]]]`. EXAMPLES is a number of drawn
examples, or `fixed`. NAME is a collective, or an algorithm: drawn examples know those of
all-reduces, fixed ones leave out lossy algorithms, `auto` and the library. The bits of SEED also
choose how stores stream. A rank that failed alone would draw other examples than its peers, so all
ranks fail together or not at all.
"""

import sys
from collections.abc import Collection

import numpy as np

from collectives.collective import COLLECTIVES
from collectives.operation import Operation, Unsupported
from collectives.peer_buffer import set_epoch
from collectives.registry import ALGORITHMS
from tests.collectives.collective_examples import (
    ROOM_BYTES,
    Buffers,
    Example,
    check,
    fixed_examples,
    inputs,
)
from tests.ranks.world import connect, launch, same_on_all_ranks


def require_known(names: Collection[str], known: Collection[str], examples: str) -> None:
    """Ends the process, as all ranks do, with a sentence about a name that no example has."""
    unknown = sorted({*names} - {*known})
    if unknown:
        what = "fixed" if examples == "fixed" else "drawn"
        sys.exit(
            f"no {what} example has {', '.join(unknown)}: there are {', '.join(sorted(known))}"
        )


def main(examples: str, seed: int, device: str = "cpu", memory: str = "auto", *names: str) -> None:
    macros = "WT_STREAM_SLAB", "WT_STREAM_RECEIVE", "WT_SEVERAL_PAGES"
    streams = {name: seed >> bit & 1 for bit, name in enumerate(macros)}
    world, watch = connect(30.0, device, memory, **streams)
    communicator, peers = world.communicator, world.peers
    shared = peers if communicator.hosts == 1 else world.shared
    room = world.device.private if isinstance(shared, Unsupported) else shared.register
    buffers = Buffers(communicator.rank, communicator.size, room(ROOM_BYTES), room(ROOM_BYTES))

    performed: list[Example] = []

    def problem(example: Example, every: np.ndarray) -> str | None:
        algorithm = ALGORITHMS[example.collective.name][example.algorithm]
        if example.algorithm != "library" and example.variant not in algorithm.variants_in(world):
            return None
        operation = algorithm.bind(world, buffers.case(example, every))
        if isinstance(operation, Unsupported):
            return None
        assert isinstance(operation, Operation)
        performed.append(example)
        launch(world.device, operation.step, 1 if example.in_place else example.launches)
        is_ring = example.algorithm == "ring" and world.device.is_cpu
        chunk_bytes = operation.step.argument.chunk_bytes if is_ring else 0
        error = operation.failure() or buffers.problem(example, every, chunk_bytes)
        is_alike = example.collective.name in ("all_reduce", "all_gather")
        bits = [buffers.result(example)] if is_alike and example.algorithm != "library" else []
        return same_on_all_ranks(world, watch, error, *bits)

    fixed = list[Example]()
    known = {*COLLECTIVES, *ALGORITHMS["all_reduce"]}
    if examples == "fixed":
        every = [*fixed_examples(communicator.size, communicator.hosts)]
        known = {name for each in every for name in (each.collective.name, each.algorithm)}
        fixed = [
            each for each in every if not names or {each.collective.name, each.algorithm} & {*names}
        ]
    require_known(names, known, examples)
    if not isinstance(peers, Unsupported):  # the epoch wraps halfway
        set_epoch(peers, 2**32 - 1 - (len(fixed) or int(examples)) // 2)
        communicator.barrier()
    for example in fixed:
        error = problem(example, inputs(example, communicator.size))
        assert not error, f"{example}: {error}"
    if not fixed:
        check(int(examples), seed, problem, communicator.size, *names)
    if communicator.rank == 0:
        print(f"{examples} examples right on {communicator.size} ranks, {len(performed)} performed")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
