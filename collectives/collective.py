"""What each collective means: its datatypes and operations, its sizes, and its exact result."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Datatype:
    """A type on the wire. `element` is its name in pack.h. numpy has no bf16, so 16-bit integers
    store it."""

    name: str
    element: str
    size_bytes: int
    storage: type
    is_float: bool
    significant_bits: int = 0

    def encode(self, values: Array) -> Array:
        """float64 (or integer) values to stored elements, to the nearest, ties to even."""
        if self.name != "bfloat16":
            return values.astype(self.storage)
        bits = values.astype(np.float32).view(np.uint32)
        is_odd = bits >> np.uint32(16) & np.uint32(1)
        rounded = (bits + np.uint32(0x7FFF) + is_odd) >> np.uint32(16)
        quiet_nan = bits >> np.uint32(16) | np.uint32(0x40)
        is_nan = bits & np.uint32(0x7FFFFFFF) > 0x7F800000
        return np.where(is_nan, quiet_nan, rounded).astype(np.uint16)

    def decode(self, stored: Array) -> Array:
        """Stored elements to float64, or to int64."""
        if self.name == "bfloat16":
            bits = stored.astype(np.uint32) << np.uint32(16)
            return bits.view(np.float32).astype(np.float64)
        return stored.astype(np.float64 if self.is_float else np.int64)

    @property
    def rounding(self) -> float:
        """The largest relative error of one rounding: half a unit in the last place, or 0."""
        return 2.0**-self.significant_bits if self.is_float else 0.0


DATATYPES = {datatype.name: datatype for datatype in (
    Datatype("float32", "Float32", 4, np.float32, True, 24),
    Datatype("float16", "Float16", 2, np.float16, True, 11),
    Datatype("bfloat16", "Bfloat16", 2, np.uint16, True, 8),
    Datatype("float64", "Float64", 8, np.float64, True, 53),
    Datatype("int32", "Int32", 4, np.int32, False),
    Datatype("int64", "Int64", 8, np.int64, False))}
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
    """Decoded inputs reduced in rank order, in float64; integers exactly, modulo the datatype when
    encoded."""
    with np.errstate(over="ignore", invalid="ignore"):
        result = inputs[0]
        for values in inputs[1:]:
            result = COMBINE[redop](result, values)
        return result / len(inputs) if redop == "avg" else result


Shape = Mapping[str, Any]
Step = TypeVar("Step")


@dataclass(frozen=True)
class Collective:
    """The meaning of a collective.

    Its size, as nccl-tests counts it, is one segment; if it is `cut`, one segment for each rank. A
    rank's send buffer holds all segments if `sends_all`, otherwise one; `receives_all` says the
    same of its receive buffer.
    `result(sent, shape, combine)` computes the receive buffers of all ranks, (ranks, segments,
    ...), from their send buffers; `combine` reduces the axis of ranks. `no_place` says why there is
    no in-place form; `receives(shape, rank, ranks)` whether a rank gets any data.
    """

    name: str
    title: str
    result: Callable[[Array, Shape, Callable[[Array], Array]], Array]
    cut: bool = True
    sends_all: bool = False
    receives_all: bool = False
    reduces: bool = False
    no_place: str | None = None
    shapes: tuple[Shape, ...] = ({},)
    receives: Callable[[Shape, int, int], bool] = lambda shape, rank, ranks: True

    def segments(self, ranks: int) -> tuple[int, int]:
        """The segments of a send buffer and of a receive buffer."""
        return ranks if self.sends_all else 1, ranks if self.receives_all else 1

    def count(self, size_bytes: int, ranks: int, datatype: Datatype) -> int:
        """The whole elements of a segment at a size."""
        return size_bytes // datatype.size_bytes // (ranks if self.cut else 1)


def partner(rank: int, ranks: int) -> int | None:
    """The rank to exchange messages with, in pairs; None for the last of an odd number."""
    other = rank ^ 1
    return other if other < ranks else None


def in_turn(shape: Shape, rank: int, send: Step, receive: Step) -> list[Step]:
    """The steps of a rank with a partner, in order. The even rank starts; one way only its message
    moves."""
    steps = [receive, send] if rank % 2 else [send, receive]
    return steps if shape["way"] == "ping_pong" else steps[:1]


def _from_partner(sent: Array, shape: Shape, combine: Callable[[Array], Array]) -> Array:
    ranks = len(sent)
    partners = [partner(rank, ranks) for rank in range(ranks)]
    return sent[[rank if other is None else other for rank, other in enumerate(partners)]]


def _receives_from_partner(shape: Shape, rank: int, ranks: int) -> bool:
    return partner(rank, ranks) is not None and (shape["way"] == "ping_pong" or rank % 2 == 1)


COLLECTIVES = {collective.name: collective for collective in (
    Collective("all_reduce", "All-reduce",
               lambda sent, _, combine: np.stack([combine(sent)] * len(sent)), cut=False,
               reduces=True),
    Collective("all_gather", "All-gather", lambda sent, _, __: np.stack([sent[:, 0]] * len(sent)),
               receives_all=True),
    Collective("reduce_scatter", "Reduce-scatter",
               lambda sent, _, combine: combine(sent)[:, None], sends_all=True, reduces=True),
    Collective("alltoall", "All-to-all", lambda sent, _, __: np.swapaxes(sent, 0, 1),
               sends_all=True, receives_all=True,
               no_place="an all-to-all has no in-place form"),
    Collective("sendrecv", "Send-receive", _from_partner, cut=False,
               no_place="a message cannot be received in place",
               shapes=({"way": "one_way"}, {"way": "ping_pong"}),
               receives=_receives_from_partner))}
