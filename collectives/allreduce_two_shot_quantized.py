"""Two-shot all-reduce over a quantised wire; see kernels/allreduce_two_shot_quantized.cu and kernels/quantize.h.

What comes out is no sum rounded once. `summed` says exactly what it is, for the check of every element.
"""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from collectives.collective import Array
from collectives.operation import Algorithm, Case, Operation, Traffic, Unsupported, World, bind_kernel
from collectives.peer_buffer import HALF_BYTES

BLOCK = 32  # elements that share a scale
DATATYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class Wire:
    """A format on the wire. `element` is its name in quantize.h; a code of so many `bits` stands for `largest` at
    most."""

    name: str
    element: str
    bits: int
    largest: int

    def wire_bytes(self, count: int) -> int:
        """Of so many elements, their scales of two bytes included."""
        return count * self.bits // 8 + count // BLOCK * 2

    def rounded(self, blocks: Array) -> Array:
        """What codes and scales make of float32 values: the last axis is a block. Step by step as quantize.h does it,
        each step rounded to float32."""
        with np.errstate(all="ignore"):
            exact = np.abs(blocks).max(-1, keepdims=True, initial=0) * np.float32(1 / np.float32(self.largest))
            scale = exact.astype(np.float16)
            scale = np.where(scale.astype(np.float32) < exact, np.nextafter(scale, np.float16(np.inf)), scale)
            scale = np.where(np.isfinite(scale), scale, np.float16(np.nan)).astype(np.float32)
            scaled = blocks * np.where(scale > 0, np.float32(1) / scale, np.float32(0))
            size = np.fmin(np.abs(scaled), np.float32(self.largest))
            # e4m3 has four significant bits, down to steps of 2^-9.
            step = np.exp2(np.maximum(np.frexp(size)[1] - 4, -9)) if self.name == "fp8" else 1
            code = np.copysign(np.rint(size / step) * step, scaled).astype(np.float32)
            return np.asarray((code if self.name == "fp8" else code + np.float32(0)) * scale)  # integers have no -0

    def summed(self, redop: str, inputs: Array) -> Array:
        """What every rank gets from all ranks' blocks, decoded, (ranks, ..., block): float32, before it is rounded to
        the type."""
        with np.errstate(all="ignore"):
            total, *others = map(self.rounded, inputs.astype(np.float32))
            for other in others:
                total = total + other
            return self.rounded(total * np.float32(1 / np.float32(len(inputs))) if redop == "avg" else total)


def _bind(wire: Wire, world: World, case: Case) -> Operation | Unsupported:
    if case.datatype.name not in DATATYPES:
        return Unsupported(f"{case.datatype.name} is not quantised: {', '.join(DATATYPES)} are")
    if case.redop not in ("sum", "avg"):
        return Unsupported(f"only sums and averages are quantised, and {case.redop} is neither")
    if case.count % BLOCK:
        return Unsupported(f"quantised are whole blocks of {BLOCK} elements", of_size=True)
    # A half holds two chunks and two segments of sums as codes and scales, each rounded up by no more than 256 bytes.
    room = (HALF_BYTES - 8192) / (2 + 2 / world.communicator.size)
    room *= BLOCK * case.datatype.size_bytes / wire.wire_bytes(BLOCK)
    world = replace(world, macros={**world.macros, "WIRE": wire.element})
    found = bind_kernel(world, case, "allreduce_two_shot_quantized", "two_shot_quantized", room)
    return found if isinstance(found, Unsupported) else replace(found, summed=partial(wire.summed, case.redop))


def _traffic(wire: Wire, ranks: int, case: Case) -> Traffic:
    wire_bytes = wire.wire_bytes(case.count)
    own = wire_bytes // ranks
    others = wire_bytes - own
    return Traffic(2, ((others, 0), (own, others), (0, others)) if ranks > 1 else (), case.segment_bytes)


WIRES = Wire("int8", "Int8Blocks", 8, 127), Wire("fp8", "Fp8Blocks", 8, 448), Wire("int4", "Int4Blocks", 4, 7)
QUANTIZED = tuple(Algorithm(f"two_shot_{wire.name}", f"lossy: two_shot over a wire of {wire.name} in blocks of {BLOCK}",
                            partial(_bind, wire), partial(_traffic, wire), lossy=True) for wire in WIRES)
