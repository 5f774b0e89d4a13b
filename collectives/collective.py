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


def all_reduce_error_bound(inputs: list[Array], redop: str, datatype: Datatype, wire_roundings: int) -> Array:
    """The largest error, element by element, that an all-reduce may have against float64.

    `wire_roundings` roundings to the type on the wire (1 for the one- and two-shot forms, one a hop for the ring) and
    one fp32 rounding (fp64 for float64) for each combination and each mean; Higham, Accuracy and Stability, section
    4.2: the error of a recursive sum is at most the roundings times the sum of magnitudes. Subnormal results may be off
    by one smallest step a rounding.
    """
    if not datatype.is_float or redop in ("min", "max"):
        return np.zeros_like(inputs[0], dtype=np.float64)
    n = len(inputs)
    accumulate = 2.0**-53 if datatype.name == "float64" else 2.0**-24
    if redop == "prod":
        magnitude = np.abs(all_reduce_reference(inputs, "prod"))
    else:
        magnitude = all_reduce_reference([np.abs(x) for x in inputs], "sum") / (n if redop == "avg" else 1)
    relative = (wire_roundings + 1) * datatype.rounding + (n + 2) * accumulate
    step = {"float16": 2.0**-24, "bfloat16": 2.0**-133, "float32": 2.0**-149, "float64": 2.0**-1074}[datatype.name]
    return magnitude * relative * 1.01 + wire_roundings * step * max(1, n)
