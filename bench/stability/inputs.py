"""Inputs whose sums round, and the distance of a result from the exact sum."""

import math
from functools import cache

import numpy as np

from collectives.collective import Array, Datatype
from reports.store.bits import Difference, Error

# The raw integers of PCG64 are part of numpy's promise; what its Generator makes of them is not.
DATA, MOST = "PCG64 raw, magnitudes 1 to 16, one message of each size", 16
MANTISSA_BITS = {"float32": 23, "float64": 52, "float16": 10, "bfloat16": 7}
ONE = np.uint64(1023)  # the exponent of 1.0 in float64
SIGNED, POSITIVE = "signed", "positive"


@cache
def draw(seed: tuple[int, ...], count: int) -> Array:
    """`count` numbers in float64, of four binades; a longer draw begins with a shorter one."""
    raw = np.random.PCG64(list(seed)).random_raw(count)
    exponent = (raw >> 61 & 3) + ONE
    sign = raw >> 63 << 63
    numbers: Array = (sign | exponent << 52 | raw & (1 << 52) - 1).view(np.float64)
    numbers.flags.writeable = False  # the cache has it
    return numbers


def place_on_line(stored: Array, datatype: Datatype) -> Array:
    """The place of each stored float among all floats of its type, 0 for +0 and -0."""
    bits = stored.view(f"i{datatype.size_bytes}").astype(np.int64)
    least = -(1 << 8 * datatype.size_bytes - 1)
    places: Array = np.where(bits < 0, least - bits, bits)
    return places


def difference(one: Array, other: Array, datatype: Datatype, rounding: float | Array) -> Difference:
    """How two stored results of one shape differ; beyond `rounding` one is wrong."""
    integers = f"u{datatype.size_bytes}"
    differs = one.view(integers) != other.view(integers)
    places = [place_on_line(each[differs], datatype) for each in (one, other)]
    with np.errstate(invalid="ignore"):  # of NaN and infinity, which are wrong
        apart = np.abs(datatype.decode(one[differs]) - datatype.decode(other[differs]))
    return Difference(
        elements=one.size,
        differ=int(differs.sum()),
        wrong=int((~(apart <= np.broadcast_to(rounding, one.shape)[differs])).sum()),
        ulp=int(np.abs(places[0] - places[1]).max(initial=0)),
    )


def exact_sums(parts: Array) -> Array:
    """The sums over the first axis in float64, rounded once."""
    return np.array([math.fsum(column) for column in parts.T.tolist()])


def error_of(parts: Array, got: Array, datatype: Datatype) -> Error:
    """The error of a stored result against the sum of decoded parts, (ranks, elements)."""
    exact, decoded = exact_sums(parts), datatype.decode(got)
    error = np.abs(exact_sums(np.vstack([parts, -decoded])))
    ulp = np.exp2(np.frexp(exact)[1] - 1.0 - MANTISSA_BITS[datatype.name])
    right = datatype.rounded(exact) == decoded
    return Error(
        mean_ulp=float((error / ulp).mean()),
        right=float(right.mean()),
    )
