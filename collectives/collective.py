"""What each collective means: its datatypes and operations, its sizes, and its exact result."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce
from typing import Any, TypeVar

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Float8:
    """A format of 8 bits, as OCP defines it: `largest` is the code of the largest finite value.
    NaN is above it; e5m2 also has infinity."""

    mantissa_bits: int
    bias: int
    largest: int

    @cached_property
    def values(self) -> Array:
        """The value of each of the 256 codes."""
        magnitude, one = np.arange(128), 1 << self.mantissa_bits
        exponent, fraction = magnitude >> self.mantissa_bits, magnitude & one - 1
        scale = np.exp2(np.maximum(exponent, 1) - self.bias - self.mantissa_bits)
        values = (fraction + one * (exponent > 0)) * scale
        values[self.largest + 1 :] = np.nan
        if (self.largest + 1) % one == 0:  # the first code of the last exponent
            values[self.largest + 1] = np.inf
        return np.concatenate([values, -values])

    def encode(self, values: Array) -> Array:
        """The nearest codes, ties to even. Values beyond the largest become the largest, as in
        cvt.rn.satfinite of PTX."""
        finite = self.values[: self.largest + 1]
        middles, size = (finite[1:] + finite[:-1]) / 2, np.abs(values)
        below, above = np.searchsorted(middles, size), np.searchsorted(middles, size, "right")
        codes = np.where(below % 2, above, below)
        size_codes = np.where(np.isnan(values), 0x7F, codes)
        signed: Array = (size_codes | np.signbit(values) << 7).astype(np.uint8)
        return signed


@dataclass(frozen=True)
class Datatype:
    """A type on the wire. numpy has neither bf16 nor fp8, so unsigned integers store them."""

    name: str
    storage: type
    is_float: bool
    float8: Float8 | None = None

    @property
    def element(self) -> str:
        """Its name in pack.h."""
        return self.name.capitalize()

    @property
    def size_bytes(self) -> int:
        return np.dtype(self.storage).itemsize

    @property
    def is_unsigned(self) -> bool:
        return not self.is_float and np.dtype(self.storage).kind == "u"

    def encode(self, values: Array) -> Array:
        """float64 (or integer) values to stored elements, to the nearest, ties to even. Integers
        wrap."""
        if self.float8:
            return self.float8.encode(values)
        if self.name != "bfloat16":
            return values.astype(self.storage)
        bits = values.astype(np.float32).view(np.uint32)
        is_odd, is_nan = bits >> 16 & 1, bits & 0x7FFFFFFF > 0x7F800000
        rounded = (bits + 0x7FFF + is_odd) >> 16
        return np.where(is_nan, bits >> 16 | 0x40, rounded).astype(np.uint16)

    def decode(self, stored: Array) -> Array:
        """Stored elements to float64, or to int64."""
        if self.name == "bfloat16":
            return (stored.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        if self.float8:
            return np.asarray(self.float8.values[stored])
        return stored.astype(np.float64 if self.is_float else np.int64)

    def rounded(self, values: Array) -> Array:
        """The values as they are stored, decoded."""
        return self.decode(self.encode(values))


DATATYPES = {
    datatype.name: datatype
    for datatype in (
        Datatype("float32", np.float32, True),
        Datatype("float16", np.float16, True),
        Datatype("bfloat16", np.uint16, True),
        Datatype("float64", np.float64, True),
        Datatype("int32", np.int32, False),
        Datatype("int64", np.int64, False),
        Datatype("int8", np.int8, False),
        Datatype("uint8", np.uint8, False),
        Datatype("float8_e4m3", np.uint8, True, Float8(3, 7, 0x7E)),
        Datatype("float8_e5m2", np.uint8, True, Float8(2, 15, 0x7B)),
    )
}
# The names of nccl-tests and rccl-tests, and the short ones.
DATATYPE_ALIASES = {
    "float": "float32",
    "half": "float16",
    "double": "float64",
    "fp32": "float32",
    "fp16": "float16",
    "bf16": "bfloat16",
    "fp64": "float64",
    "f8e4m3": "float8_e4m3",
    "f8e5m2": "float8_e5m2",
    "fp8_e4m3": "float8_e4m3",
    "fp8_e5m2": "float8_e5m2",
}
REDOPS = ("sum", "prod", "max", "min", "avg")  # in the order of nccl-tests
# Without NaN, as NCCL and RCCL compare; MPI's depends on the rank that has it.
COMPARE = {"min": np.fmin, "max": np.fmax}
COMBINE = {"sum": np.add, "avg": np.add, "prod": np.multiply, **COMPARE}


def quotient(total: Array, ranks: int) -> Array:
    """A sum divided by the number of ranks; of integers the whole part, as C and NCCL divide."""
    is_whole = total.dtype.kind != "f"
    mean: Array = (total - np.fmod(total, ranks)) // ranks if is_whole else total / ranks
    return mean


def combined(inputs: Sequence[Array], redop: str, datatype: Datatype | None = None) -> Array:
    """Decoded inputs reduced in rank order, in float64; integers exactly, modulo 2^64. A mean of
    integers divides the sum that their `datatype` holds."""
    with np.errstate(over="ignore", invalid="ignore"):
        result: Array = reduce(COMBINE[redop], inputs)
        if redop != "avg":
            return result
        if datatype and not datatype.is_float:
            result = datatype.rounded(result)
        return quotient(result, len(inputs))


Shape = Mapping[str, Any]
Call = TypeVar("Call")


@dataclass(frozen=True)
class Collective:
    """The meaning of a collective.

    Its size, as nccl-tests counts it, is one segment; if it is `cut`, one segment for each rank. A
    rank's send buffer holds all segments if `sends_all`, otherwise one; likewise `receives_all`.
    `result(sent, shape, combine)` computes the receive buffers of all ranks, (ranks, segments,
    ...), from their send buffers; `combine` reduces the axis of ranks. `sends(shape, rank)`:
    whether a rank gives any data, `receives(shape, rank, ranks)`: whether it gets any.
    `least_bytes(segment_bytes, ranks)`: what each rank must send and receive, and what it copies
    for itself. `no_place` says why there is no in-place form; `no_chain` why a chain has no
    meaning, by the `way` of a shape (None: without ways)."""

    name: str
    result: Callable[[Array, Shape, Callable[[Array], Array]], Array]
    cut: bool = True
    sends_all: bool = False
    receives_all: bool = False
    reduces: bool = False
    shapes: tuple[Shape, ...] = ({},)
    sends: Callable[[Shape, int], bool] = lambda shape, rank: True
    receives: Callable[[Shape, int, int], bool] = lambda shape, rank, ranks: True
    least_bytes: Callable[[int, int], tuple[int, int]] = lambda segment, ranks: (
        (ranks - 1) * segment,
        segment,
    )
    no_place: str | None = None
    no_chain: Mapping[str | None, str] = field(default_factory=dict)

    def segments(self, ranks: int) -> tuple[int, int]:
        return ranks if self.sends_all else 1, ranks if self.receives_all else 1

    def count(self, size_bytes: int, ranks: int, datatype: Datatype) -> int:
        """The whole elements of a segment at a size."""
        return size_bytes // datatype.size_bytes // (ranks if self.cut else 1)

    def reason_against_chain(self, shape: Shape, redop: str, datatype: Datatype) -> str | None:
        """Why a chain of calls has no meaning, or no exact result; None if it has."""
        if redop == "prod":
            return "a chain of products leaves every datatype's range"
        if datatype.float8 and redop in ("sum", "avg"):
            return f"a chain of sums rounds in {datatype.name}: its result is not exact"
        return self.no_chain.get(shape.get("way"))


def partner(rank: int, ranks: int) -> int:
    """The rank to exchange messages with, in pairs; the last of an odd number has only itself."""
    other = rank ^ 1
    return other if other < ranks else rank


def ordered(shape: Shape, rank: int, ranks: int, send: Call, receive: Call) -> list[Call]:
    """A rank's calls for its partner, in order: the even rank sends first; one way, it alone."""
    if partner(rank, ranks) == rank:
        return []
    calls = [receive, send] if rank % 2 else [send, receive]
    return calls[:1] if shape.get("way") == "one_way" else calls


_NO_RETURN = "a chain must return its data to their senders; use round_trip"
COLLECTIVES = {
    collective.name: collective
    for collective in (
        Collective(
            "all_reduce",
            lambda sent, _, combine: np.stack([combine(sent)] * len(sent)),
            cut=False,
            reduces=True,
            least_bytes=lambda segment, ranks: (2 * segment * (ranks - 1) // ranks, segment),
        ),
        Collective(
            "all_gather", lambda sent, _, __: np.stack([sent[:, 0]] * len(sent)), receives_all=True
        ),
        Collective(
            "reduce_scatter",
            lambda sent, _, combine: combine(sent)[:, None],
            sends_all=True,
            reduces=True,
        ),
        Collective(
            "alltoall",
            lambda sent, _, __: np.swapaxes(sent, 0, 1),
            sends_all=True,
            receives_all=True,
            no_place="an all-to-all has no in-place form",
            no_chain={"dispatch": _NO_RETURN, "combine": _NO_RETURN},
        ),  # routed to experts
        Collective(
            "sendrecv",
            lambda sent, _, __: sent[[partner(rank, len(sent)) for rank in range(len(sent))]],
            cut=False,
            shapes=({"way": "one_way"}, {"way": "ping_pong"}),
            receives=lambda shape, rank, ranks: (
                partner(rank, ranks) != rank and (shape["way"] == "ping_pong" or rank % 2 == 1)
            ),
            least_bytes=lambda segment, ranks: (segment, 0),
            no_place="a message cannot be received in place",
            no_chain={
                "one_way": "one way returns nothing that the next message could depend "
                "on; use ping_pong"
            },
        ),
    )
}


@dataclass(frozen=True)
class Traffic:
    """The least that the busiest rank does in a collective: where ranks have different roles, as
    with a root, the rank that does most, since the slowest rank's time counts. `hops`: flags, each
    of which waits for the one before; `stages`: of each part, the bytes stored into peer memory and
    the bytes read from it. Stages follow one another, so their times add up; within a stage both
    go on at once, and the slower counts. `memory_bytes`: bytes copied from the send to the receive
    buffer. For the model of `auto` between CPU cores only: `own_bytes`, how much of its own input a
    rank reads, each time counted, and `contended_bytes`, how much it stores into lines that another
    core is expected to hold. Between GPUs the model has the other fields (wire_cost.py).

    A wrong value makes no result wrong. Too little: the bound is too low, and without a table
    `auto` prefers the algorithm. Too much: cases beat their bound, and are marked `suspect`."""

    hops: int
    stages: tuple[tuple[int, int], ...]
    memory_bytes: int
    own_bytes: int = 0
    contended_bytes: int = 0
