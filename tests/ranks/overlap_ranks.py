"""Run by mpirun: checks every form and number of chunks of both matmuls with their collectives
against fp64.

`overlap_ranks.py DEVICE TYPE`. A CPU overlaps none.
"""

import sys

import numpy as np

from collectives.collective import DATATYPES, Datatype
from collectives.layers.overlap import CHUNKS, COLLECTIVE, OVERLAPPED, VARIANTS, MatmulCase
from collectives.operation import Operation, Unsupported, World
from kernels.devices.device import Memory
from tests.ranks.world import connect

TOKENS, INNER, COLUMNS, CALLS = 48, 37, 29, 2  # with these sizes, chunks begin at any offset


def integers(*seed: int, rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-2, 3, (rows, columns)).astype(float)


def activations_and_result(
    command: str, rank: int, ranks: int, chunks: int, call: int
) -> tuple[np.ndarray, np.ndarray]:
    """The input of a rank's call, and the right result of the call."""
    weights = [integers(7, each, rows=INNER, columns=COLUMNS) for each in range(ranks)]
    everyones = [integers(call, each, rows=TOKENS, columns=INNER) for each in range(ranks)]
    if command == "allgather_gemm":
        return np.split(everyones[0], ranks)[rank], everyones[0] @ weights[rank]
    total = sum(a @ w for a, w in zip(everyones, weights, strict=True))
    return everyones[rank], np.concatenate(np.split(total, chunks * ranks)[rank::ranks])


def problem(
    world: World,
    datatype: Datatype,
    memories: list[Memory],
    operation: Operation,
    sent: np.ndarray,
    right: np.ndarray,
) -> str | None:
    """The error after a call with these activations. NaNs first overwrite the results of earlier
    calls."""
    send, between, receive = memories
    for memory in (between, receive):
        memory.write(datatype.encode(np.full(memory.size_bytes // datatype.size_bytes, np.nan)))
    send.write(datatype.encode(sent))
    world.communicator.barrier()
    world.device.caller(operation.step)()
    world.communicator.barrier()
    if world.watch.timed_out or operation.failure():
        return f"rank {world.watch.peer} never came, or {operation.failure()}"
    got: np.ndarray = receive.read()[: right.size * datatype.size_bytes].view(datatype.storage)
    return None if np.array_equal(datatype.decode(got), right.ravel()) else "wrong"


def check(world: World, command: str, datatype: Datatype) -> None:
    """Call each form of this matmul, in each number of chunks, and compare the results."""
    rank, ranks = world.communicator.rank, world.communicator.size
    reduces = command == "gemm_reduce_scatter"
    size = TOKENS * max(INNER, COLUMNS) * datatype.size_bytes
    memories = [world.allocate(size) for _ in range(3)]
    send, between, receive = memories
    weights = world.device.private(INNER * COLUMNS * datatype.size_bytes)
    weights.write(datatype.encode(integers(7, rank, rows=INNER, columns=COLUMNS)))
    done = set()
    for form in OVERLAPPED[command].values():
        for variant in form.variants_in(world):
            case = MatmulCase(
                COLLECTIVE[command],
                TOKENS // ranks * (COLUMNS if reduces else INNER),
                datatype,
                "sum" if reduces else "none",
                send.address,
                receive.address,
                variant=variant,
                tokens=TOKENS,
                inner=INNER,
                columns=COLUMNS,
                weights=weights.address,
                between=between.address,
            )
            operation = form.bind(world, case)
            if isinstance(operation, Unsupported):
                print(f"{form.name} {variant}: {operation.reason}")
                continue
            _, chunks = VARIANTS.get(variant, ("", 1))
            for call in range(CALLS if form.name != "compute" else 0):
                inputs = activations_and_result(command, rank, ranks, chunks, call)
                error = problem(world, datatype, memories, operation, *inputs)
                assert not error, f"rank {rank}, {command}, {form.name} {variant}: {error}"
            done.add((form.name, chunks))
    if not world.device.is_cpu:
        assert {("fused", chunks) for chunks in CHUNKS} <= done
    print(f"rank {rank}: {command} right")


def main(device: str, type_name: str) -> None:
    world, _ = connect(device=device)
    for command in COLLECTIVE:
        check(world, command, DATATYPES[type_name])


if __name__ == "__main__":
    main(*sys.argv[1:])
