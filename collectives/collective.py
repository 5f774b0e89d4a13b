"""What each collective means: its types and operations, its sizes, and what it must give."""

from dataclasses import dataclass
from typing import Any

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


DATATYPES = {
    t.name: t
    for t in (
        Datatype("float32", "Float32", 4, np.float32, True, 24),
        Datatype("float16", "Float16", 2, np.float16, True, 11),
        Datatype("bfloat16", "Bfloat16", 2, np.uint16, True, 8),
        Datatype("float64", "Float64", 8, np.float64, True, 53),
        Datatype("int32", "Int32", 4, np.int32, False),
        Datatype("int64", "Int64", 8, np.int64, False),
    )
}
# nccl-tests' names, and the short ones.
DATATYPE_ALIASES = {
    "float": "float32",
    "half": "float16",
    "double": "float64",
    "fp32": "float32",
    "fp16": "float16",
    "bf16": "bfloat16",
    "fp64": "float64",
}
REDOPS = ("sum", "prod", "min", "max", "avg")


def reason_against(datatype: Datatype, redop: str) -> str | None:
    """Why an operation is not defined for a type; None where it is."""
    if redop == "avg" and not datatype.is_float:
        return f"avg is not defined for {datatype.name}: the mean of integers is no integer"
    return None


def all_reduce_reference(inputs: list[Array], redop: str) -> Array:
    """What an all-reduce of decoded inputs gives, in float64 (integers: exactly, modulo the type, when encoded)."""
    with np.errstate(over="ignore", invalid="ignore"):
        combine = {"sum": np.add, "avg": np.add, "prod": np.multiply, "min": np.minimum, "max": np.maximum}[redop]
        result = inputs[0]
        for other in inputs[1:]:
            result = combine(result, other)
        return result / len(inputs) if redop == "avg" else result
