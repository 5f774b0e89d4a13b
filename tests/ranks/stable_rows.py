"""Rows of stable bits (kernels/include/stable_norm.h), in numpy and by the kernels on a device.

`stable_rows.py DEVICE THREADS ...`, run by mpirun: with so many threads a block in turn, digests of
what the ranks get, by datatype, as a JSON line."""

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product

import numpy as np

from collectives.collective import DATATYPES, Array, Datatype
from collectives.layers.fused import EPSILON, Norm, NormCase
from collectives.layers.stable import LEAVES, norm_stable
from collectives.operation import Operation, World
from kernels.devices.device import Memory, Step
from tests.ranks.world import connect

CHAINS = 2048
# Rows of a type show each mistake that test_stable_norm.py plants: rounded to 16 bits, few do.
SEEDS = {
    "float16": 7,
    "bfloat16": 288,
    "float32": 3,
}
TYPES = tuple(SEEDS)
TOKENS, HIDDEN = 3, 5000  # two chains have two elements, others three, and no pack is whole there
Order = Callable[[Array], np.float32]


def tree(subtrees: Array) -> Array:
    """The sum of neighbours, and of their sums; the first axis is theirs."""
    while len(subtrees) > 1:
        subtrees = subtrees[::2] + subtrees[1::2]
    root: Array = subtrees[0]
    return root


def by_halves(sums: Array) -> np.float32:
    while len(sums) > 1:
        sums = sums[: len(sums) // 2] + sums[len(sums) // 2 :]
    return np.float32(sums[0])


def squares_in_chains(x: Array, chains: int = CHAINS) -> np.float32:
    sums = np.zeros(chains, np.float32)
    for c in range(0, len(x), chains):
        sums[: len(x) - c] += (x * x)[c : c + chains]
    return by_halves(sums)


def fused_squares(x: Array) -> np.float32:
    """Each is added before it is rounded, as by one instruction."""
    sums = np.zeros(CHAINS, np.float32)
    for c in range(0, len(x), CHAINS):
        part = x[c : c + CHAINS].astype(np.float64)
        sums[: len(part)] = sums[: len(part)] + part * part
    return by_halves(sums)


@dataclass(frozen=True)
class Rows:
    """`leaves` of fp32, (LEAVES, tokens, hidden), whose sums are multiplied by `scales`, (hidden);
    the other rows are encoded."""

    datatype: Datatype
    leaves: Array
    scales: Array | None
    residual: Array
    weight: Array

    def parts(self, ranks: int) -> Array:
        """Each rank's subtree, (ranks, tokens, hidden)."""
        return np.stack([tree(leaves) for leaves in np.split(self.leaves, ranks)])

    def rounded(self, values: Array) -> Array:
        nearest: Array = self.datatype.rounded(values).astype(np.float32)
        return nearest

    def sums(self) -> Array:
        root = tree(self.leaves)
        return root if self.scales is None else root * self.scales

    def from_sums(
        self,
        sums: Array,
        squares: Order = squares_in_chains,
    ) -> list[Array]:
        """The normed rows and the residual, encoded, from the sums, (tokens, hidden)."""
        residual, weight = map(self.decoded, (self.residual, self.weight))
        x = self.rounded(sums + residual)
        mean = np.array([[squares(row)] for row in x]) / np.float32(x.shape[1])
        factor = np.float32(1) / np.sqrt(mean + np.float32(EPSILON))
        return [self.datatype.encode(each) for each in (x * factor * weight, x)]

    def decoded(self, stored: Array) -> Array:
        values: Array = self.datatype.decode(stored).astype(np.float32)
        return values

    def expected(self, squares: Order = squares_in_chains) -> list[Array]:
        return self.from_sums(self.rounded(self.sums()), squares)


def side_by_side(worlds: Sequence[World], steps: Sequence[Step]) -> None:
    """Launches each rank's step in a thread of its own, and a single one here, where CuPy's stream
    is."""

    def call(world: World, step: Step) -> None:
        world.device.caller(step)()

    if len(worlds) == 1:
        return call(worlds[0], steps[0])
    with ThreadPoolExecutor(len(worlds)) as ranks:
        list(ranks.map(call, worlds, steps))


def drawn(
    name: str,
    tokens: int = TOKENS,
    hidden: int = HIDDEN,
    scaled: bool = False,
) -> Rows:
    draw, datatype = np.random.default_rng(SEEDS[name]), DATATYPES[name]
    return Rows(
        datatype,
        draw.standard_normal((LEAVES, tokens, hidden), np.float32),
        draw.lognormal(0, 1, hidden).astype(np.float32) if scaled else None,
        datatype.encode(draw.standard_normal((tokens, hidden))),
        datatype.encode(draw.standard_normal(hidden)),
    )


def results(
    worlds: Sequence[World],
    rows: Rows,
    from_sums: bool = False,
    shift: int = 0,
    launch: Callable[[Sequence[World], Sequence[Step]], None] = side_by_side,
) -> list[list[Array]]:
    """By rank, the normed rows and the residual, of the ranks' parts or of the rounded sums.
    Buffers begin `shift` elements late."""
    size, keep = rows.datatype.size_bytes, list[Memory]()

    def placed(world: World, array: Array) -> int:
        keep.append(world.device.private(array.nbytes + shift * array.itemsize))
        stored = np.ascontiguousarray(array).view(np.uint8).ravel()
        keep[-1].write(stored, shift * array.itemsize)
        return keep[-1].address + shift * array.itemsize

    def operation(world: World, outputs: Sequence[Memory]) -> Operation:
        part = rows.datatype.encode(rows.sums()) if from_sums else rows.parts(world.ranks)
        send = placed(world, part if from_sums else part[world.rank])
        normed, residual_out = (memory.address + shift * size for memory in outputs)
        norm = Norm(
            hidden=rows.residual.shape[1],
            residual=placed(world, rows.residual),
            residual_out=residual_out,
            weight=placed(world, rows.weight),
            row_scales=0 if rows.scales is None else placed(world, rows.scales),
        )
        case = NormCase(rows.residual.size, rows.datatype, send, normed, norm=norm, summed=0)
        bound = norm_stable(world, case, send if from_sums else None)
        assert isinstance(bound, Operation), bound
        return bound

    size_bytes = (rows.residual.size + shift) * size
    outputs = [[world.device.private(size_bytes) for _ in range(2)] for world in worlds]
    launch(worlds, [operation(*each).step for each in zip(worlds, outputs, strict=True)])
    assert not any(world.watch.timed_out for world in worlds)

    def array(memory: Memory) -> Array:
        stored: Array = memory.read()[:size_bytes].view(rows.datatype.storage)[shift:]
        return stored.reshape(rows.residual.shape)

    return [[array(memory) for memory in of_rank] for of_rank in outputs]


def digest(arrays: Sequence[Array]) -> str:
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()[:16]


def main(device: str, *threads: str) -> None:
    world, _ = connect(30.0, device)
    found: dict[str, list[str]] = {name: [] for name in TYPES}
    for name, number in product(TYPES, threads):
        world.device.threads = int(number)
        for from_sums, shift in ((False, 0), (False, 1), (True, 0)):
            [arrays] = results([world], drawn(name), from_sums, shift)
            found[name].append(digest(arrays))
    everyone = world.communicator.all_gather(found)
    if world.rank == 0:
        print(json.dumps({name: [each[name] for each in everyone] for name in TYPES}))


if __name__ == "__main__":
    main(*sys.argv[1:])
