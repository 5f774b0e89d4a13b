"""Two-shot all-reduces over a quantised wire: lossy, and measured only by name. See
kernels/allreduce_two_shot_quantized.cu. `Wire.expected_sum` defines each element's exact result."""

from dataclasses import dataclass, replace
from functools import partial, reduce

import numpy as np

from collectives.algorithms.allreduce_two_shot import two_shot_traffic
from collectives.binding import bind_kernel
from collectives.collective import Array, Datatype, Traffic, combined
from collectives.operation import Algorithm, Bound, Case, Unsupported, World
from kernels.devices.device import DeviceError

BLOCK = 32  # elements that share a scale
GPU_PACK_BYTES = 16
DATATYPES = ("float32", "float16", "bfloat16")
# Of a measurement of the loss: at most these bytes, at least these elements (one a channel).
LOSS_BYTES, LOSS_ELEMENTS = 1 << 20, 4096


@dataclass(frozen=True)
class Wire:
    """A format: its name in quantize.h, the bits of a code, and the largest value of a code."""

    name: str
    element: str
    bits: int
    largest: int

    def wire_bytes(self, count: int) -> int:
        """The bytes of `count` elements with their scales of two bytes."""
        return count * self.bits // 8 + count // BLOCK * 2

    def rounded(self, blocks: Array) -> Array:
        """What codes and scales represent, from float32 blocks (..., BLOCK). It follows quantize.h
        step by step and rounds each step to float32."""
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
        """The result from all ranks' decoded blocks, (ranks, ..., BLOCK), as float32."""
        with np.errstate(all="ignore"):
            total: Array = reduce(np.add, map(self.rounded, inputs.astype(np.float32)))
            if redop == "avg":
                total = total * np.float32(1 / np.float32(len(inputs)))
            return self.rounded(total)

    def refuses(self, world: World, case: Case) -> Unsupported | None:
        if case.datatype.name not in DATATYPES:
            return Unsupported(
                f"only {', '.join(DATATYPES)} can be quantised, not {case.datatype.name}"
            )
        if case.redop not in ("sum", "avg"):
            return Unsupported(f"only sum and avg can be quantised, not {case.redop}")
        return None

    def bind(self, world: World, case: Case) -> Bound:
        # Two chunks and two segments of sums as codes and scales, each rounded up by 256 B at most.
        if isinstance(world.peers, Unsupported):
            return world.peers
        is_aligned = world.device.is_cpu or (case.send | case.receive) % GPU_PACK_BYTES == 0
        reason = None if is_aligned else f"a GPU needs buffers at multiples of {GPU_PACK_BYTES} B"
        if reason := world.communicator.first_reason(reason):
            return Unsupported(reason)
        room = (world.peers.half_bytes - 8192) / (2 + 2 / world.communicator.size)
        room *= BLOCK * case.datatype.size_bytes / self.wire_bytes(BLOCK)
        bound = bind_kernel(
            world,
            case,
            "allreduce_two_shot_quantized",
            "two_shot_quantized",
            room,
            WT_WIRE_FORMAT=self.element,
        )
        if isinstance(bound, Unsupported):
            return bound
        return replace(
            bound,
            expected_sum=partial(self.expected_sum, case.redop),
            signal_to_noise_db=partial(self.signal_to_noise_db, world, case),
        )

    def traffic(self, ranks: int, case: Case) -> Traffic:
        return two_shot_traffic(ranks, case, self.wire_bytes(case.count))

    def signal_to_noise_db(self, world: World, case: Case, seed: int) -> dict[str, float]:
        """10 log10(sum of squares of the exact result / of the error) in dB, by kind of data; the
        exact result sums the stored inputs in fp64. Raises Refusal."""
        communicator, datatype = world.communicator, case.datatype
        count = max(LOSS_ELEMENTS, min(case.count, LOSS_BYTES // datatype.size_bytes))
        with communicator.all_or_none(DeviceError, MemoryError):
            send, receive = (world.device.private(count * datatype.size_bytes) for _ in range(2))
            operation = self.bind(
                world,
                replace(
                    case, count=count, send=send.address, receive=receive.address, in_place=False
                ),
            )
        assert not isinstance(operation, Unsupported), operation
        ratios_db = {}
        for number, kind in enumerate(("normal", "heavy-tailed", "outlier channels")):
            inputs = [
                _random_elements(kind, datatype, count, [seed, number, rank])
                for rank in range(communicator.size)
            ]
            with communicator.all_or_none(DeviceError):
                send.write(inputs[communicator.rank].view(np.uint8))
                operation.call()
                stored: Array = receive.read()[: count * datatype.size_bytes].view(datatype.storage)
            exact = combined([datatype.decode(values) for values in inputs], case.redop)
            noise = np.sum((datatype.decode(stored) - exact) ** 2)
            ratios_db[kind] = round(float(10 * np.log10(np.sum(exact**2) / noise)), 1)
        for memory in (send, receive):
            memory.close()
        return dict(communicator.broadcast(ratios_db))


def _random_elements(kind: str, datatype: Datatype, count: int, seed: list[int]) -> Array:
    """Normal; Student's t with 3 degrees of freedom; or every 64th channel 32 times as large."""
    draw = np.random.default_rng(seed)
    values = draw.standard_t(3, count) if kind == "heavy-tailed" else draw.normal(size=count)
    if kind == "outlier channels":
        values[::64] *= 32
    return datatype.encode(values)


WIRES = (
    Wire("int8", "Int8Blocks", 8, 127),
    Wire("fp8", "Fp8Blocks", 8, 448),
    Wire("int4", "Int4Blocks", 4, 7),
)
ALGORITHMS = {
    "all_reduce": tuple(
        Algorithm(
            f"two_shot_{wire.name}",
            f"lossy: two_shot over {wire.name} in blocks of {BLOCK}",
            wire.bind,
            wire.traffic,
            wire.refuses,
            whole_elements=BLOCK,
            is_lossy=True,
        )
        for wire in WIRES
    )
}
