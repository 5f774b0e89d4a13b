"""Run by mpirun: the fused kernels on random and on adversarial data. Compares each result bit for
bit with separate launches of compute and collective, and norms and products with fp64.

`fused_ranks.py EXAMPLES SEED [DEVICE [MEMORY [KERNEL ...]]]`; without KERNEL both kernels take
turns.

fp64 is the reference within roundings to the type and CHAIN, the relative error of an fp32 sum of a
row: at least four lanes add it up, so no term goes through more than 2400 additions. Rows of values
that overflow or are subnormal are only compared with the separate launches.
"""

import sys
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from collectives.build import Build
from collectives.collective import DATATYPES, Array, Datatype
from collectives.layers.fused import EPSILON, Gemv, GemvCase, Norm, NormCase
from collectives.layers.fused_forms import FUSED
from collectives.operation import CollectiveCase, Operation, Unsupported, World
from collectives.peer_buffer import set_epoch
from kernels.devices.device import Memory
from tests.ranks.world import ROUNDING, connect, launch, same_on_all_ranks

MOST = 300_000  # elements per buffer
ROOM_BYTES = 4 * MOST + 64
UNTOUCHED = 0xA5
CHAIN = 2400 * 2.0**-24
TYPES = ("float32", "float16", "bfloat16")
MATRICES = ("float16", "bfloat16", "int8")
SPITEFUL = (0.0, -0.0, 1e-45, -1e-40, 6e-8, 2.0**-14, 1.0, -448.0, 6e4, -3e6, 1e19, 3e38)


def drawn(
    draw: np.random.Generator, datatype: Datatype, shape: tuple[int, ...]
) -> tuple[Array, Array]:
    """Encoded values of all ranks, (ranks, rows, columns), and the rows that fp64 can judge. Each
    row is plain, or parts that nearly cancel, or zeros, or has an outlier, or is spiteful."""
    values: Array = draw.normal(size=shape) * 10.0 ** draw.integers(-3, 3, (shape[1], 1))
    kinds = draw.integers(0, 5, shape[1])
    parts = values[:, kinds == 1]
    parts[1:] = -parts[:-1] * (1 + draw.choice([0, 1e-3, 1e-7], parts[1:].shape))
    values[:, kinds == 1] = parts
    values[:, kinds == 2] *= 0.0
    values[:, kinds == 3, draw.integers(shape[2])] *= 10
    with np.errstate(over="ignore"):
        spiteful = datatype.decode(datatype.encode(np.array(SPITEFUL)))
    values[:, kinds == 4] = draw.choice(spiteful, values[:, kinds == 4].shape)
    return datatype.encode(values), kinds != 4


def wrong_of_norm(
    datatype: Datatype, values: Array, weight: Array, residual_out: Array, normed: Array
) -> str | None:
    """All arrays are decoded; `values` has the ranks' parts and then the residual, (ranks + 1,
    tokens, hidden)."""
    u = ROUNDING[datatype.name] + len(values) * 2.0**-24
    near = np.abs(residual_out - values.sum(axis=0)) <= 2 * u * np.abs(values).sum(axis=0) + 1e-7
    squares = np.mean(residual_out * residual_out, axis=-1, keepdims=True)
    want = residual_out / np.sqrt(squares + EPSILON) * weight
    is_near = np.abs(normed - want) <= np.abs(want) * (u + CHAIN) + 1e-7
    wrong = (near.all(), "residual_out"), (is_near.all(), "normed rows")
    return next((f"{name} are not near fp64" for right, name in wrong if not right), None)


def wrong_of_products(
    datatype: Datatype,
    values: list[Array],
    got: Array,
) -> str | None:
    """Compares a rank's products with fp64's, rounded once to the type: `values` are the decoded
    activations (tokens, terms), the matrix (hidden, terms) and the scales of its rows. At least
    four lanes add up a row in fp32."""
    activations, matrix, scales = values
    chain = (matrix.shape[1] / 4 + 16) * 2.0**-24
    error = chain * (np.abs(activations) @ np.abs(matrix).T * scales) + 1e-40
    exact = activations @ matrix.T * scales
    with np.errstate(over="ignore"):
        least, most = (datatype.rounded(exact + sign * error) for sign in (-1, 1))
    is_right = ((least <= got) & (got <= most)) | ~np.isfinite(exact)
    return None if is_right.all() else "products are not near fp64"


@dataclass
class Bed:
    """The buffers of a rank, which all its peers map; the methods fill and read them and run
    kernels on them."""

    world: World
    rooms: dict[str, Memory]
    touched: bool = False  # some bytes around a result

    def fill(
        self,
        name: str,
        stored: Array,
        shift_bytes: int = 0,
    ) -> int:
        """Writes `stored` into a buffer and returns its address."""
        self.rooms[name].write(np.ascontiguousarray(stored).view(np.uint8).ravel(), shift_bytes)
        return self.rooms[name].address + shift_bytes

    def clear(
        self,
        name: str,
        shift_bytes: int = 0,
    ) -> int:
        self.rooms[name].write(np.full(ROOM_BYTES, UNTOUCHED, np.uint8))
        return self.rooms[name].address + shift_bytes

    def read(
        self, name: str, datatype: Datatype, shape: tuple[int, ...], shift_bytes: int = 0
    ) -> Array:
        whole, size = self.rooms[name].read(), int(np.prod(shape)) * datatype.size_bytes
        end = shift_bytes + size
        around = np.concatenate([whole[:shift_bytes], whole[end:ROOM_BYTES]])
        self.touched = self.touched or bool((around != UNTOUCHED).any())
        stored: Array = whole[shift_bytes:end].view(datatype.storage)
        return stored.reshape(shape)

    def perform(
        self,
        kernel: str,
        form: str,
        case: CollectiveCase,
        times: int = 1,
    ) -> None:
        operation = FUSED[kernel][form].bind(self.world, case)
        assert isinstance(operation, Operation), operation
        launch(self.world.device, operation.step, times)


def alike(
    a: Array,
    b: Array,
    datatype: Datatype,
) -> bool:
    """Whether all bits are equal; NaNs may carry different payloads."""
    return bool(((a == b) | (np.isnan(datatype.decode(a)) & np.isnan(datatype.decode(b)))).all())


@dataclass
class NormExample:
    """Encoded inputs of all ranks, and where they lie."""

    case: NormCase  # still lacks its addresses
    values: Array  # the ranks' parts and the residual, (ranks + 1, tokens, hidden)
    weight: Array
    shifts: list[int]  # in bytes, of send, residual, residual_out, receive and weight
    in_place: bool

    def results(
        self,
        bed: Bed,
        form: str,
        times: int = 1,
    ) -> list[Array]:
        """The normed rows and the new residual."""
        rank, shifts, case = bed.world.communicator.rank, self.shifts, self.case
        tokens, hidden = self.values.shape[1:]
        rooms = "residual", "residual_out", "receive"
        at = {room: bed.clear(room, shifts[i]) for i, room in enumerate(rooms, 1)}
        out = 1 if self.in_place else 2
        norm = Norm(
            hidden=hidden,
            residual=bed.fill("residual", self.values[-1], shifts[1]),
            residual_out=at[rooms[out - 1]],
            weight=bed.fill("weight", self.weight, shifts[4]),
        )
        case = replace(
            case,
            send=bed.fill("send", self.values[rank], shifts[0]),
            receive=at["receive"],
            summed=bed.rooms["summed"].address + shifts[4],
            build=case.build if form.startswith("fused") else Build(),
            norm=norm,
        )
        bed.perform("allreduce_rmsnorm", form, case, times)
        return [
            bed.read("receive", case.datatype, (tokens, hidden), shifts[3]),
            bed.read(rooms[out - 1], case.datatype, (tokens, hidden), shifts[out]),
        ]


def norm_case(
    tokens: int,
    hidden: int,
    datatype: Datatype,
    variant: str,
    build: Build,
) -> NormCase:
    """An all-reduce of rows and their norms, in buffers that `NormExample` finds."""
    return NormCase(
        tokens * hidden,
        datatype,
        0,
        0,
        variant=variant,
        build=build,
        norm=Norm(),
        summed=0,
    )


def norm_example(
    bed: Bed, draw: np.random.Generator, datatype: Datatype, variant: str
) -> tuple[str, str | None, list[Array]]:
    """Runs a random example. Returns its description, the error on this rank, and the results that
    all ranks share."""
    ranks, rank = bed.world.communicator.size, bed.world.communicator.rank
    size = datatype.size_bytes
    hidden = int(draw.choice([1, 17, 64, 1000, 4096, 8191, 8192, int(draw.integers(1, 9000))]))
    tokens = min(int(draw.choice([1, 2, 5, 37, 300])), MOST // hidden)
    in_place, times = bool(draw.random() < 0.4), int(draw.integers(1, 4))
    shifts = np.roll(draw.choice([0, 0, 16 // size, 1, 3], 5), rank) * size  # differ by rank
    build = Build(chunk_bytes=[None, None, 64 << 10][draw.integers(3)])
    case = norm_case(tokens, hidden, datatype, variant, build)
    values, plain = drawn(draw, datatype, (ranks + 1, tokens, hidden))
    weight = datatype.encode(draw.normal(size=hidden))
    example = NormExample(case, values, weight, shifts.tolist(), in_place)
    description = (
        f"allreduce_rmsnorm {variant} {datatype.name} {tokens} x {hidden} in place {in_place} "
        f"x {times}"
    )
    results = example.results(bed, "fused", 1 if in_place else times)
    normed, residual_out = map(datatype.decode, results)
    inputs = datatype.decode(values)[:, plain], datatype.decode(weight)
    wrong = wrong_of_norm(datatype, *inputs, residual_out[plain], normed[plain])
    others = ["then_one_shot_pull", *(["fused_push"] if variant == "copied" else [])]
    pairs = [
        pair for form in others for pair in zip(results, example.results(bed, form), strict=True)
    ]
    same = all(alike(*two, datatype) for two in pairs)
    wrong = wrong or (None if same else "other bits than two launches, or than pushed rows")
    return description, wrong, results


def wrong_squares(bed: Bed) -> str | None:
    """CPUs round each square before they add it: compares rows of ones and then of one other number
    with fp32 sums, of lanes that each add 4, 8 or 16 squares of both."""
    ranks, rows, float32 = bed.world.communicator.size, 200, DATATYPES["float32"]
    values = np.zeros((ranks + 1, rows, 128), np.float32)
    values[0] = 1
    values[0, :, 64:] = np.random.default_rng(1).uniform(1, 2, (rows, 1))
    case = NormCase(rows * 128, float32, 0, 0, norm=Norm(), summed=0)
    example = NormExample(case, values, np.ones(128, np.float32), [0] * 5, False)
    number = values[0, :, 64]
    wants = []
    for adds in (4, 8, 16):
        summed = np.full(rows, adds, np.float32)
        for _ in range(adds):
            summed += number * number
        mean = summed / np.float32(2 * adds)
        wants.append(number * (np.float32(1) / np.sqrt(mean + np.float32(EPSILON))))
    for form in ("fused", "then_one_shot_pull"):
        got = example.results(bed, form)[0][:, 64]
        if not any(np.array_equal(got, want) for want in wants):
            return f"{form} adds squares that it has not rounded"
    return None


def gemv_example(
    bed: Bed, draw: np.random.Generator, turn: int
) -> tuple[str, str | None, list[Array]]:
    """Like `norm_example`, for a GEMV. `turn` sets the types and tokens: each combination compiles
    its own kernels."""
    ranks, rank = bed.world.communicator.size, bed.world.communicator.rank
    datatype, weight_type = DATATYPES[TYPES[turn % 3]], MATRICES[turn // 3 % 3]
    tokens, times = 1 + turn % 8, int(draw.integers(1, 4))
    hidden = 64 * int(draw.choice([1, 2, 5, 16, 31]))
    inner = min(64 * int(draw.choice([1, 2, 3, 16, 60])), MOST // hidden // 64 * 64)
    inputs, plain = drawn(draw, datatype, (ranks, tokens, inner))
    if weight_type == "int8":
        weights = draw.integers(-127, 128, (ranks, hidden, inner)).astype(np.int8)
        scales = draw.lognormal(-4, 2, (ranks, hidden)).astype(np.float32)
    else:
        weights = DATATYPES[weight_type].encode(draw.normal(size=(ranks, hidden, inner)))
        scales = np.ones((ranks, hidden), np.float32)
    layer = Gemv(
        hidden=hidden,
        inner=inner,
        copies=1,
        stride=inner,
    )
    layer.weights = bed.fill("weight", weights[rank])
    layer.row_scales = bed.fill("residual", scales[rank])
    layer.activations = bed.fill("summed", inputs[rank])
    case = GemvCase(
        tokens * hidden,
        datatype,
        bed.clear("send"),
        bed.clear("receive"),
        weight_type=DATATYPES[weight_type],
        layer=layer,
    )
    bed.perform("gemv_allreduce", "fused", case, times)
    result = bed.read("receive", datatype, (tokens, hidden))
    case = replace(case, receive=bed.clear("receive"))
    bed.perform("gemv_allreduce", "then_one_shot_pull", case)
    parted = bed.read("receive", datatype, (tokens, hidden))
    products = datatype.decode(bed.read("send", datatype, (tokens, hidden)))
    matrix = DATATYPES[weight_type].decode(weights[rank])
    values = [datatype.decode(inputs[rank])[plain], matrix, scales[rank].astype(np.float64)]
    wrong = wrong_of_products(datatype, values, products[plain])
    wrong = wrong or (None if alike(result, parted, datatype) else "other bits than two launches")
    shape = f"{tokens} x {inner} x {hidden}"
    description = f"gemv_allreduce {datatype.name} {weight_type} {shape} x {times}"
    return description, wrong, [result]


def open_bed(world: World) -> Bed:
    names = ("send", "receive", "residual", "residual_out", "summed", "weight")
    return Bed(world, {name: world.mapped.register(ROOM_BYTES) for name in names})


def main(examples: int, seed: int, device: str = "cpu", memory: str = "auto", *chosen: str) -> None:
    kernels = chosen or list(FUSED)
    world, watch = connect(30.0, device, memory, WT_STREAM_SLAB=seed % 2)
    assert not isinstance(world.peers, Unsupported)
    bed = open_bed(world)
    set_epoch(world.peers, 2**32 - 1 - examples // 2)  # the epoch wraps halfway
    world.communicator.barrier()
    if world.device.is_cpu and "allreduce_rmsnorm" in kernels:
        wrong = same_on_all_ranks(world, watch, wrong_squares(bed))
        assert not wrong, wrong
    draw = np.random.default_rng(seed)
    for number in range(examples):
        turn, variant = number // 2 % 6, ("copied", "registered")[draw.integers(2)]
        example: tuple[str, str | None, Any]
        if kernels[number % len(kernels)] == "gemv_allreduce":
            example = gemv_example(bed, draw, 6 * seed + turn)
        else:
            example = norm_example(bed, draw, DATATYPES[TYPES[turn % 3]], variant)
        description, wrong, results = example
        wrong = "wrote around a buffer" if bed.touched else wrong
        wrong = same_on_all_ranks(world, watch, wrong, *results)
        assert not wrong, f"{description}: {wrong}"
    if world.communicator.rank == 0:
        print(f"{examples} examples right on {world.communicator.size} ranks")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
