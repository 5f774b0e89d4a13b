"""All-reduces over a quantised wire: lossy, and measured only by name. See
kernels/allreduce_one_shot_quantized.cu and kernels/allreduce_two_shot_quantized.cu.
`QuantizedSum.expected_sum` defines the exact result.

On one H100, without a wire, the two-shot forms lose: 16 MiB of fp32 take 72.5 us as int8, and 52.3
by `auto` (docs/experiments/runs/h100.tar.xz). They should win where a wire's bandwidth is the
bound, which nobody has measured. Nor has anybody measured the one-shot form on a GPU."""

from dataclasses import dataclass, replace
from functools import cache, partial, reduce

import numpy as np

from collectives.binding import bind_kernel
from collectives.collective import Array, Datatype, Traffic, combined
from collectives.operation import Bound, CollectiveCase, KernelAlgorithm, Limits, Unsupported, World
from collectives.traffic import direct_traffic, two_shot_traffic

BLOCK = 32  # elements that share a scale
GPU_PACK_BYTES = 16
DATATYPES = ("float32", "float16", "bfloat16")
LOSS_ELEMENTS = 1 << 16  # of a figure of the loss
KINDS = {"normal": 1, "outlier channels": 32}  # of data, with the factor of each 64th element


@dataclass(frozen=True)
class WireFormat:
    """Codes of so many bits, from -`largest` to `largest`."""

    bits: int

    @property
    def name(self) -> str:
        return f"int{self.bits}"

    @property
    def largest(self) -> int:
        return (1 << self.bits - 1) - 1

    def wire_bytes(self, count: int) -> int:
        """The bytes of `count` elements with their scales of two bytes."""
        return count * self.bits // 8 + count // BLOCK * 2

    def rounded(self, blocks: Array) -> Array:
        """What codes and scales represent, from float32 blocks (..., BLOCK). It follows quantize.h
        step by step and rounds each step to float32."""
        with np.errstate(all="ignore"):
            largest = np.abs(blocks).max(-1, keepdims=True, initial=0)
            exact = largest * (1 / self.largest)
            scale = exact.astype(np.float16)
            scale = np.where(scale < exact, np.nextafter(scale, np.float16(np.inf)), scale)
            scale = np.where(np.isfinite(scale), scale, np.nan).astype(np.float32)
            scaled = blocks * np.where(scale > 0, 1 / scale, np.float32(0))
            code = np.copysign(np.rint(np.fmin(np.abs(scaled), self.largest)), scaled)
            return np.asarray((code + 0) * scale)  # no -0


@dataclass(frozen=True)
class QuantizedSum:
    """The all-reduce of this form, named as its exact counterpart, over this wire."""

    form: str
    wire: WireFormat

    @property
    def name(self) -> str:
        return f"{self.form}_{self.wire.name}"

    @property
    def is_one_shot(self) -> bool:
        return self.form.startswith("one_shot")

    def expected_sum(self, redop: str, inputs: Array) -> Array:
        """The result from all ranks' decoded blocks, (ranks, ..., BLOCK), as float32: the sum of
        what the inputs' codes represent. Two shots round it to codes once more."""
        with np.errstate(all="ignore"):
            total: Array = reduce(np.add, map(self.wire.rounded, inputs.astype(np.float32)))
            if redop == "avg":
                total = total * (1 / len(inputs))
            return total if self.is_one_shot else self.wire.rounded(total)

    def refuses(self, world: World, case: CollectiveCase) -> Unsupported | None:
        if case.datatype.name in DATATYPES and case.redop in ("sum", "avg"):
            return None
        return Unsupported(f"only sum and avg of {', '.join(DATATYPES)} can be quantised")

    def bind(self, world: World, case: CollectiveCase) -> Bound:
        is_shifted = not world.device.is_cpu and (case.send | case.receive) % GPU_PACK_BYTES
        if any(world.communicator.all_gather(is_shifted)):
            return Unsupported(f"a GPU needs buffers at multiples of {GPU_PACK_BYTES} B")
        if self.is_one_shot:
            # A slot has room for a chunk's elements, and codes are narrower: see the kernel.
            room_bytes = world.mapped.half_bytes / (2 * world.ranks)
            thread_packs = BLOCK * case.datatype.size_bytes // GPU_PACK_BYTES
        else:
            # Two chunks of input and, pushed, two of sums, as codes and scales; each segment is
            # rounded up by 256 B at most.
            room = (world.mapped.half_bytes - 8192) / 4 * BLOCK * case.datatype.size_bytes
            room_bytes, thread_packs = room / self.wire.wire_bytes(BLOCK), 1
        kernel = self.form.replace("_shot", "_shot_quantized")
        bound = bind_kernel(
            world,
            case,
            f"allreduce_{kernel.removesuffix('_push')}",
            kernel,
            room_bytes,
            thread_packs,
            WT_WIRE_BITS=str(self.wire.bits),
        )
        if isinstance(bound, Unsupported):
            return bound
        return replace(
            bound,
            expected_sum=partial(self.expected_sum, case.redop),
            snr_db=signal_to_noise_db(self, case.datatype, case.redop, world.ranks),
        )

    def traffic(self, ranks: int, case: CollectiveCase) -> Traffic:
        wire_bytes = self.wire.wire_bytes(case.count)
        if self.is_one_shot:
            return direct_traffic(ranks, case, wire_bytes=wire_bytes)
        return two_shot_traffic(ranks, case, wire_bytes, "push" in self.form)


@cache
def signal_to_noise_db(
    quantized: QuantizedSum, datatype: Datatype, redop: str, ranks: int
) -> dict[str, float]:
    """10 log10(sum of squares of the exact result / of the error) in dB, by kind of data; the exact
    result sums the stored inputs in fp64. It depends on no machine."""
    ratios_db = {}
    for number, (kind, outlier) in enumerate(KINDS.items()):
        draws = [np.random.default_rng([number, rank]) for rank in range(ranks)]
        values = np.stack([draw.normal(size=LOSS_ELEMENTS) for draw in draws])
        values[:, ::64] *= outlier
        inputs = datatype.rounded(values)
        exact = combined(list(inputs), redop)
        result = quantized.expected_sum(redop, inputs.reshape(ranks, -1, BLOCK)).ravel()
        noise = np.sum((datatype.rounded(result) - exact) ** 2)
        ratios_db[kind] = round(float(10 * np.log10(np.sum(exact**2) / noise)), 1)
    return ratios_db


WIRES = (WireFormat(8), WireFormat(6), WireFormat(4))
FORMS = "one_shot_push", "two_shot", "two_shot_push"
QUANTIZED = {each.name: each for each in (QuantizedSum(f, w) for f in FORMS for w in WIRES)}
ALGORITHMS = {
    "all_reduce": tuple(
        KernelAlgorithm(
            name,
            f"lossy: {each.form} over {each.wire.name} in blocks of {BLOCK}",
            each.bind,
            each.traffic,
            each.refuses,
            limits=Limits(whole_elements=BLOCK),
            is_lossy=True,
            pushes="push" in each.form,
        )
        for name, each in QUANTIZED.items()
    )
}
