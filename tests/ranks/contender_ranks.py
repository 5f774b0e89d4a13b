"""Run by mpirun: contenders' layers between the first 1, 2, 4 and again 2 ranks of a launch, as
`bench.bits --model` has them: `contender_ranks.py FILE ...`. Prints by ranks and file the digest of
rank 0's result if it is within roundings of fp64, else what is wrong."""

import hashlib
import sys
from contextlib import nullcontext
from dataclasses import replace

import numpy as np

from collectives.collective import DATATYPES, Array
from collectives.connect import connect as connect_peers
from collectives.contenders.algorithm import open_contenders
from collectives.layers.fused import WEIGHTS, Gemv, GemvCase
from collectives.operation import Unsupported, World
from collectives.peer_buffer import PeerBuffer
from tests.ranks.world import ROUNDING, connect

HIDDEN, INNER, TOKENS = 64, 512, 3
HALF = DATATYPES["float16"]


def results(
    world: World,
    names: list[str],
    notes: list[str],
) -> dict[str, str]:
    """What each file makes of a layer of (HIDDEN, INNER) and TOKENS, whose columns all ranks share;
    a row of activations has more columns than the rank's."""
    draw, columns = np.random.default_rng(7), INNER // world.ranks
    first = world.rank * columns
    matrix, vectors = (HALF.encode(draw.normal(size=(n, INNER))) for n in (HIDDEN, TOKENS))
    store, size = world.device.store, HALF.size_bytes
    weights, activations = store(matrix[:, first : first + columns].copy()), store(vectors)
    parts, sums = (world.allocate(TOKENS * HIDDEN * size) for _ in range(2))
    layer = Gemv(
        weights=weights.address,
        activations=activations.address + first * size,
        hidden=HIDDEN,
        inner=columns,
        stride=INNER,
        copies=1,
    )
    case = GemvCase(
        TOKENS * HIDDEN,
        HALF,
        parts.address,
        sums.address,
        layer=layer,
        weight_type=WEIGHTS["float16"],
    )
    exact = HALF.decode(vectors) @ HALF.decode(matrix).T
    found = {}
    for name, algorithm in open_contenders(world, names, notes, lambda _: nullcontext()).items():
        operation = algorithm.bind(world, case)
        if isinstance(operation, Unsupported):
            found[name] = operation.reason
            continue
        world.device.finish_builds()
        sums.write(np.full(sums.size_bytes, 0xFF, np.uint8))
        world.communicator.barrier()
        world.device.caller(operation.step)()
        got: Array = np.asarray(sums.read().view(HALF.storage)).reshape(exact.shape)
        error = np.max(np.abs(HALF.decode(got) - exact))
        found[name] = hashlib.sha256(got.tobytes()).hexdigest()[:8]
        # A rank's part may be rounded to the type of the wire.
        if not error <= 2 * world.ranks * ROUNDING["float16"] * np.abs(exact).max():
            found[name] = f"wrong by {error}"
    return found


def main() -> None:
    whole, _ = connect()
    notes = list[str]()
    for ranks in (1, 2, 4, 2):
        if whole.rank < ranks:
            few = whole.among(range(ranks))
            few.communicator.whole = few.communicator
            assert isinstance(whole.peers, PeerBuffer)
            modes = [whole.peers.sharing]
            peers = connect_peers(few.communicator, few.device, whole.peers.waits, modes)
            for name, said in results(replace(few, peers=peers), sys.argv[1:], notes).items():
                if whole.rank == 0:
                    print(ranks, name, said)
        whole.communicator.barrier()
    if whole.rank == 0:
        print(len(notes), "notes")


if __name__ == "__main__":
    main()
