"""Run by mpirun: the fused kernels on random and on adversarial data. Compares each result with fp64 within an error
bound, and bit for bit with separate launches of compute and collective.

`fused_ranks.py EXAMPLES SEED [DEVICE [MEMORY [KERNEL ...]]]`; without KERNEL both kernels take turns.

Error bounds, with `u` for the relative rounding error of a type, and `f` = 2^-24 for fp32:
- A sum of n terms in fp32, in any order: (k + 1) f times the terms' magnitudes, if no term goes through more than k
  additions. At least four lanes add up a row of m terms, so k is at most m / 4 plus a small number.
- GEMV: u of each part, because each part is rounded to the wire type once, and u of the sum of parts.
- RMSNorm: the test checks two steps, each against the stored result of the step before. `residual_out` has two
  roundings to the type: the sum, and the sum plus the residual. `normed` has one rounding, and half of the error of the
  sum of squares.
Each rounding may also err by one smallest step. If a sum overflows the type or fp32, fp64 gives no reference, the bound
is infinite, and only the comparison with separate launches remains.
"""

import sys
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from collectives.build import Build
from collectives.collective import DATATYPES, Array, Datatype
from collectives.layers.fused import COLLECTIVE, EPSILON, FUSED, Gemv, GemvCase, Norm, NormCase
from collectives.operation import Case, Operation, Unsupported, World
from collectives.peer_buffer import set_epoch
from kernels.devices.device import Memory
from tests.ranks.world import ROUNDING, connect, launch

MOST = 300_000  # elements per buffer
ROOM_BYTES = 4 * MOST + 64
UNTOUCHED = 0xA5
F = 2.0**-24
TYPES = ("float32", "float16", "bfloat16")
MATRICES = ("float16", "bfloat16", "int8")
SMALLEST = {"float16": 2.0**-24, "bfloat16": 2.0**-133, "float32": 2.0**-149}
LARGEST = {"float16": 65504.0, "bfloat16": 3.38e38, "float32": 3.40e38}
BYTES = Datatype("codes", np.uint8, False)
SPITEFUL = (0.0, -0.0, 1e-45, -1e-40, 6e-8, 2.0**-14, 1.0, -448.0, 6e4, -3e6, 1e19, 3e38)
E4M3 = np.array(
    [(1 + m / 8) * 2.0 ** (e - 7) if e else m / 8 * 2.0**-6 for e in range(16) for m in range(8)][
        :127
    ]
)
KINDS = ("plain", "cancelling", "zeros", "outlier", "spiteful", "all")


def drawn(
    draw: np.random.Generator, datatype: Datatype, shape: tuple[int, ...], kind: str
) -> Array:
    """Encoded values of all ranks, shape (ranks, rows, ...). With kind `all`, each row draws its own kind."""
    values: Array = draw.normal(size=shape) * 10.0 ** draw.integers(-3, 3, (shape[1], 1))
    chosen = (
        draw.integers(0, 5, shape[1]) if kind == "all" else np.full(shape[1], KINDS.index(kind))
    )
    for row, number in enumerate(chosen):
        of_row = values[:, row]
        if KINDS[number] == "cancelling":
            of_row[1:] = -of_row[:-1] * (1 + draw.choice([0, 1e-3, 1e-7], of_row[1:].shape))
        elif KINDS[number] == "zeros":
            of_row[:] = draw.choice([0.0, -0.0], of_row.shape)
        elif KINDS[number] == "outlier":
            of_row[:, draw.integers(shape[2])] *= 1e4
        elif KINDS[number] == "spiteful":
            most = draw.integers(1, len(SPITEFUL) + 1)
            of_row[:] = np.array(SPITEFUL)[draw.integers(0, most, of_row.shape)]
    with np.errstate(over="ignore"):
        return datatype.encode(np.clip(values, -LARGEST[datatype.name], LARGEST[datatype.name]))


def chain(terms: int) -> float:
    """The bound of the relative error of an fp32 sum of `terms` terms."""
    return (terms / 4 + 64) * F


def beyond(got: Array, want: Array, bound: Array) -> str | None:
    """Describes the first element outside its bound; a bound of inf accepts every value."""
    wrong = np.argwhere(~((np.abs(got - want) <= bound) | np.isinf(bound)))
    if not len(wrong):
        return None
    at = tuple(wrong[0])
    return f"element {at} is {got[at]!r}, not {want[at]!r} within {bound[at]:.3g}; {len(wrong)} are wrong"


def wrong_of_norm(
    datatype: Datatype,
    parts: Array,
    residual: Array,
    weight: Array,
    residual_out: Array,
    normed: Array,
) -> str | None:
    """Describes the first wrong element. All arrays are decoded; `parts` has the shape (ranks, tokens, hidden)."""
    n, hidden = len(parts), parts.shape[-1]
    u, step, largest = ROUNDING[datatype.name], SMALLEST[datatype.name], LARGEST[datatype.name]
    summed, magnitude = parts.sum(axis=0), np.abs(parts).sum(axis=0)
    of_sum = magnitude * (u + (n + 1) * F) + step
    bound = (
        of_sum
        + (np.abs(summed + residual) + of_sum) * u
        + (magnitude + np.abs(residual)) * 2 * F
        + step
    )
    bound[(magnitude + np.abs(residual)) * 1.02 >= largest] = np.inf
    if error := beyond(residual_out, summed + residual, bound):
        return f"residual_out: {error}"
    squares = np.sum(residual_out * residual_out, axis=-1, keepdims=True)
    with np.errstate(invalid="ignore"):
        want = residual_out / np.sqrt(squares / hidden + EPSILON) * weight
    bound = np.abs(want) * (u + chain(hidden) / 2 + 8 * F) * 1.01 + step * (1 + np.abs(weight))
    bound[np.broadcast_to(squares * 1.02 >= 2.0**128, bound.shape) | ~np.isfinite(bound)] = np.inf
    bound[np.abs(want) * 1.02 >= largest] = np.inf
    if error := beyond(normed, want, bound):
        return f"normed: {error}"
    empty = ~residual_out.any(axis=-1)
    return "a row of zeros did not stay zero" if normed[empty].any() else None


def quantized(values: Array, kind: str) -> tuple[Array, Array]:
    """Codes and scales of decoded rows, as norm.h computes them: in fp32, to the nearest code, ties to even."""
    rows, most = values.astype(np.float32), np.float32({"int8": 127, "fp8": 448}[kind])
    largest = np.abs(rows).max(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        scales = np.where(np.isfinite(largest), largest / most, np.float32(np.nan))
        scales = np.where(scales < np.float32(2.0**-126), np.float32(0), scales)
        inverse = np.where(scales > 0, np.float32(1) / scales, np.float32(0))
        scaled = rows * inverse[:, None]
        sizes = np.minimum(np.nan_to_num(np.abs(scaled)), most)
    if kind == "int8":
        codes = np.copysign(np.rint(sizes), scaled).astype(np.int8).view(np.uint8)
    else:
        between = (E4M3[1:].astype(np.float64) + E4M3[:-1]) / 2
        code = np.searchsorted(between, sizes)
        code += (code % 2 == 1) & (sizes == np.append(between, np.inf)[code])
        codes = (code | np.signbit(scaled) << 7).astype(np.uint8)
    codes[~np.isfinite(scales)] = 0
    return codes, scales


def wrong_of_gemv(
    datatype: Datatype, weights: Array, scales: Array, activations: Array, outputs: Array
) -> str | None:
    """Describes the first wrong element. Arrays are decoded: `weights` (ranks, hidden, inner), row `scales` (ranks,
    hidden), `activations` (ranks, tokens, inner)."""
    n, inner = len(weights), weights.shape[-1]
    u, step, largest = ROUNDING[datatype.name], SMALLEST[datatype.name], LARGEST[datatype.name]
    parts = np.stack([x @ w.T * s for w, s, x in zip(weights, scales, activations, strict=True)])
    magnitudes = np.stack(
        [np.abs(x) @ np.abs(w).T * s for w, s, x in zip(weights, scales, activations, strict=True)]
    )
    lost = magnitudes.sum(axis=0) * (chain(inner) + (n + 2) * F) + inner * 2.0**-149 * max(
        1, scales.max()
    )
    bound = lost + 2.02 * u * (np.abs(parts).sum(axis=0) + lost) + (n + 1) * step
    unscaled = magnitudes / scales[:, None, :]
    bound[
        (magnitudes.sum(axis=0) * 1.02 >= largest) | (unscaled.max(axis=0) * 1.02 >= 2.0**128)
    ] = np.inf
    return beyond(outputs, parts.sum(axis=0), bound)


@dataclass
class Bed:
    """The buffers of a rank, which all its peers map; the methods fill and read them and run kernels on them."""

    world: World
    rooms: dict[str, Memory]
    turn: int = 0  # of the operations for different states of the link

    def fill(self, name: str, stored: Array, shift_bytes: int = 0) -> int:
        """Writes `stored` into a buffer and returns its address."""
        self.rooms[name].write(np.ascontiguousarray(stored).view(np.uint8).ravel(), shift_bytes)
        return self.rooms[name].address + shift_bytes

    def clear(self, name: str, shift_bytes: int = 0) -> int:
        self.rooms[name].write(np.full(ROOM_BYTES, UNTOUCHED, np.uint8))
        return self.rooms[name].address + shift_bytes

    def read(
        self, name: str, datatype: Datatype, shift_bytes: int, shape: tuple[int, ...]
    ) -> tuple[Array, bool]:
        """The content of a buffer, and whether the bytes around it are unchanged."""
        whole, size = self.rooms[name].read(), int(np.prod(shape)) * datatype.size_bytes
        around = np.concatenate([whole[:shift_bytes], whole[shift_bytes + size : ROOM_BYTES]])
        stored: Array = (
            whole[shift_bytes : shift_bytes + size].view(datatype.storage).reshape(shape)
        )
        return stored, bool((around == UNTOUCHED).all())

    def perform(self, kernel: str, form: str, case: Case, times: int) -> str | None:
        """Runs a form of a kernel `times` times. Returns the reason if the form is unsupported."""
        operation = FUSED[kernel][form].bind(self.world, case)
        if isinstance(operation, Unsupported):
            return operation.reason
        assert isinstance(operation, Operation)
        if isinstance(case, NormCase) and form == "fused" and case.variant == "registered":
            tokens, ranks = case.count // case.norm.hidden, self.world.communicator.size
            assert bool(operation.by_link) == (self.world.device.near_peers and tokens >= ranks)
        if operation.by_link:
            self.turn += 1
            operation = list(operation.by_link.values())[self.turn % len(operation.by_link)]
        launch(self.world.device, operation.step, times)
        return None


def alike(a: Array, b: Array, datatype: Datatype) -> bool:
    """Whether all bits are equal; NaNs may carry different payloads."""
    return bool(((a == b) | (np.isnan(datatype.decode(a)) & np.isnan(datatype.decode(b)))).all())


def norm_example(
    bed: Bed, draw: np.random.Generator, datatype: Datatype, variant: str
) -> tuple[str, str | None, Any]:
    """Runs a random example. Returns its description, the error on this rank, and the results that all ranks share."""
    ranks, rank, size = (
        bed.world.communicator.size,
        bed.world.communicator.rank,
        datatype.size_bytes,
    )
    hidden = int(draw.choice([1, 17, 64, 1000, 4096, 8191, 8192, int(draw.integers(1, 9000))]))
    tokens = min(int(draw.choice([1, 2, 5, 37, 300])), MOST // hidden)
    kind, in_place, times = (
        KINDS[draw.integers(6)],
        bool(draw.random() < 0.4),
        int(draw.integers(1, 4)),
    )
    output = (None, "int8", "fp8")[draw.integers(3)] if hidden % 64 == 0 else None
    description = (
        f"allreduce_rmsnorm {variant} {datatype.name} {tokens} x {hidden} {kind} in place {in_place} "
        f"x {times} output {output}"
    )
    values = drawn(draw, datatype, (ranks + 1, tokens, hidden), kind)
    weight = datatype.encode(draw.normal(size=hidden))
    shifts = [
        int(shift) * size for shift in np.roll(draw.choice([0, 0, 16 // size, 1, 3], 5), rank)
    ]  # differ by rank
    build = Build(chunk_bytes=[None, None, 64 << 10][draw.integers(3)])
    of_weight, of_send = (
        bed.fill("weight", weight, shifts[4]),
        bed.fill("send", values[rank], shifts[0]),
    )

    def form(name: str, times: int) -> tuple[str | None, list[Array], bool, list[Array]]:
        out = "residual" if in_place else "residual_out"
        at = {
            room: bed.clear(room, shifts[i])
            for i, room in ((1, "residual"), (2, "residual_out"), (3, "receive"))
        }
        bed.fill("residual", values[-1], shifts[1])
        case = NormCase(
            COLLECTIVE["allreduce_rmsnorm"],
            tokens * hidden,
            datatype,
            "sum",
            of_send,
            at["receive"],
            variant=variant,
            build=build if name == "fused" else Build(),
            norm=Norm(
                hidden=hidden,
                residual=at["residual"],
                residual_out=at[out],
                weight=of_weight,
                codes=bed.clear("codes"),
                scales=bed.clear("scales"),
            ),
            summed=bed.rooms["summed"].address + shifts[4],
            quantized=output,
        )
        reason = bed.perform("allreduce_rmsnorm", name, case, times)
        places = (("receive", 3), (out, 1 if in_place else 2))
        results = [bed.read(room, datatype, shifts[i], (tokens, hidden)) for room, i in places]
        rows = tokens if output else 0
        codes = [
            bed.read("codes", BYTES, 0, (rows, hidden)),
            bed.read("scales", DATATYPES["float32"], 0, (rows,)),
        ]
        return (
            reason,
            [stored for stored, _ in results],
            all(unchanged for _, unchanged in results + codes),
            [stored for stored, _ in codes],
        )

    reason, fused_results, untouched, codes = form("fused", 1 if in_place else times)
    if reason:
        return description, reason, None
    decoded = datatype.decode(values)
    wrong = None if untouched else "wrote around a buffer"
    wrong = wrong or wrong_of_norm(
        datatype,
        decoded[:-1],
        decoded[-1],
        datatype.decode(weight),
        *(datatype.decode(stored) for stored in reversed(fused_results)),
    )
    if output and not wrong:
        exact = [
            np.array_equal(a, b, equal_nan=a.dtype == np.float32)
            for a, b in zip(
                codes, quantized(datatype.decode(fused_results[0]), output), strict=True
            )
        ]
        wrong = None if all(exact) else f"numpy has other codes or scales: alike are {exact}"
    for name in ("then_one_shot_pull", "then_two_shot"):
        reason, parted, _, parted_codes = form(name, 1)
        same = all(
            alike(*two, datatype) for two in zip(fused_results, parted, strict=True)
        ) and all(a.tobytes() == b.tobytes() for a, b in zip(codes, parted_codes, strict=True))
        wrong = wrong or (reason if reason else None if same else f"other bits than {name}")
    return description, wrong, [stored.tobytes() for stored in fused_results + codes]


def gemv_example(
    bed: Bed, draw: np.random.Generator, turn: int, variant: str
) -> tuple[str, str | None, Any]:
    """Like `norm_example`, for a GEMV. `turn` sets the types and tokens: each combination compiles its own kernels."""
    ranks, rank = bed.world.communicator.size, bed.world.communicator.rank
    datatype, weight_type, tokens = (
        DATATYPES[TYPES[turn % 3]],
        MATRICES[turn // 3 % 3],
        1 + turn % 8,
    )
    hidden = 64 * int(draw.choice([1, 2, 5, 16, 31]))
    inner = min(64 * int(draw.choice([1, 2, 3, 16, 60])), MOST // hidden // 64 * 64)
    kind, times = KINDS[draw.integers(6)], int(draw.integers(1, 4))
    description = (
        f"gemv_allreduce {variant} {datatype.name} {weight_type} {tokens} x {inner} x {hidden} {kind} "
        f"x {times}"
    )
    inputs = drawn(draw, datatype, (ranks, tokens, inner), kind)
    if weight_type == "int8":
        weights = draw.integers(-127, 128, (ranks, hidden, inner)).astype(np.int8)
        values, scales = (
            weights.astype(np.float64),
            draw.lognormal(-4, 2, (ranks, hidden)).astype(np.float32),
        )
    else:
        weights = drawn(
            draw, DATATYPES[weight_type], (ranks, hidden, inner), draw.choice(KINDS[:4])
        )
        values, scales = (
            DATATYPES[weight_type].decode(weights),
            np.ones((ranks, hidden), np.float32),
        )
    case = GemvCase(
        COLLECTIVE["gemv_allreduce"],
        tokens * hidden,
        datatype,
        "sum",
        bed.rooms["send"].address,
        bed.clear("receive"),
        variant=variant,
        tokens=tokens,
        weight_type=weight_type,
        layer=Gemv(
            hidden=hidden,
            inner=inner,
            weights=bed.fill("weight", weights[rank]),
            copies=1,
            stride=inner,
            row_scales=bed.fill("residual", scales[rank]),
            activations=bed.fill("summed", inputs[rank]),
        ),
    )
    if reason := bed.perform("gemv_allreduce", "fused", case, times):
        return description, reason, None
    result, untouched = bed.read("receive", datatype, 0, (tokens, hidden))
    with np.errstate(over="ignore", invalid="ignore"):
        wrong = wrong_of_gemv(
            datatype, values, scales, datatype.decode(inputs), datatype.decode(result)
        )
    wrong = wrong or (None if untouched else "wrote around a buffer")
    bed.perform(
        "gemv_allreduce", "then_one_shot_pull", replace(case, receive=bed.clear("receive")), 1
    )
    parted = bed.read("receive", datatype, 0, (tokens, hidden))[0]
    return (
        description,
        wrong or (None if alike(result, parted, datatype) else "other bits than in two launches"),
        [result.tobytes()],
    )


def main(examples: int, seed: int, device: str = "cpu", memory: str = "auto", *chosen: str) -> None:
    kernels = chosen or list(FUSED)
    world, watch = connect(30.0, device, memory, STREAM_SLAB=seed % 2)
    communicator, peers = world.communicator, world.peers
    assert not isinstance(peers, Unsupported)
    names = ("send", "receive", "residual", "residual_out", "summed", "weight", "codes", "scales")
    bed = Bed(world, {name: peers.register(ROOM_BYTES) for name in names})
    set_epoch(peers, 2**32 - 1 - examples // 2)  # the epoch wraps halfway
    communicator.barrier()
    draw = np.random.default_rng(seed)
    for example in range(examples):
        turn, variant = example // 2 % 6, ("copied", "registered")[draw.integers(2)]
        if kernels[example % len(kernels)] == "gemv_allreduce":
            description, wrong, bits = gemv_example(bed, draw, 6 * seed + turn, variant)
        else:
            description, wrong, bits = norm_example(bed, draw, DATATYPES[TYPES[turn % 3]], variant)
        wrong = f"rank {watch.peer} never came" if watch.timed_out else wrong
        everyone = communicator.all_gather((wrong, bits))
        wrong = next((f"rank {r}: {word}" for r, (word, _) in enumerate(everyone) if word), None)
        wrong = wrong or (
            "ranks got different bits" if any(b != bits for _, b in everyone) else None
        )
        assert not wrong, f"{description}: {wrong}"
    if communicator.rank == 0:
        print(f"{examples} examples right on {communicator.size} ranks")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
