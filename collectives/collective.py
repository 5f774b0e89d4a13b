"""What each collective means: its datatypes and operations, its sizes, and its exact result."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, TypeVar

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Datatype:
    """A type on the wire. numpy has no bf16, so 16-bit integers store it."""

    name: str
    storage: type
    is_float: bool

    @property
    def element(self) -> str:
        """Its name in pack.h."""
        return self.name.capitalize()

    @property
    def size_bytes(self) -> int:
        return np.dtype(self.storage).itemsize

    def encode(self, values: Array) -> Array:
        """float64 (or integer) values to stored elements, to the nearest, ties to even."""
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
        return stored.astype(np.float64 if self.is_float else np.int64)


DATATYPES = {datatype.name: datatype for datatype in (
    Datatype("float32", np.float32, True), Datatype("float16", np.float16, True),
    Datatype("bfloat16", np.uint16, True), Datatype("float64", np.float64, True),
    Datatype("int32", np.int32, False), Datatype("int64", np.int64, False))}
# The names of nccl-tests, and the short ones.
DATATYPE_ALIASES = {"float": "float32", "half": "float16", "double": "float64", "fp32": "float32",
                    "fp16": "float16", "bf16": "bfloat16", "fp64": "float64"}
REDOPS = ("sum", "prod", "min", "max", "avg")
COMBINE = {"sum": np.add, "avg": np.add, "prod": np.multiply, "min": np.minimum,
           "max": np.maximum}


def reason_against(datatype: Datatype, redop: str) -> str | None:
    """Why an operation is not defined for a datatype; None if it is."""
    if redop == "avg" and not datatype.is_float:
        return f"avg is not defined for {datatype.name}: the mean of integers is no integer"
    return None


def combined(inputs: Sequence[Array], redop: str) -> Array:
    """Decoded inputs reduced in rank order, in float64; integers exactly, modulo 2^64."""
    with np.errstate(over="ignore", invalid="ignore"):
        result: Array = reduce(COMBINE[redop], inputs)
        return result / len(inputs) if redop == "avg" else result


Shape = Mapping[str, Any]
Step = TypeVar("Step")


@dataclass(frozen=True)
class Collective:
    """The meaning of a collective.

    Its size, as nccl-tests counts it, is one segment; if it is `cut`, one segment for each rank. A
    rank's send buffer holds all segments if `sends_all`, otherwise one; likewise `receives_all`.
    `result(sent, shape, combine)` computes the receive buffers of all ranks, (ranks, segments,
    ...), from their send buffers; `combine` reduces the axis of ranks. `receives(shape, rank,
    ranks)`: whether a rank gets any data. `least_bytes(segment_bytes, ranks)`: what each rank must
    send and receive, and what it copies for itself. `no_place` says why there is no in-place form;
    `no_chain` why a chain has no meaning, by the `way` of a shape (None: without ways)."""

    name: str
    result: Callable[[Array, Shape, Callable[[Array], Array]], Array]
    cut: bool = True
    sends_all: bool = False
    receives_all: bool = False
    reduces: bool = False
    shapes: tuple[Shape, ...] = ({},)
    receives: Callable[[Shape, int, int], bool] = lambda shape, rank, ranks: True
    least_bytes: Callable[[int, int], tuple[int, int]] = (
        lambda segment, ranks: ((ranks - 1) * segment, segment))
    no_place: str | None = None
    no_chain: Mapping[str | None, str] = field(default_factory=dict)

    def segments(self, ranks: int) -> tuple[int, int]:
        return ranks if self.sends_all else 1, ranks if self.receives_all else 1

    def count(self, size_bytes: int, ranks: int, datatype: Datatype) -> int:
        """The whole elements of a segment at a size."""
        return size_bytes // datatype.size_bytes // (ranks if self.cut else 1)

    def reason_against_chain(self, shape: Shape, redop: str) -> str | None:
        """Why a chain of calls has no meaning; None if it has."""
        if redop == "prod":
            return "a chain of products leaves every datatype's range"
        return self.no_chain.get(shape.get("way"))


def partner(rank: int, ranks: int) -> int:
    """The rank to exchange messages with, in pairs; the last of an odd number has only itself."""
    other = rank ^ 1
    return other if other < ranks else rank


def in_turn(shape: Shape, rank: int, ranks: int, send: Step, receive: Step) -> list[Step]:
    """A rank's steps for its partner, in order: the even rank sends first; one way, it alone."""
    if partner(rank, ranks) == rank:
        return []
    steps = [receive, send] if rank % 2 else [send, receive]
    return steps[:1] if shape.get("way") == "one_way" else steps


def _receives_from_partner(shape: Shape, rank: int, ranks: int) -> bool:
    return partner(rank, ranks) != rank and (shape["way"] == "ping_pong" or rank % 2 == 1)


_NO_RETURN = "a chain must return its data to their senders; use round_trip"
COLLECTIVES = {collective.name: collective for collective in (
    Collective("all_reduce", lambda sent, _, combine: np.stack([combine(sent)] * len(sent)),
               cut=False, reduces=True,
               least_bytes=lambda segment, ranks: (2 * segment * (ranks - 1) // ranks, segment)),
    Collective("all_gather", lambda sent, _, __: np.stack([sent[:, 0]] * len(sent)),
               receives_all=True),
    Collective("reduce_scatter", lambda sent, _, combine: combine(sent)[:, None], sends_all=True,
               reduces=True),
    Collective("alltoall", lambda sent, _, __: np.swapaxes(sent, 0, 1), sends_all=True,
               receives_all=True, no_place="an all-to-all has no in-place form",
               no_chain={"dispatch": _NO_RETURN, "combine": _NO_RETURN}),  # routed to experts
    Collective("sendrecv",
               lambda sent, _, __: sent[[partner(rank, len(sent)) for rank in range(len(sent))]],
               cut=False, shapes=({"way": "one_way"}, {"way": "ping_pong"}),
               receives=_receives_from_partner,
               least_bytes=lambda segment, ranks: (segment, 0),
               no_place="a message cannot be received in place",
               no_chain={"one_way": "one way returns nothing that the next message could depend "
                                    "on; use ping_pong"}))}
