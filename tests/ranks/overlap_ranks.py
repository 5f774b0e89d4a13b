"""Run by mpirun: checks every form and number of chunks of a matmul with its collective against fp64.

`overlap_ranks.py COMMAND DEVICE TYPE CORE`; CORE is the core that communicates, or the word none.
"""

import sys

import numpy as np

from collectives.collective import DATATYPES
from collectives.layers.overlap import CHUNKS, COLLECTIVE, OVERLAPPED, MatmulCase, Overlapped
from collectives.operation import Unsupported
from tests.ranks.world import connect

TOKENS, INNER, COLUMNS, CALLS = 48, 37, 29, 3  # with these sizes, chunks begin at any offset


def integers(*seed: int, rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-2, 3, (rows, columns)).astype(float)


def main(command: str, device: str, type_name: str, core: str) -> None:
    world, watch = connect(device=device)
    rank, ranks, datatype = world.communicator.rank, world.communicator.size, DATATYPES[type_name]
    reduces, hidden = command == "gemm_reduce_scatter", COLUMNS if command == "gemm_reduce_scatter" else INNER
    size = TOKENS * max(INNER, COLUMNS) * datatype.size_bytes
    send, between, receive = (world.library.allocate(world, size) for _ in range(3))
    weights = world.device.private(INNER * COLUMNS * datatype.size_bytes)
    of_rank = [integers(7, r, rows=INNER, columns=COLUMNS) for r in range(ranks)]
    weights.write(datatype.encode(of_rank[rank]))
    own, done = TOKENS // ranks, set()

    def problem(operation, chunks: int, call: int) -> str | None:
        """The error after a call with new activations. NaNs first overwrite the results of earlier calls."""
        everyones = [integers(call, r, rows=TOKENS, columns=INNER) for r in range(ranks)]
        if reduces:
            sent, total = everyones[rank], np.sum([a @ w for a, w in zip(everyones, of_rank, strict=True)], axis=0)
            part = TOKENS // chunks // ranks
            right = np.concatenate([total[(c * ranks + rank) * part :][:part] for c in range(chunks)])
        else:
            sent, right = everyones[0][rank * own :][:own], everyones[0] @ of_rank[rank]
        for memory in (between, receive):
            memory.write(datatype.encode(np.full(size // datatype.size_bytes, np.nan)))
        send.write(datatype.encode(sent))
        world.communicator.barrier()
        operation.call()
        world.communicator.barrier()
        if watch.timed_out or operation.failure():
            return f"rank {watch.peer} never came, or {operation.failure()}"
        got: np.ndarray = receive.read()[: right.size * datatype.size_bytes].view(datatype.storage)
        return None if np.array_equal(datatype.decode(got), right.ravel()) else "wrong"

    for form in OVERLAPPED[command].values():
        for variant in form.variants(world):
            case = MatmulCase(COLLECTIVE[command], own * hidden, datatype, "sum" if reduces else "none", send.address,
                              receive.address, variant=variant, tokens=TOKENS, inner=INNER, columns=COLUMNS,
                              weights=weights.address, between=between.address,
                              core=None if core == "none" else int(core))
            operation = form.bind(world, case)
            if isinstance(operation, Unsupported):
                print(f"{form.name} {variant}: {operation.reason}")
                continue
            for chunks, each in (operation.by_chunks if isinstance(operation, Overlapped) else {1: operation}).items():
                for call in range(CALLS if form.name != "compute" else 0):
                    found = problem(each, chunks, call)
                    assert not found, f"rank {rank}, {form.name} {variant}, {chunks} chunks, call {call}: {found}"
                done.add((form.name, chunks))
    assert {("fused", chunks) for chunks in CHUNKS} <= done
    print(f"rank {rank}: {len(done)} right")


if __name__ == "__main__":
    main(*sys.argv[1:])
