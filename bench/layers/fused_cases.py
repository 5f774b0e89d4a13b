"""The cases of allreduce_rmsnorm and gemv_allreduce, and the matrices of these and of `overlap`.
Data have a period of 31 elements, so that `bench.harness.verify` can check them bit by bit."""

from collections.abc import Iterator
from functools import partial

import numpy as np

from bench.harness.iteration import Segments, allocated, own_buffers
from bench.harness.session import Session, require_memory
from bench.harness.suite import Suite
from bench.harness.verify import PERIOD, Data
from bench.layers.forms import LayerOptions, bind_forms, scale_for
from collectives.collective import COLLECTIVES, DATATYPES, Array, Datatype
from collectives.layers import fused
from collectives.models import LAYERS, MODELS
from collectives.operation import MARGIN_BYTES, CollectiveCase
from kernels.devices.device import Memory

WEIGHT_BYTES = 256 << 20  # of a GPU's copies of a matrix: more than any last-level cache holds
NORM_WEIGHT = 1.5
ROW_SCALE = 0.5  # of products with int8 weights: exact in every datatype
SUMMED = 8.0  # sums plus residual are this or its negative, so all rows have one mean of squares


def tables_of_norm(datatype: Datatype, ranks: int, seed: int) -> tuple[Array, Array, Array]:
    """One period of each rank's part, (ranks, 31), of the residual and of their sum, +-SUMMED."""
    parts = Data(COLLECTIVES["all_reduce"], datatype, "sum", ranks, seed).sent()[:, 0]
    summed = SUMMED * np.random.default_rng(seed).choice([-1.0, 1.0], PERIOD)
    return parts, summed - parts.sum(axis=0), summed


def normed(values: Array) -> Array:
    """The RMS norm of a row of SUMMED and its negative, in fp32 as the kernel computes it."""
    factor = np.float32(1) / np.sqrt(np.float32(SUMMED * SUMMED) + np.float32(fused.EPSILON))
    return np.asarray(values.astype(np.float32) * factor * np.float32(NORM_WEIGHT))


def prepare_norm(options: LayerOptions, session: Session) -> Suite:
    """The cases of allreduce_rmsnorm. Raises Refusal."""
    world, datatype = session.world, DATATYPES[options.datatype]
    hidden = options.hidden or MODELS[options.model].hidden
    rank, ranks = world.rank, world.ranks
    row_bytes, most_tokens = hidden * datatype.size_bytes, max(options.tokens)
    require_memory(session, 3 * most_tokens * row_bytes)
    with world.communicator.all_or_none():
        memories = [world.allocate(rows * most_tokens * row_bytes) for rows in (2, 2, 1)]
        own = own_buffers(world, memories)
        weight = world.device.store(datatype.encode(np.full(hidden, NORM_WEIGHT)))
    keep = *memories, weight
    model = {} if options.hidden else {"model": options.model}
    parts, residual, total = tables_of_norm(datatype, ranks, session.options.seed)
    inputs = datatype.encode(np.stack([parts[rank], residual]))
    outputs = datatype.encode(np.stack([normed(total), total]))

    def norm_case(tokens: int, send: Memory, receive: Memory, summed: Memory) -> CollectiveCase:
        size_bytes = tokens * row_bytes
        norm = fused.Norm(
            hidden=hidden,
            residual=send.address + size_bytes,
            weight=weight.address,
            residual_out=receive.address + size_bytes,
        )
        return fused.NormCase(
            tokens * hidden,
            datatype,
            send.address,
            receive.address,
            norm=norm,
            summed=summed.address,
            shape={**model, "tokens": tokens, "hidden": hidden},
            size_bytes=size_bytes,
        )

    def contents(case: CollectiveCase) -> tuple[Segments, Segments]:
        return (
            Segments(case.send, case.size_bytes, inputs),
            Segments(case.receive, case.size_bytes, outputs),
        )

    return bind_forms(
        session,
        options,
        [norm_case(tokens, *memories) for tokens in options.tokens],
        contents,
        keep,
        lambda case: norm_case(case.shape["tokens"], *own),
    )


def matrix(rows: int, inner: int, rank: int, seed: int) -> Array:
    """A rank's weights, (rows, inner): 31 elements of +1 and -1, again and again with alternating
    signs that add up to 1 or 2, rotated by n in row n; columns beyond the last period are 0. A
    product of periodic activations then depends only on (row + iteration) mod 31."""
    signs = np.where(np.arange(inner // PERIOD) % 2, -1.0, 1.0)
    signs[-1] = 1.0
    first = np.random.default_rng([seed, rank]).choice([-1.0, 1.0], PERIOD)
    rotated = np.stack([np.roll(first, shift) for shift in range(PERIOD)])
    period = np.zeros((PERIOD, inner))
    period[:, : len(signs) * PERIOD] = np.kron(signs, rotated)
    return period[np.arange(rows) % PERIOD]


def scaled_rows(weight_type: Datatype, rows: int, seed: int) -> tuple[Array, Array]:
    """By row, what multiplies the elements of `matrix`, (rows, 1), and the scale of the row. With
    int8 both differ by row, and their product is ROW_SCALE; else it is 1."""
    if weight_type.is_float:
        return np.ones((rows, 1)), np.ones(rows, np.float32)
    factors = fused.row_factors(rows, seed)
    return factors[:, None], np.float32(ROW_SCALE) / factors


def drawn_activations(ranks: int, tokens: int, seed: int) -> Array:
    """One period of every rank's activations for each token, (ranks, tokens, 31)."""
    draw = np.random.default_rng([seed, tokens])
    return draw.integers(1, 4, (ranks, tokens, PERIOD)).astype(float)


def products(inner: int, activations: Array, rank: int, seed: int) -> Array:
    """One period of a rank's matrix times each token's activations, (tokens, 31)."""
    rows = matrix(PERIOD, inner, rank, seed)[:, : inner // PERIOD * PERIOD]
    summed = rows.reshape(PERIOD, -1, PERIOD).sum(axis=1)  # the factors of one activation
    return np.asarray(activations @ summed.T)


def summed_products(inner: int, activations: Array, seed: int) -> Array:
    """The sum of all ranks' products, (tokens, 31), from activations (ranks, tokens, 31)."""
    return np.asarray(
        sum(products(inner, of_rank, rank, seed) for rank, of_rank in enumerate(activations))
    )


def prepare_gemv(options: LayerOptions, session: Session) -> Suite:
    """The cases of gemv_allreduce. Raises Refusal."""
    world, datatype, model = session.world, DATATYPES[options.datatype], MODELS[options.model]
    rank, ranks, seed = world.rank, world.ranks, session.options.seed
    hidden, size, most_tokens = model.hidden, datatype.size_bytes, max(options.tokens)
    scale = scale_for(options, session)
    inner = {layer: model.columns(layer, ranks, scale) for layer in LAYERS}
    weight_type = fused.WEIGHTS[options.weights]
    row_scale = 1.0 if weight_type.is_float else ROW_SCALE
    factors, row_scales = scaled_rows(weight_type, hidden, seed)
    room_bytes = most_tokens * hidden * size + 2 * MARGIN_BYTES
    buffers, library_buffers = allocated(world, seed, room_bytes, MARGIN_BYTES)
    with world.communicator.all_or_none():
        scales = world.device.store(row_scales)
        activations = world.device.private(most_tokens * max(inner.values()) * size)
    keep = [library_buffers, scales, activations]

    def cases() -> Iterator[CollectiveCase]:
        for layer, columns in inner.items():
            stored = weight_type.encode(matrix(hidden, columns, rank, seed) * factors)
            copies = 1 if world.device.is_cpu else max(1, WEIGHT_BYTES // stored.nbytes)
            with world.communicator.all_or_none():
                weights = world.device.store(np.tile(stored, (copies, 1)))
            keep.append(weights)
            gemv = fused.Gemv(
                hidden=hidden,
                inner=columns,
                stride=columns,
                copies=copies,
                weights=weights.address,
                row_scales=scales.address,
                activations=activations.address,
            )
            shape = {"model": options.model, "layer": layer, "hidden": hidden}
            shape |= {"inner": columns, "weights": options.weights}
            for tokens in options.tokens:
                case = fused.GemvCase(
                    tokens * hidden,
                    datatype,
                    0,
                    0,
                    layer=gemv,
                    weight_type=weight_type,
                    shape={**shape, "tokens": tokens, "scale": str(scale)},
                )
                yield buffers.place(world, case)

    def contents(case: fused.GemvCase) -> tuple[Segments, Segments]:
        drawn = drawn_activations(ranks, case.shape["tokens"], seed)
        outputs = summed_products(case.layer.inner, drawn, seed) * row_scale
        row_bytes = case.layer.inner * size
        return (
            Segments(case.layer.activations, row_bytes, datatype.encode(drawn[rank])),
            Segments(case.receive, hidden * size, datatype.encode(outputs)),
        )

    return bind_forms(
        session,
        options,
        cases(),
        contents,
        keep,
        partial(library_buffers.place, world),
        buffers,
    )
