"""Two-shot all-reduce over a quantised wire.

See kernels/allreduce_two_shot_quantized.cu and kernels/include/quantize.h. The result is not a sum
with one rounding; `Wire.expected_sum` defines it exactly, so that every element can be checked.
"""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from collectives.collective import Array
from collectives.operation import (
    Algorithm,
    Case,
    Lossy,
    Operation,
    Traffic,
    Unsupported,
    World,
    bind_kernel,
)
from collectives.peer_buffer import HALF_BYTES
from collectives.quantized.signal_to_noise import signal_to_noise_db

BLOCK = 32  # elements that share a scale
DATATYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class Wire:
    """A format on the wire. `element` is its name in quantize.h; a code has `bits` bits and stands
    for `largest` at most."""

    name: str
    element: str
    bits: int
    largest: int

    def wire_bytes(self, count: int) -> int:
        """The bytes of `count` elements with their scales of two bytes."""
        return count * self.bits // 8 + count // BLOCK * 2

    def rounded(self, blocks: Array) -> Array:
        """The values that codes and scales represent, from float32 blocks (..., BLOCK). It follows
        quantize.h step by step and rounds each step to float32."""
        with np.errstate(all="ignore"):
            largest = np.abs(blocks).max(-1, keepdims=True, initial=0)
            exact = largest * np.float32(1 / np.float32(self.largest))
            scale = exact.astype(np.float16)
            next_scale = np.nextafter(scale, np.float16(np.inf))
            scale = np.where(scale.astype(np.float32) < exact, next_scale, scale)
            scale = np.where(np.isfinite(scale), scale, np.float16(np.nan)).astype(np.float32)
            scaled = blocks * np.where(scale > 0, np.float32(1) / scale, np.float32(0))
            size = np.fmin(np.abs(scaled), np.float32(self.largest))
            is_fp8 = self.name == "fp8"
            # e4m3 has four significant bits, down to steps of 2^-9.
            step = np.exp2(np.maximum(np.frexp(size)[1] - 4, -9)) if is_fp8 else 1
            code = np.copysign(np.rint(size / step) * step, scaled).astype(np.float32)
            return np.asarray((code if is_fp8 else code + np.float32(0)) * scale)  # no integer -0

    def expected_sum(self, redop: str, inputs: Array) -> Array:
        """The result from all ranks' decoded blocks, (ranks, ..., BLOCK), in float32, before it is
        rounded to the datatype."""
        with np.errstate(all="ignore"):
            total, *others = map(self.rounded, inputs.astype(np.float32))
            for other in others:
                total = total + other
            if redop == "avg":
                total = total * np.float32(1 / np.float32(len(inputs)))
            return self.rounded(total)


def _bind(wire: Wire, world: World, case: Case) -> Operation | Unsupported:
    if case.datatype.name not in DATATYPES:
        return Unsupported(f"only {', '.join(DATATYPES)} can be quantised, not "
                           f"{case.datatype.name}")
    if case.redop not in ("sum", "avg"):
        return Unsupported(f"only sum and avg can be quantised, not {case.redop}")
    if case.count % BLOCK:
        return Unsupported(f"only whole blocks of {BLOCK} elements can be quantised",
                           depends_on_size=True)
    # A half holds two chunks and two segments of sums as codes and scales; each is rounded up by at
    # most 256 bytes.
    room = (HALF_BYTES - 8192) / (2 + 2 / world.communicator.size)
    room *= BLOCK * case.datatype.size_bytes / wire.wire_bytes(BLOCK)
    operation = bind_kernel(world, case, "allreduce_two_shot_quantized", "two_shot_quantized",
                            room, {"WIRE": wire.element})
    if isinstance(operation, Unsupported):
        return operation
    loss = partial(signal_to_noise_db, world, partial(_bind, wire), case)
    return replace(operation, lossy=Lossy(partial(wire.expected_sum, case.redop), loss))


def _traffic(wire: Wire, ranks: int, case: Case) -> Traffic:
    wire_bytes = wire.wire_bytes(case.count)
    own = wire_bytes // ranks
    others = wire_bytes - own
    stages = ((others, 0), (own, others), (0, others)) if ranks > 1 else ()
    return Traffic(2, stages, case.segment_bytes)


WIRES = (Wire("int8", "Int8Blocks", 8, 127), Wire("fp8", "Fp8Blocks", 8, 448),
         Wire("int4", "Int4Blocks", 4, 7))
ALGORITHMS = tuple(
    Algorithm(f"two_shot_{wire.name}", f"lossy: two_shot over {wire.name} in blocks of {BLOCK}",
              partial(_bind, wire), partial(_traffic, wire)) for wire in WIRES)
