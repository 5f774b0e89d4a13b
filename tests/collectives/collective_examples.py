"""Collectives drawn at random or listed, and compared with numpy.

`check` draws the collectives, `fixed_examples` lists some. A callback performs each one, on ranks
that are processes or on ranks of one launch, and describes the first error of any rank.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, reduce
from itertools import cycle, product
from typing import Any

import numpy as np

from collectives.algorithms import allreduce_quantized as quantized
from collectives.choice import AUTO, STABLE
from collectives.collective import (
    COLLECTIVES,
    COMBINE,
    DATATYPES,
    REDOPS,
    Collective,
    Datatype,
    Shape,
    combined,
)
from collectives.operation import CollectiveCase
from collectives.registry import ALGORITHMS, exact
from kernels.devices.cpu import cpu_model
from kernels.devices.device import PACK_BYTES, Memory
from tests.ranks.world import ROUNDING

MOST_BYTES = 3 << 20  # several chunks of every algorithm
MARGIN_BYTES = 64 << 10  # behind a buffer: no launch may write there
ROOM_BYTES = MOST_BYTES + MARGIN_BYTES
UNTOUCHED = 0xA5
ONE_MORE = -1  # than whole packs of the widest machine on every rank
COMPARES = "min", "max"
SPECIAL = [0.0, -0.0, 1e-40, 6e-8, 1e-5, 65504.0, 3.0e4]
UNSCALED = [np.inf, -np.inf, np.nan, 1e30, -1e30]
SENTINEL = "one_shot_sentinel"
LOSSY = quantized.QUANTIZED


@dataclass(frozen=True)
class Example:
    """One collective over segments of `count` elements. Out of place the test launches it several
    times without a pause, because no launch may disturb the one before."""

    collective: Collective
    shape: Shape
    algorithm: str
    variant: str
    datatype: Datatype
    redop: str
    count: int
    in_place: bool
    shift: int
    data_seed: int
    special: bool
    launches: int

    def __str__(self) -> str:
        place = " in place" if self.in_place else f" x {self.launches}"
        name = f"{self.collective.name} {dict(self.shape)} {self.algorithm} {self.variant}"
        return f"{name} {self.datatype.name} {self.redop} count {self.count}{place}"


def usual_names(collective: str, hosts: int = 1) -> list[str]:
    """The library and all of ours but lossy ones."""
    return ["library", *(algorithm.name for algorithm in exact(collective, hosts))]


def drawn(draw: random.Random, name: str, ranks: int) -> Example:
    """Any count, type, operation and alignment of a collective, or of an algorithm of all-reduces.
    Few counts are large, because these take long."""
    collective, algorithms = COLLECTIVES["all_reduce"], [name]
    if name in COLLECTIVES:
        collective, algorithms = COLLECTIVES[name], usual_names(name)
    datatypes, redops = list(DATATYPES), REDOPS if collective.reduces else ["none"]
    variants = ["copied", "copied", "registered"]
    algorithm = draw.choice(algorithms)
    most = MOST_BYTES // 8 // max(collective.segments(ranks))
    count = draw.randint(0, draw.choice([40, 40, 5000, 5000, most]))
    if algorithm in LOSSY:
        datatypes, redops, count = list(quantized.DATATYPES), ["sum", "avg"], count // 32 * 32
        variants = ["copied"]  # it has no other
    return Example(
        collective,
        draw.choice(collective.shapes),
        algorithm,
        draw.choice(variants),
        DATATYPES[draw.choice(datatypes)],
        draw.choice(redops),
        count,
        collective.no_place is None and draw.random() < 0.5,
        shift=draw.randint(0, 6),
        data_seed=draw.getrandbits(32),
        special=draw.random() < 0.5,
        launches=draw.randint(1, 3),
    )


def check(
    examples: int,
    seed: int,
    problem: Callable[[Example, np.ndarray], str | None],
    ranks: int,
    *names: str,
) -> None:
    """Draws `examples` examples of these collectives or algorithms (without names: of all
    collectives) and fails with the first sentence that `problem(example, all inputs)` returns."""
    draw = random.Random(seed)
    for _ in range(examples):
        example = drawn(draw, draw.choice(names or list(COLLECTIVES)), ranks)
        error = problem(example, inputs(example, ranks))
        assert not error, f"{example}: {error}"


def fixed_examples(ranks: int, hosts: int = 1) -> Iterator[Example]:
    """Every algorithm of ours: counts around a pack and of several chunks, one element more than
    whole packs on every rank, both variants, in place or not. Rounding of means of float32 shows
    the order of a sum; bfloat16 has elements of two bytes. The algorithms take turns in max and min
    with NaN, and in means of integers. Long messages have one launch, and an aligned receive buffer
    on rank 0, so that stores can stream. Few builds of each kernel file serve all examples, so they
    take seconds."""
    most = MOST_BYTES // 4
    forms = [
        (0, "copied", False),
        (17, "copied", False),
        (17, "registered", True),
        (ONE_MORE, "copied", False),
        (ONE_MORE, "registered", True),
        (1003, "copied", True),
        (1003, "registered", False),
        (most, "copied", False),
        (most, "registered", False),
    ]
    types = {True: [("float32", "avg"), ("bfloat16", "sum")], False: [("bfloat16", "none")]}
    in_turn = cycle([("float32", "max"), ("bfloat16", "min"), ("int32", "avg")])
    if hosts > 1:  # as MPI can
        types[True] = [("float32", "sum"), ("int8", "prod")]
    for (count, variant, in_place), (name, collective) in product(forms, COLLECTIVES.items()):
        is_long = count == most
        # Two bytes an element: a message that does not reduce has other chunks from 2 MiB on.
        room = most if collective.reduces else 2 * most
        elements = room if is_long else count
        if count == ONE_MORE:
            elements = 3 * ranks * PACK_BYTES + 1  # of one byte, and so of wider ones
        elements = min(elements, room // max(collective.segments(ranks)) - 5)
        if hosts > 1 and elements > 17:  # equal shards for two or four ranks of a host
            elements -= elements % 4
        names = usual_names(name, hosts)
        names = [name for name in names if name not in ("library", AUTO, STABLE)]
        kinds = [*product(types[collective.reduces], names)]
        if collective.reduces and hosts == 1 and (count, variant) == (17, "copied"):
            kinds += zip(in_turn, names, strict=False)
        for shape, ((datatype, redop), algorithm) in product(collective.shapes, kinds):
            yield Example(
                collective,
                shape,
                algorithm,
                variant,
                DATATYPES[datatype],
                redop,
                elements,
                in_place and collective.no_place is None,
                shift=0 if is_long else 3,
                data_seed=elements,
                special=redop in COMPARES,
                launches=1 if is_long else 3,
            )


def in_rank_order(sent: list[np.ndarray], redop: str, datatype: Datatype) -> np.ndarray:
    """The encoded result of a reduction in rank order that rounds each combination to fp32 (fp64
    for float64), as the kernels do, and the result once more to the datatype."""
    fp = np.float64 if datatype.name == "float64" else np.float32
    total: np.ndarray = reduce(COMBINE[redop], [part.astype(fp) for part in sent])
    return datatype.encode(total * (fp(1) / fp(len(sent))) if redop == "avg" else total)


def in_ring_order(sent: np.ndarray, first: np.ndarray, redop: str, datatype: Datatype) -> Any:
    """The encoded sums of decoded parts, (ranks, count): from rank first[i] on around the ring, and
    rounded to the datatype at each hop, as the kernels do."""
    ranks, places = len(sent), np.arange(sent.shape[1])
    fp = np.float64 if datatype.name == "float64" else np.float32
    total = sent[first, places].astype(fp)
    for hop in range(1, ranks):
        total += sent[(first + hop) % ranks, places].astype(fp)
        if hop == ranks - 1 and redop == "avg":
            total *= fp(1 / ranks)
        total = datatype.decode(datatype.encode(total)).astype(fp)
    return datatype.encode(total)


def ring_starts(example: "Example", ranks: int, chunk_bytes: int) -> np.ndarray:
    """The rank with which a CPU's ring begins the sum of each element."""
    places, size = np.arange(example.count), example.datatype.size_bytes
    flags = cpu_model()[1]
    pack = (64 if "avx512f" in flags else 32 if "avx" in flags else 16) // size
    start = places // (chunk_bytes // size) * (chunk_bytes // size)
    in_chunk = np.minimum(chunk_bytes // size, example.count - start)
    first: np.ndarray = (places - start) // (-(-in_chunk // (ranks * pack)) * pack)
    return first


def error_bound(
    inputs: list[np.ndarray], redop: str, datatype: Datatype, wire_roundings: int
) -> np.ndarray:
    """The largest error of each element that a reduction may have against float64.

    It allows `wire_roundings` roundings to the wire type (one per hop for the ring) and one fp32
    rounding (fp64 for float64) for each combination and each mean.
    Higham, Accuracy and Stability, section 4.2: the error of a recursive sum is at most the
    roundings times the sum of magnitudes. Subnormal results may be off by one smallest step per
    rounding.
    """
    if not datatype.is_float or redop in COMPARES:
        return np.zeros_like(inputs[0], dtype=np.float64)
    n = len(inputs)
    accumulate = 2.0**-53 if datatype.name == "float64" else 2.0**-24
    if redop == "prod":
        magnitude = np.abs(combined(inputs, "prod"))
    else:
        magnitude = combined([np.abs(x) for x in inputs], "sum") / (n if redop == "avg" else 1)
    relative = (wire_roundings + 1) * ROUNDING[datatype.name] + (n + 2) * accumulate
    bits: np.ndarray = np.ones(1, f"u{datatype.size_bytes}").view(datatype.storage)
    step = float(datatype.decode(bits)[0])
    return magnitude * relative * 1.01 + wire_roundings * step * max(1, n)


@lru_cache(maxsize=1)  # algorithms in turn get the same data
def ordinary(datatype: Datatype, scale: float, shape: tuple[int, ...], seed: int) -> np.ndarray:
    return datatype.encode(np.random.default_rng(seed).normal(size=shape) * scale)


def inputs(example: Example, ranks: int) -> np.ndarray:
    """The encoded send data of all ranks, shape (ranks, segments, count); every rank draws the same
    data."""
    draw, datatype = np.random.default_rng(example.data_seed), example.datatype
    shape = (ranks, example.collective.segments(ranks)[0], example.count)
    scale = 1.0 if example.redop == "prod" else 10.0
    if not datatype.is_float:
        return datatype.encode(draw.integers(-1000, 1000, shape))
    if not example.special:
        return ordinary(datatype, scale, shape, example.data_seed)
    values: np.ndarray = draw.normal(size=shape) * scale
    # A ring saturates partial sums of fp8 too, in another order.
    if example.count and example.redop != "prod" and not datatype.float8:
        at = draw.random(shape) < 1 / 7
        values[at] = draw.choice(SPECIAL, at.sum()) / (
            ranks if example.redop in ("sum", "avg") else 1
        )
    if example.algorithm in LOSSY:  # a block with one of these has no scale, and becomes NaN
        at = draw.random(shape) < 1 / 200
        values[at] = draw.choice(UNSCALED, at.sum())
    if example.redop in COMPARES and example.algorithm != "library":  # MPI may keep or lose it
        values[draw.random(shape) < 1 / 3] = np.nan
    with np.errstate(over="ignore"):
        encoded = datatype.encode(values)
    if example.algorithm == SENTINEL:
        encoded[0] = (
            np.full(encoded[0].nbytes, 0xFF, np.uint8).view(encoded.dtype).reshape(shape[1:])
        )
    return encoded


def same(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray((a == b) | (np.isnan(a) & np.isnan(b)))


@dataclass
class Buffers:
    """A rank's memory for any example. A buffer may start at any element, elsewhere on each rank,
    and a launch must not change the bytes around its buffers."""

    rank: int
    ranks: int
    send: Memory
    receive: Memory

    def _place(self, example: Example) -> tuple[Memory, int, int]:
        """The memory of the send buffer, and the offsets of the send and the receive buffer."""
        size, collective = example.datatype.size_bytes, example.collective
        if example.algorithm in LOSSY and example.shift > 3:  # a GPU takes only whole packs
            size = quantized.GPU_PACK_BYTES
        receive = (example.shift + self.rank) % 7 * size
        if not example.in_place:
            return self.send, (example.shift + 3 * self.rank) % 5 * size, receive
        own = receive + (self.rank * example.count * size if collective.cut else 0)
        send = receive if collective.sends_all else own
        return self.receive, send, receive if collective.receives_all else own

    def _room_bytes(self, example: Example) -> int:
        """The bytes that are filled before the launches, and checked after them: the buffers and a
        margin."""
        segments = max(example.collective.segments(self.ranks))
        return segments * example.count * example.datatype.size_bytes + MARGIN_BYTES

    def case(self, example: Example, every: np.ndarray) -> CollectiveCase:
        """Fills the memories and returns the case with the addresses of its buffers."""
        source, send, receive = self._place(example)
        for memory in (self.send, self.receive):
            memory.write(np.full(self._room_bytes(example), UNTOUCHED, np.uint8))
        source.write(np.ascontiguousarray(every[self.rank]).view(np.uint8).ravel(), send)
        return CollectiveCase(
            example.collective,
            example.count,
            example.datatype,
            example.redop,
            source.address + send,
            self.receive.address + receive,
            example.in_place,
            example.variant,
            example.shape,
        )

    def result(self, example: Example) -> np.ndarray:
        """The stored result, shape (segments, count)."""
        collective, receive = example.collective, self._place(example)[2]
        segments = collective.segments(self.ranks)[1] * collective.receives(
            example.shape, self.rank, self.ranks
        )
        size_bytes = segments * example.count * example.datatype.size_bytes
        stored: np.ndarray = self.receive.read()[receive : receive + size_bytes].view(
            example.datatype.storage
        )
        return stored.reshape(segments, example.count)

    def problem(self, example: Example, every: np.ndarray, ring_chunk_bytes: int = 0) -> str | None:
        """Describes an error in this rank's result or in the bytes around its buffers. With the
        bytes of a chunk of a CPU's ring, the ring's sums must have the order that is documented."""
        collective, datatype, got = example.collective, example.datatype, self.result(example)
        decoded, values, redop = datatype.decode(every), datatype.decode(got), example.redop

        def result(combine: Callable[[list[np.ndarray]], np.ndarray]) -> Any:
            of_ranks = collective.result(decoded, example.shape, lambda sent: combine(list(sent)))
            return of_ranks[self.rank][: len(got)]

        with np.errstate(all="ignore"):
            if not (datatype.is_float and collective.reduces):
                want = result(lambda sent: combined(sent, redop, datatype))
                wrong = np.argwhere(got != datatype.encode(want))
            elif example.algorithm in LOSSY:
                blocks = decoded[:, 0].reshape(len(every), -1, quantized.BLOCK)
                summed = LOSSY[example.algorithm].expected_sum(redop, blocks).reshape(got.shape)
                want = datatype.decode(datatype.encode(summed))
                wrong = np.argwhere(~same(values, want))
            elif ALGORITHMS[collective.name][example.algorithm].sums_in_rank_order:
                want = datatype.decode(result(lambda sent: in_rank_order(sent, redop, datatype)))
                wrong = np.argwhere(~same(values, want))
            elif ring_chunk_bytes and redop in ("sum", "avg"):
                first = ring_starts(example, len(every), ring_chunk_bytes)
                parts = decoded[:, 0]
                want = datatype.decode(in_ring_order(parts, first, redop, datatype))[None]
                wrong = np.argwhere(~same(values, want))
            else:
                want = result(lambda sent: combined(sent, redop))
                roundings = max(1, len(every) - 1)  # in the ring and at most in a library
                bound = result(lambda sent: error_bound(sent, redop, datatype, roundings))
                largest = datatype.decode(datatype.encode(np.array([np.inf])))
                overflows = ~np.isfinite(datatype.decode(datatype.encode(want)))
                beyond = overflows & (values == np.sign(want) * largest)
                is_right = (np.abs(values - want) <= bound) | beyond | same(values, want)
                wrong = np.argwhere(~is_right)
        if len(wrong):
            at = tuple(wrong[0])
            return f"element {at} is {values[at]!r}, not {want[at]!r}"
        source, send, receive = self._place(example)
        for name, memory in (("send", self.send), ("receive", self.receive)):
            around = np.full(self._room_bytes(example), UNTOUCHED, np.uint8)
            if memory is source:
                sent = np.ascontiguousarray(every[self.rank]).view(np.uint8).ravel()
                around[send : send + sent.size] = sent
            if memory is self.receive:
                around[receive : receive + got.nbytes] = got.view(np.uint8).ravel()
            if np.any(memory.read()[: len(around)] != around):
                return f"wrote into the {name} buffer or around it"
        return None
