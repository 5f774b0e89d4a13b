"""Run by mpirun: compares random routed all-to-alls, the same on every rank, bit by bit with numpy.

`routed_ranks.py EXAMPLES SEED [DEVICE [MEMORY]]`. Each example first overwrites everything that a dispatch computes for
a combine, and then runs several times without a pause.
"""

import random
import sys
from dataclasses import dataclass, replace

import numpy as np

from bench.harness import verify
from bench.layers.experts import source_and_target
from collectives.collective import COLLECTIVES, DATATYPES, Datatype
from collectives.experts.alltoall_routed import ALGORITHMS, CHOICE, RoutedCase, Tables, make_tables
from collectives.experts.routing import Routes, draw
from collectives.operation import Operation, Unsupported, World
from collectives.peer_buffer import set_epoch
from kernels.devices.device import Memory
from tests.collectives.collective_examples import SPECIAL, UNTOUCHED
from tests.ranks.world import connect, launch

BY_NAME = {algorithm.name: algorithm for algorithm in ALGORITHMS}
SKEWS = ("uniform", "zipf:1.2", "zipf:0.5", "hot:1", "hot:2")


@dataclass(frozen=True)
class Example:
    """One batch through one algorithm.

    `one_hot`: each token has weight 1 for one expert and 0 for its other experts. A round trip over experts that change
    nothing then returns every number unchanged.
    """

    way: str
    algorithm: str
    variant: str
    datatype: Datatype
    experts: int
    top_k: int
    tokens: int
    hidden: int
    skew: str
    one_hot: bool
    launches: int
    seed: int


def drawn(chance: random.Random, ranks: int) -> Example:
    way = chance.choice(["dispatch", "combine", "round_trip"])
    experts = chance.choice([1, 2, ranks, 8, 13, 64])
    top_k = chance.randint(1, min(experts, 4))
    skew = chance.choice([s for s in SKEWS if not s.startswith("hot") or int(s[4:]) <= experts])
    return Example(
        way,
        chance.choice(list(BY_NAME)),
        chance.choice(["copied", "registered"]),
        DATATYPES[chance.choice(["float32", "float16", "bfloat16", "float64"])],
        experts,
        top_k,
        chance.choice([1, 2, ranks, 7, 64, 300]),
        chance.choice([1, 3, 31, 64, 257, 1024, 4096]),
        skew,
        way == "round_trip" and chance.random() < 0.5,
        chance.randint(1, 3),
        chance.randrange(1 << 30),
    )


def routes_of(example: Example, ranks: int) -> Routes:
    routes = draw(example.skew, ranks, example.experts, example.tokens, example.top_k, example.seed)
    if not example.one_hot:
        return routes
    weights = np.zeros_like(routes.weights)
    the_one = np.random.default_rng(example.seed).integers(0, example.top_k, example.tokens)
    weights[np.arange(example.tokens), the_one] = 1
    return replace(routes, weights=weights)


def wanted(example: Example, routes: Routes, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """A rank's source and its expected target, (rows, hidden), encoded."""
    chance, datatype = np.random.default_rng(example.seed + 1), example.datatype
    if example.one_hot:
        values = chance.normal(size=(example.tokens, example.hidden)) * 10
        special = chance.random(values.shape) < 1 / 7
        values[special] = chance.choice(SPECIAL, special.sum())
        tokens = datatype.encode(values)
        return tokens[routes.home == rank], tokens[routes.home == rank]
    periods = -(-example.hidden // verify.PERIOD)

    def rows(table: np.ndarray) -> np.ndarray:
        return np.tile(table, periods)[:, : example.hidden]

    sent, expected = source_and_target(routes, datatype, example.way, 1, example.seed, rank)
    return rows(datatype.encode(sent)), rows(datatype.encode(expected))


def spoil(tables: Tables, told: bool) -> None:
    """Overwrite everything that a dispatch must compute. `told`: NCCL gets the counts of all ranks from the host."""
    structure = tables.structure
    for memory in tables.memories:
        if memory.address in (structure.first, structure.counting) or (
            memory.address == structure.counts and not told
        ):
            memory.write(np.full(memory.size_bytes // 4, 1 << 20, np.int32))
        if memory.address in (structure.came, structure.choices):
            entries = (
                memory.read()[: memory.size_bytes // CHOICE.itemsize * CHOICE.itemsize]
                .view(CHOICE)
                .copy()
            )
            entries["place"] = 1 << 20
            memory.write(entries.view(np.uint8))


def problem(world: World, buffers: list[Memory], example: Example) -> str | None:
    """The first error within or after this rank's result."""
    rank, ranks = world.communicator.rank, world.communicator.size
    routes, row_bytes = routes_of(example, ranks), example.hidden * example.datatype.size_bytes
    send, receive, rows = buffers
    tables = make_tables(world, routes, rows, row_bytes)
    source = rows if example.way == "combine" else send
    target = rows if example.way == "dispatch" else receive
    case = RoutedCase(
        COLLECTIVES["alltoall"],
        example.hidden,
        example.datatype,
        "none",
        source.address,
        target.address,
        variant="plain" if example.algorithm == "library" else example.variant,
        shape={"way": example.way},
        tables=tables,
    )
    if case.variant not in BY_NAME[example.algorithm].variants(world):
        return None
    operation = BY_NAME[example.algorithm].bind(world, case)
    if isinstance(operation, Unsupported):
        expected = example.way == "combine" and case.variant == "registered"
        without_library = any(
            words in operation.reason for words in ("not installed", "wants one GPU a rank")
        )
        return None if expected or without_library else operation.reason
    assert isinstance(operation, Operation)
    sent, want = wanted(example, routes, rank)
    for memory in buffers:
        memory.write(np.full(memory.size_bytes, UNTOUCHED, np.uint8))
    source.write(np.ascontiguousarray(sent).view(np.uint8).ravel())
    if example.way != "combine":
        spoil(tables, told=example.algorithm == "library" and world.device.name != "cpu")
    world.communicator.barrier()
    launch(world.device, operation.step, example.launches)
    if complaint := operation.failure():
        return complaint
    after = target.read()
    got: np.ndarray = after[: want.nbytes].view(example.datatype.storage).reshape(want.shape)
    bits = np.ascontiguousarray(want).view(np.uint8)
    wrong: np.ndarray = np.argwhere(got.view(np.uint8) != bits) if want.size else got
    if len(wrong):
        row, byte = wrong[0]
        at = byte // example.datatype.size_bytes
        return f"row {row}, element {at} is {got[row, at]!r}, not {want[row, at]!r} ({len(wrong)} bytes wrong)"
    if np.any(after[want.nbytes :] != UNTOUCHED):
        return "wrote behind its result"
    return None


def main(examples: int, seed: int, device: str = "cpu", memory: str = "auto") -> None:
    world, watch = connect(30.0, device, memory, STREAM_SLAB=seed % 2)
    communicator, peers, chance = world.communicator, world.peers, random.Random(seed)
    assert not isinstance(peers, Unsupported)
    room = 300 * 4 * 4096 * 8 + 4096
    buffers = [peers.register(room) for _ in range(3)]
    set_epoch(peers, 2**32 - 1 - examples // 2)
    communicator.barrier()
    for _ in range(examples):
        example = drawn(chance, communicator.size)
        while (
            example.tokens * example.top_k * example.hidden * example.datatype.size_bytes > 8 << 20
        ):
            example = drawn(chance, communicator.size)
        complaint = (
            f"rank {watch.peer} never came" if watch.timed_out else problem(world, buffers, example)
        )
        complaint = communicator.first_word(complaint)
        if complaint:
            raise SystemExit(f"{example}: {complaint}")
    if communicator.rank == 0:
        print(f"{examples} examples right on {communicator.size} ranks")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
