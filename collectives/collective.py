"""What each collective means: its types and operations, its sizes, and what it must give."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Datatype:
    """A type on the wire. `element` is its name in pack.h; bf16 has no numpy type and is stored as 16-bit integers."""

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
        rounded = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
        quiet = bits >> np.uint32(16) | np.uint32(0x40)
        return np.where(bits & np.uint32(0x7FFFFFFF) > 0x7F800000, quiet, rounded).astype(np.uint16)

    def decode(self, stored: Array) -> Array:
        """Stored elements to float64, or to int64."""
        if self.name == "bfloat16":
            return (stored.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)
        return stored.astype(np.float64 if self.is_float else np.int64)

    @property
    def rounding(self) -> float:
        """The largest relative error of one rounding: half a unit in the last place; 0 for integers."""
        return 2.0**-self.significant_bits if self.is_float else 0.0


DATATYPES = {t.name: t for t in (
    Datatype("float32", "Float32", 4, np.float32, True, 24), Datatype("float16", "Float16", 2, np.float16, True, 11),
    Datatype("bfloat16", "Bfloat16", 2, np.uint16, True, 8), Datatype("float64", "Float64", 8, np.float64, True, 53),
    Datatype("int32", "Int32", 4, np.int32, False), Datatype("int64", "Int64", 8, np.int64, False))}
# nccl-tests' names, and the short ones.
DATATYPE_ALIASES = {"float": "float32", "half": "float16", "double": "float64",
                    "fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "fp64": "float64"}
REDOPS = ("sum", "prod", "min", "max", "avg")


def reason_against(datatype: Datatype, redop: str) -> str | None:
    """Why an operation is not defined for a type; None where it is."""
    if redop == "avg" and not datatype.is_float:
        return f"avg is not defined for {datatype.name}: the mean of integers is no integer"
    return None


def combined(inputs: Sequence[Array], redop: str) -> Array:
    """Decoded inputs reduced in rank order, in float64 (integers: exactly, modulo the type, when encoded)."""
    with np.errstate(over="ignore", invalid="ignore"):
        combine = {"sum": np.add, "avg": np.add, "prod": np.multiply, "min": np.minimum, "max": np.maximum}[redop]
        result = inputs[0]
        for other in inputs[1:]:
            result = combine(result, other)
        return result / len(inputs) if redop == "avg" else result


Shape = Mapping[str, Any]
Step = TypeVar("Step")


@dataclass(frozen=True)
class Collective:
    """What a collective means. Its size S, as nccl-tests counts it, is one segment, or one for each rank where it is
    `cut`. A rank's send buffer holds all segments where it `sends_all`, else one, and its receive buffer likewise.

    `result(sent, shape, combine)` is what all ranks get, (ranks, segments, ...), from what they send, of the same form;
    `combine` reduces the ranks' axis. `no_place` says why there is no in-place form; `receives` which ranks get
    anything.
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
        """Of a send and of a receive buffer."""
        return ranks if self.sends_all else 1, ranks if self.receives_all else 1

    def count(self, size_bytes: int, ranks: int, datatype: Datatype) -> int:
        """The elements of a segment, of which there are whole ones in a size."""
        return size_bytes // datatype.size_bytes // (ranks if self.cut else 1)


def partner(rank: int, ranks: int) -> int | None:
    """Whom a rank sends to and receives from, pairwise; None for the last of an odd number."""
    other = rank ^ 1
    return other if other < ranks else None


def in_turn(shape: Shape, rank: int, send: Step, receive: Step) -> list[Step]:
    """What a rank with a partner does, one after another: the even one begins, and one way that is all."""
    both = [receive, send] if rank % 2 else [send, receive]
    return both if shape["way"] == "ping_pong" else both[:1]


def _from_partner(sent: Array, shape: Shape, combine: Callable[[Array], Array]) -> Array:
    ranks = len(sent)
    return sent[[rank if (other := partner(rank, ranks)) is None else other for rank in range(ranks)]]


def _in_a_pair(shape: Shape, rank: int, ranks: int) -> bool:
    return partner(rank, ranks) is not None and (shape["way"] == "ping_pong" or rank % 2 == 1)


COLLECTIVES = {c.name: c for c in (
    Collective("all_reduce", "All-reduce", lambda sent, _, combine: np.stack([combine(sent)] * len(sent)), cut=False,
               reduces=True),
    Collective("all_gather", "All-gather", lambda sent, _, __: np.stack([sent[:, 0]] * len(sent)), receives_all=True),
    Collective("reduce_scatter", "Reduce-scatter", lambda sent, _, combine: combine(sent)[:, None], sends_all=True,
               reduces=True),
    Collective("alltoall", "All-to-all", lambda sent, _, __: np.swapaxes(sent, 0, 1), sends_all=True, receives_all=True,
               no_place="an all-to-all has no in-place form"),
    Collective("sendrecv", "Send-receive", _from_partner, cut=False, no_place="a message cannot be received in place",
               shapes=({"way": "one_way"}, {"way": "ping_pong"}), receives=_in_a_pair))}
