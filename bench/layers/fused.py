"""The benchmarks of fused kernels: their forms, their data, and their cases.

`allreduce_rmsnorm` and `gemv_allreduce` run this; `overlap` shares the forms and matrices. The data
have a period of 31 elements, as in `bench.harness.verify`, so that results are checked bit by bit.
"""

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from bench.harness import verify
from bench.harness.iteration import (
    Iteration,
    Segments,
    checked_iteration,
    consume_step,
    nothing,
    on_device,
)
from bench.harness.session import Session
from bench.harness.suite import Axes, MakeIteration, Suite, bind_cases
from bench.harness.timing import perform, times_us
from bench.layers.command import LayerOptions, require_mapped, scale_for
from collectives.collective import COLLECTIVES, DATATYPES, Array, Datatype
from collectives.layers.fused import COLLECTIVE, EPSILON, FUSED, Bound, GemvCase, NormCase
from collectives.layers.models import LAYERS, MODELS
from collectives.operation import (
    Algorithm,
    Build,
    Case,
    Operation,
    Unsupported,
    World,
    plain_arguments,
)
from kernels.devices.device import Counts, DeviceError

SMALL_BYTES = 256 << 10  # below it, a latency decides
WEIGHT_BYTES = 256 << 20  # of a GPU's copies of a matrix: more than any last-level cache holds
NORM_WEIGHT = 1.5
ROW_SCALE = 0.5  # of int8 weights: exact in every datatype
SUMMED = 8.0  # sums plus residual are this or its negative, so all rows have one mean of squares
# Round trips of a flag in the two states of an EPYC's link. In the first state plain stores were
# faster; in the second, stores around the caches: with 32 KiB after a GEMV they exposed 3 us, and
# plain stores 10.
PLAIN_NS, STREAMS_NS = 100.0, 500.0
TRIES = 4  # of each candidate, after one that warms up
Key = TypeVar("Key", bound=Hashable)


def following_link(form: Algorithm) -> Algorithm:
    """The form; between near peers with plain or streaming stores, by the state of the link. A
    requested build stays."""
    def bind(world: World, case: Case) -> Bound:
        plain = form.bind(world, case)
        if not world.device.near_peers or case.build != Build() or isinstance(plain, Unsupported):
            return plain
        streaming = form.built("nt")
        streams = streaming.bind(world, case)
        if isinstance(streams, Unsupported):
            return plain
        plain, streams = replace(plain, chosen=form.name), replace(streams, chosen=streaming.name)
        return replace(plain, by_link={PLAIN_NS: plain, STREAMS_NS: streams})

    return form if form.name in ("compute", "then_library") else replace(form, bind=bind)


FORMS = {kernel: {form.name: following_link(form) for form in forms.values()}
         for kernel, forms in FUSED.items()}


def bind_forms(session: Session, forms: Mapping[str, Algorithm], requested: Sequence[str] | None,
               cases: Iterable[Case], make_iteration: MakeIteration) -> Suite:
    """The compute alone, and the requested forms, or all that are useful at a size. All ranks call
    it. Raises Disagreement.

    Between near peers pushing equals pulling, and packets with a flag each are slower: 9 us exposed
    at 32 KiB, the others 1.4.
    """
    far_peers = not session.world.device.near_peers

    def names(size_bytes: int) -> list[str]:
        is_small = size_bytes < SMALL_BYTES
        skipped = {"ring", "two_shot"} if is_small else {"ring"}
        if not (far_peers and is_small):
            skipped |= {"one_shot_ll", "one_shot_push"}
        useful = [name for name in forms if name.removeprefix("then_") not in skipped]
        return list(dict.fromkeys(["compute", *(requested or useful)]))

    # A form that does not support a size is listed with its reason.
    axes = Axes(forms, names, requested=True, mode="isolated")
    suite = bind_cases(session, axes, cases, make_iteration)
    for number, iteration in suite.iterations.items():
        header = suite.headers[number]
        iteration.group = str(header.shape)
        if header.algorithm == "compute":  # it sums nothing, so its result is partial
            iteration.check, iteration.wrong = nothing(session.world, session.flight.watch), None
    return suite


def layer_iteration(session: Session, case: Case, operation: Operation,
                    contents: tuple[Segments, Segments], keep: object,
                    repeats: int = verify.REPEATS) -> Iteration:
    """Writes the inputs, as the layer before would; performs the operation; reads and checks the
    outputs. `contents` are inputs and outputs."""
    world, watch, outputs = session.world, session.flight.watch, contents[1]
    elements = len(outputs.tables) * outputs.segment_bytes // case.datatype.size_bytes
    reading = plain_arguments(world.communicator.rank, case.send, case.receive, elements, watch)
    consume = consume_step(world, case, "read_own", reading)
    iteration = checked_iteration(world, watch, case, operation, contents, consume, repeats)
    iteration.keep.append(keep)
    return iteration


def fastest(session: Session, candidates: Mapping[Key, Iteration]) -> Key:
    """The candidate with the shortest time of the slowest rank, including the reading of the
    result; rank 0 decides. All are tried in turn, so that a disturbance hits each. All ranks call
    it."""
    communicator, clock_shared = session.communicator, session.world.clock_shared
    costs_us: dict[Key, list[float]] = {key: [] for key in candidates}
    for _ in range(1 + TRIES):
        for key, iteration in candidates.items():
            stamps = communicator.all_gather(perform(session, iteration, Counts(0, 1)))
            times = times_us(stamps, clock_shared)
            costs_us[key].append(float(times.time[0] + times.after[0]))
    best: Key = communicator.broadcast(min(costs_us, key=lambda key: np.median(costs_us[key][1:])))
    return best


def tables_of_norm(datatype: Datatype, ranks: int, seed: int) -> tuple[Array, Array, Array]:
    """One period, decoded, of each rank's part, (ranks, 31); of the residual; and of their sum,
    SUMMED or its negative."""
    parts = verify.Data(COLLECTIVES["all_reduce"], datatype, "sum", ranks, seed).sent()[:, 0]
    summed = SUMMED * np.random.default_rng(seed).choice([-1.0, 1.0], verify.PERIOD)
    return parts, summed - parts.sum(axis=0), summed


def normed(values: Array) -> Array:
    """The RMS norm of a row of SUMMED and its negative, in fp32 as the kernel computes it."""
    factor = np.float32(1) / np.sqrt(np.float32(SUMMED * SUMMED) + np.float32(EPSILON))
    return np.asarray(values.astype(np.float32) * factor * np.float32(NORM_WEIGHT))


def prepare_norm(options: LayerOptions, session: Session) -> Suite:
    """The cases of allreduce_rmsnorm. Raises Disagreement."""
    require_mapped(session)
    world, datatype, hidden = session.world, DATATYPES[options.datatype], options.hidden
    rank, ranks = world.communicator.rank, world.communicator.size
    row_bytes, most_tokens = hidden * datatype.size_bytes, max(options.tokens)
    with world.communicator.together(DeviceError, MemoryError):
        send, receive, summed = (world.library.allocate(world, rows * most_tokens * row_bytes)
                                 for rows in (2, 2, 1))
        weight = on_device(world, datatype.encode(np.full(hidden, NORM_WEIGHT)))
        codes, scales = (world.device.private(most_tokens * size) for size in (hidden, 4))
    keep = send, receive, summed, weight, codes, scales
    parts, residual, total = tables_of_norm(datatype, ranks, session.options.seed)
    inputs = datatype.encode(np.stack([parts[rank], residual]))
    outputs = datatype.encode(np.stack([normed(total), total]))

    def cases() -> Iterator[Case]:
        for tokens in options.tokens:
            size_bytes = tokens * row_bytes
            shape = {"model": options.model, "tokens": tokens, "hidden": hidden,
                     "output": options.output}
            yield NormCase(
                COLLECTIVE["allreduce_rmsnorm"], tokens * hidden, datatype, "sum", send.address,
                receive.address, shape={name: value for name, value in shape.items() if value},
                size_bytes=size_bytes, hidden=hidden, residual=send.address + size_bytes,
                residual_out=receive.address + size_bytes, weight=weight.address,
                summed=summed.address, quantized=options.output, codes=codes.address,
                scales=scales.address)

    def iteration(case: Case, operation: Operation, chain_calls: int) -> Iteration:
        contents = (Segments(case.send, case.size_bytes, inputs),
                    Segments(case.receive, case.size_bytes, outputs))
        return layer_iteration(session, case, operation, contents, keep)

    return bind_forms(session, FORMS["allreduce_rmsnorm"], options.algorithm, cases(), iteration)


def signs(inner: int) -> Array:
    """The factor of each whole period of a row; they add up to 1 or 2."""
    periods = inner // verify.PERIOD
    factors = np.where(np.arange(periods) % 2, -1.0, 1.0)
    if periods % 2 == 0:
        factors[-1] = 1.0
    return factors


def period(rank: int, seed: int) -> Array:
    """The period of a rank's matrix: 31 elements of +1 and -1."""
    return np.random.default_rng([seed, rank]).choice([-1.0, 1.0], verify.PERIOD)


def matrix(rows: int, inner: int, rank: int, seed: int) -> Array:
    """A rank's weights, (rows, inner): row n is `period`, rotated by n elements, again and again
    times `signs`; columns beyond the last whole period are 0. A product of periodic activations
    then depends only on (row + iteration) mod 31."""
    rotated = np.stack([np.roll(period(rank, seed), shift) for shift in range(verify.PERIOD)])
    factors = signs(inner)
    row = np.zeros((verify.PERIOD, inner))
    row[:, : len(factors) * verify.PERIOD] = (
        np.tile(rotated, len(factors)) * np.repeat(factors, verify.PERIOD))
    return row[np.arange(rows) % verify.PERIOD]


def drawn_activations(ranks: int, tokens: int, seed: int) -> Array:
    """One period of every rank's activations for each token, (ranks, tokens, 31)."""
    draw = np.random.default_rng([seed, tokens])
    return draw.integers(1, 4, (ranks, tokens, verify.PERIOD)).astype(float)


def products(rank_period: Array, inner: int, activations: Array) -> Array:
    """One period of a rank's matrix times each token's activations, (tokens, 31)."""
    place = np.arange(verify.PERIOD)
    circulant = rank_period[(place[:, None] - place) % verify.PERIOD]
    return np.asarray(signs(inner).sum() * (activations @ circulant))


def summed_products(inner: int, activations: Array, seed: int) -> Array:
    """The sum of all ranks' products, (tokens, 31), from activations (ranks, tokens, 31)."""
    return np.asarray(sum(products(period(rank, seed), inner, of_rank)
                          for rank, of_rank in enumerate(activations)))


def encoded_weights(weights: Array, weight_type: str) -> Array:
    """Weights as the device stores them."""
    if weight_type == "int8":
        return weights.astype(np.int8)
    return DATATYPES[weight_type].encode(weights)


def prepare_gemv(options: LayerOptions, session: Session) -> Suite:
    """The cases of gemv_allreduce. Raises Disagreement."""
    require_mapped(session)
    world, datatype, model = session.world, DATATYPES[options.datatype], MODELS[options.model]
    rank, ranks, seed = world.communicator.rank, world.communicator.size, session.options.seed
    hidden, most_tokens = model.hidden, max(options.tokens)
    scale = scale_for(options.scale, session)
    inner = {layer: model.columns(layer, ranks, float(scale)) for layer in LAYERS}
    row_scale, size = (ROW_SCALE if options.weights == "int8" else 1.0), datatype.size_bytes
    with world.communicator.together(DeviceError, MemoryError):
        send, receive = (world.library.allocate(world, most_tokens * hidden * size)
                         for _ in range(2))
        scales = on_device(world, np.full(hidden, row_scale, np.float32))
        activations = world.device.private(most_tokens * max(inner.values()) * size)
    keep = [send, receive, scales, activations]

    def cases() -> Iterator[Case]:
        for layer, columns in inner.items():
            stored = encoded_weights(matrix(hidden, columns, rank, seed), options.weights)
            copies = 1 if world.device.near_peers else max(1, WEIGHT_BYTES // stored.nbytes)
            with world.communicator.together(DeviceError, MemoryError):
                weights = world.device.private(copies * stored.nbytes)
                for copy in range(copies):
                    weights.write(stored, copy * stored.nbytes)
            keep.append(weights)
            for tokens in options.tokens:
                shape = {"model": options.model, "layer": layer, "tokens": tokens,
                         "hidden": hidden, "inner": columns, "weights": options.weights,
                         "scale": str(scale)}
                yield GemvCase(
                    COLLECTIVE["gemv_allreduce"], tokens * hidden, datatype, "sum", send.address,
                    receive.address, shape=shape, size_bytes=tokens * hidden * size,
                    hidden=hidden, inner=columns, tokens=tokens, weight_type=options.weights,
                    weights=weights.address, row_scales=scales.address,
                    activations=activations.address, stride=columns, copies=copies)

    def iteration(case: Case, operation: Operation, chain_calls: int) -> Iteration:
        assert isinstance(case, GemvCase)
        drawn = drawn_activations(ranks, case.tokens, seed)
        outputs = summed_products(case.inner, drawn, seed) * row_scale
        contents = (Segments(case.activations, case.inner * size, datatype.encode(drawn[rank])),
                    Segments(case.receive, hidden * size, datatype.encode(outputs)))
        return layer_iteration(session, case, operation, contents, keep)

    return bind_forms(session, FORMS["gemv_allreduce"], options.algorithm, cases(), iteration)
