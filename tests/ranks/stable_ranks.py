"""Run by mpirun: which bits depend on nothing but the inputs (docs/methods.md, "The same bits"), on
data that round in every sum.

`stable_ranks.py sums TYPE ...` compares every sum of ours, bit by bit, with the order that it
documents: prefixes of one message, at other addresses, in place or not, a rank late in each launch.
`stable_ranks.py norms TYPE ...` prints digests of fused norms; launches with two, three and
four ranks print the same."""

import hashlib
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np

from collectives.build import Build
from collectives.collective import COLLECTIVES, DATATYPES, Array, Datatype
from collectives.operation import Algorithm, Unsupported, World
from collectives.registry import exact
from kernels.devices.cpu import cpu_model
from kernels.devices.device import Watch
from tests.collectives.collective_examples import ROOM_BYTES, Buffers, Example, in_rank_order
from tests.ranks.fused_ranks import ROOM_BYTES as BED_BYTES
from tests.ranks.fused_ranks import Bed, NormExample, norm_case
from tests.ranks.world import connect, launch, same_on_all_ranks

COUNT = 40_000  # of a segment: several chunks
CHUNKS = Build(chunk_bytes=64 << 10)
# Of the elements from the first on, the shift in elements, in place.
PLACES = [(COUNT, 0, False), (COUNT, 1, True), (8003, 3, False), (8003, 0, True), (5, 2, False)]
REDOPS = {"float32": "avg", "bfloat16": "sum"}  # builds that other tests have, too
LATE_S = 0.002
FORMS = (
    ("fused", "copied"),
    ("fused", "registered"),
    ("then_two_shot", "copied"),
    ("compute", "copied"),
)


def in_ring_order(parts: Array, first: Array, redop: str, datatype: Datatype) -> Array:
    """The encoded sums of decoded parts, (ranks, count): from rank first[i] on around the ring, and
    rounded to the datatype at each hop."""
    ranks, places = len(parts), np.arange(parts.shape[1])
    total = parts[first, places].astype(np.float32)
    for hop in range(1, ranks):
        total += parts[(first + hop) % ranks, places].astype(np.float32)
        if hop == ranks - 1 and redop == "avg":
            total *= np.float32(1 / ranks)
        total = datatype.decode(datatype.encode(total)).astype(np.float32)
    return datatype.encode(total)


def first_ranks(example: Example, rank: int, ranks: int, chunk_bytes: int) -> Array:
    """The rank with which the ring's sum of each element begins."""
    places = np.arange(example.count)
    if example.collective.cut:
        return np.full_like(places, (rank + 1) % ranks)
    flags = cpu_model()[1]
    pack_bytes = 64 if "avx512f" in flags else 32 if "avx" in flags else 16
    pack = pack_bytes // example.datatype.size_bytes
    most = chunk_bytes // example.datatype.size_bytes
    start = places // most * most
    in_chunk = np.minimum(most, example.count - start)
    first: Array = (places - start) // (-(-in_chunk // (ranks * pack)) * pack)
    return first


def problem(
    world: World,
    watch: Watch,
    algorithm: Algorithm,
    example: Example,
    buffers: Buffers,
    sent: Array,
) -> str | None:
    """Launches an example three times, each with another rank late; the first error of any rank, or
    "" if the algorithm does not suit it."""
    rank, ranks = world.communicator.rank, world.communicator.size
    every = sent[:, :, : example.count]
    operation = algorithm.bind(world, buffers.case(example, every))
    if isinstance(operation, Unsupported):
        return ""
    parts = example.datatype.decode(every[:, rank if example.collective.cut else 0])
    if algorithm.base == "ring":
        first = first_ranks(example, rank, ranks, operation.step.argument.chunk_bytes)
        want = in_ring_order(parts, first, example.redop, example.datatype)
    else:
        want = in_rank_order(list(parts), example.redop, example.datatype)
    for late in range(1 if example.in_place else 3):
        world.communicator.barrier()
        time.sleep(LATE_S * (rank == late % ranks))
        launch(world.device, operation.step, 1)
        wrong = int(np.sum(buffers.result(example)[0] != want))
        error = f"{wrong} elements have other bits" if wrong else None
        if error := same_on_all_ranks(world, watch, error):
            return error
    return None


def check_sums(world: World, watch: Watch, name: str, types: Sequence[str]) -> int:
    """Checks all algorithms of a collective; the number of examples that were performed."""
    rank, ranks, collective = world.communicator.rank, world.communicator.size, COLLECTIVES[name]
    send, receive = (world.mapped.register(ROOM_BYTES) for _ in range(2))
    buffers, performed = Buffers(rank, ranks, send, receive), 0
    for algorithm, of_type in product(exact(name, 1), types):
        datatype = DATATYPES[of_type]
        whole = int(min(COUNT, algorithm.limits.most(ranks) // datatype.size_bytes))
        built = replace(algorithm, build=CHUNKS if algorithm.needs_peers else Build())
        draw = np.random.default_rng(1)
        shape = ranks, collective.segments(ranks)[0], COUNT
        sent = datatype.encode(draw.normal(size=shape) * 10.0 ** draw.integers(-3, 3, shape))
        for variant, (count, shift, in_place) in product(algorithm.variants_in(world), PLACES):
            example = Example(
                collective,
                {},
                algorithm.base,
                variant,
                datatype,
                REDOPS[of_type],
                min(count, whole),
                in_place,
                shift,
                data_seed=0,
                special=False,
                launches=1,
            )
            error = problem(world, watch, built, example, buffers, sent)
            assert not error, f"{example} from element {shift} on: {error}"
            performed += error is None
    return performed


def check_norms(world: World, watch: Watch, datatype: Datatype, hidden: int) -> str:
    """A digest of the row that each form of the fused norm makes of one token, whose parts are
    zeros on all ranks but one; the rows of all forms, places and batches must be equal."""
    ranks, rooms = world.communicator.size, "send receive residual residual_out summed weight"
    bed = Bed(world, {name: world.mapped.register(BED_BYTES) for name in rooms.split()})
    draw = np.random.default_rng(2)
    row, residual, weight = (datatype.encode(draw.normal(size=hidden)) for _ in range(3))
    digests = set()
    for (form, variant), tokens, shift in product(FORMS, (1, 2, 9, 36), (0, 1)):
        values: Array = np.zeros((ranks + 1, tokens, hidden), datatype.storage)
        values[: ranks if form == "compute" else 1], values[-1] = row, residual
        case = norm_case(tokens, hidden, datatype, variant, [Build(), CHUNKS][shift])
        example = NormExample(case, values, weight, [shift * datatype.size_bytes] * 5, False)
        for _ in range(2):  # both kernels of a form that has one for each state of the link
            rows = example.results(bed, form)[0]
            digests |= {hashlib.sha256(each).hexdigest()[:16] for each in rows}
            error = f"{form} {variant} has other bits" if len(digests) > 1 else None
            error = same_on_all_ranks(world, watch, error, np.array(sorted(digests)))
            assert not error, f"{datatype.name} {tokens} x {hidden}: {error}"
    return digests.pop()


def main(what: str, *types: str) -> None:
    world, watch = connect()
    if what == "sums":
        names = "all_reduce", "reduce_scatter"
        performed = sum(check_sums(world, watch, name, types) for name in names)
        lines = [f"{performed} examples right on {world.communicator.size} ranks"]
    else:
        cases = product(types, (1000, 4144, 8191))
        lines = [check_norms(world, watch, DATATYPES[name], hidden) for name, hidden in cases]
    if world.communicator.rank == 0:
        print(*lines, sep="\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
