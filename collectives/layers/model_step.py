"""Whole steps of a model, one token of decode or a chunk of a prompt: its row-parallel layers in
order, each a product with a matrix, an all-reduce, and a norm that feeds the next layer.
`bench.layers.step_splits` measures them.

A decode step multiplies with our GEMV, a prefill step with the vendor's matmul. A real step also
has column-parallel matrices. They are left out: they need no collective, and every split computes
them alike.

The activations of all layers lie in one buffer. Column c of a matrix multiplies the element c of
each token's activations, so each rank reads from another place. Where a matrix has more columns
than the norm has elements, tokens begin `stride` elements apart: the rest of a token's activations
are the next tokens' norms, and behind the last norm constants."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from collectives.binding import run_sequence
from collectives.collective import COLLECTIVES, Array
from collectives.layers import fused, stable
from collectives.layers.overlap import NO_STABLE_MATMUL, array_of, matmul
from collectives.layers.step_weights import Matrix, StepWeights
from collectives.models import LAYERS
from collectives.operation import Bound, CollectiveCase, Message, Operation, Unsupported, World
from collectives.registry import ALGORITHMS
from kernels.devices.device import Memory, Transfer

PAD = 0.01  # the activations beyond `hidden`
# Forms of a split by tensor with the same bits at 1, 2, 4 and 8 ranks.
STABLE_FORMS = "gemv_allreduce_stable", "allreduce_rmsnorm_stable"
Multiply = Callable[[World, fused.GemvCase], Bound]


@dataclass
class TokenBatch:
    """Tokens on a rank, and where their data are. All ranks make one. Raises DeviceError."""

    weights: StepWeights
    tokens: int

    def __post_init__(self) -> None:
        weights, world, size = self.weights, self.weights.world, self.weights.datatype.size_bytes
        elements = self.tokens * max(map(weights.stride, LAYERS))
        self.count = self.tokens * weights.model.hidden
        self.size_bytes = self.count * size
        elsewhere = self.count, self.count, elements
        parts = world.allocate(self.count * 4)  # a stable form's are fp32
        memories = [parts, *(world.allocate(count * size) for count in elsewhere)]
        memories[-1].write(weights.datatype.encode(np.full(elements, PAD)))
        weights.keep.append(memories)
        self.parts, self.sums, self.residual, self.activations = (
            memory.address for memory in memories
        )

    def norm_case(
        self, variant: str = "copied", residual: int | None = None, row_scales: int = 0
    ) -> fused.NormCase:
        """The norm of the sums plus `residual`, of this batch or at another address. `row_scales`
        belong to the parts of a stable form."""
        norm = fused.Norm(
            row_scales=row_scales,
            hidden=self.weights.model.hidden,
            weight=self.weights.norm_weight,
            residual=residual or self.residual,
            residual_out=self.residual,
        )
        return fused.NormCase(
            self.count,
            self.weights.datatype,
            self.parts,
            self.activations,
            variant=variant,
            norm=norm,
            summed=self.sums,
        )

    def multiply(self, matrix: Matrix, gemv: Multiply = fused.gemv) -> Bound:
        """The product, into `parts`; by a `gemv` fused with its all-reduce, into `sums`."""
        weights, world = self.weights, self.weights.world
        if weights.uses_matmul:
            array = partial(array_of, world, weights.datatype)
            rows = array(self.activations, self.tokens, matrix.stride)
            left = rows[:, matrix.first : matrix.first + matrix.columns]
            right = array(matrix.address, weights.model.hidden, matrix.columns).T
            result = array(self.parts, self.tokens, weights.model.hidden)
            return matmul(world, left, right, result)
        layer = fused.Gemv(
            hidden=weights.model.hidden,
            inner=matrix.columns,
            stride=matrix.stride,
            copies=1,
            weights=matrix.address,
            row_scales=matrix.row_scales,
            activations=self.activations + matrix.first * weights.datatype.size_bytes,
        )
        case = fused.GemvCase(
            self.count,
            weights.datatype,
            self.parts,
            self.sums,
            layer=layer,
            weight_type=weights.weight_type,
        )
        return gemv(world, case)

    def layers(
        self, matrices: Sequence[Matrix], after: Sequence[Bound], gemv: Multiply = fused.gemv
    ) -> list[Bound]:
        return [
            operation for matrix in matrices for operation in (self.multiply(matrix, gemv), *after)
        ]

    def stable_layers(self, form: str) -> list[Bound]:
        """The layers in one of STABLE_FORMS: a product and a norm for each matrix."""
        weights, world = self.weights, self.weights.world
        if weights.uses_matmul:
            return [Unsupported(NO_STABLE_MATMUL)]
        if form == "gemv_allreduce_stable":
            norm = stable.norm_stable(world, self.norm_case(), self.sums)
            return self.layers(weights.shares, [norm], partial(stable.gemv_stable, fused=True))
        operations = list[Bound]()
        for matrix in weights.shares:
            row_scales = 0 if weights.weight_type.is_float else matrix.row_scales
            norm = stable.norm_stable(world, self.norm_case(row_scales=row_scales))
            operations += [self.multiply(matrix, stable.gemv_stable), norm]
        return operations

    def layers_alone(self, matrices: Sequence[Matrix]) -> list[Bound]:
        """Layers that take this rank's products for the sums: it has all columns, or computes
        alone."""
        return self.layers(matrices, [fused.norm(self.weights.world, self.norm_case(), self.parts)])


def operations_by_tensor(batch: TokenBatch, form: str, variant: str) -> list[Bound]:
    """Those of `split_by_tensor` in order: with an all-reduce a product, a call and a norm for each
    matrix."""
    if form in STABLE_FORMS:
        return batch.stable_layers(form)
    weights, world, case = batch.weights, batch.weights.world, batch.norm_case(variant)
    after = [fused.norm(world, case, None if form == "allreduce_rmsnorm" else batch.sums)]
    if algorithm := ALGORITHMS["all_reduce"].get(form):
        reduce = fused.all_reduce(case, batch.parts, batch.sums)
        after.insert(0, algorithm.bind(world, reduce))
    gemv = partial(fused.gemv, fused=form == "gemv_allreduce")
    return batch.layers(weights.shares, after, gemv)


def split_by_tensor(batch: TokenBatch, form: str, variant: str) -> Bound:
    """A step in which every rank has a share of each matrix. `form` is an all-reduce or a fused
    kernel. All ranks call it. Raises DeviceError."""
    return run_sequence(batch.weights.world, operations_by_tensor(batch, form, variant))


def split_by_sequence(batch: TokenBatch, name: str, variant: str) -> Bound:
    """As `split_by_tensor`, with sequence parallelism (Korthikanti et al. 2022): the sums are
    scattered over the tokens, each rank adds the residual of its tokens and normalises them, and
    the ranks gather the activations. `name` is the algorithm of both collectives. Each rank ends
    with the residual of its tokens, in their place. All ranks call it. Raises DeviceError."""
    weights, world, datatype = batch.weights, batch.weights.world, batch.weights.datatype
    if batch.tokens % world.ranks:
        return Unsupported(f"{batch.tokens} tokens do not divide among {world.ranks} ranks")
    count = batch.count // world.ranks
    residual = batch.residual + world.rank * count * datatype.size_bytes
    scatter = CollectiveCase(
        COLLECTIVES["reduce_scatter"],
        count,
        datatype,
        "sum",
        batch.parts,
        batch.sums,
        variant=variant,
    )
    # The norm overwrites this rank's parts, which nobody reads once their sums are scattered.
    whole = batch.norm_case(variant, residual)
    whole.norm.residual_out = residual
    case = replace(whole, count=count, receive=batch.parts)
    gather = replace(
        scatter,
        collective=COLLECTIVES["all_gather"],
        redop="none",
        send=batch.parts,
        receive=batch.activations,
    )
    after = [
        ALGORITHMS["reduce_scatter"][name].bind(world, scatter),
        fused.norm(world, case, batch.sums),
        ALGORITHMS["all_gather"][name].bind(world, gather),
    ]
    return run_sequence(world, batch.layers(weights.shares, after))


def pipeline(batches: Sequence[TokenBatch], inboxes: Sequence[Memory], share: float = 1.0) -> Bound:
    """A step of all micro-batches through the stages of a pipeline, one stage a rank, with the same
    number of layers each. Only this share of a residual is sent on, where only this share of the
    layers is timed. Nothing writes the batches' `sums`: they are zeros. All ranks call it. Raises
    DeviceError.

    In round r rank k computes batch (r - k) mod ranks, if it exists, and sends the residual into
    the next rank's inbox r; with ranks on several hosts the library does it. So every stage with a
    batch works from the begin of a step to its end."""
    weights = batches[0].weights
    world, datatype = weights.world, weights.datatype
    rank, ranks = world.rank, world.ranks
    count = int(batches[0].count * share)
    size_bytes = count * datatype.size_bytes
    operations: list[Bound] = []
    for r in range(ranks):
        own, previous = (r - rank) % ranks, (r - rank + 1) % ranks  # batches of these ranks
        send, target = 0, -1  # none
        if own < len(batches):
            batch, target = batches[own], (rank + 1) % ranks
            # The norm of the received residual plus zeros, which also copies it to `residual`.
            case = batch.norm_case(residual=inboxes[r - 1].address)
            first = fused.norm(world, case, batch.sums)
            operations += [first, *batch.layers_alone(weights.stage)]
            send = batch.residual
        source = (rank - 1) % ranks if previous < len(batches) else -1
        receive = inboxes[r].address
        if world.node:
            ends = (True, target, send), (False, source, receive)
            messages = [Message(*end, size_bytes) for end in ends if end[1] >= 0]
            operations.append(world.library.bind_messages(world, [messages]))
            continue
        arguments = world.mapped.arguments(send, receive, count)
        is_mapped = world.mapped.locate(receive, arguments.receives)
        assert is_mapped, "a stage receives into memory that all ranks have mapped"
        step = world.device.step(
            "link",
            "link_push",
            Transfer(arguments, target, source),
            world.device.blocks_for(size_bytes),
            WT_WORLD=ranks,
            WT_ELEMENT=datatype.element,
        )
        operations.append(Operation(step))
    return run_sequence(world, operations)


def normed(residual: Array) -> Array:
    mean_of_squares = np.mean(residual**2, axis=-1, keepdims=True)
    return np.asarray(residual / np.sqrt(mean_of_squares + fused.EPSILON))


def reference(weights: StepWeights, residual: Array) -> Array:
    """The residual after a step, (tokens, hidden), in float64. All cores compute it, each some rows
    of a matrix: one would take minutes for a model of 70B."""
    tokens, cores = len(residual), os.cpu_count() or 1
    flat = np.full(tokens * max(map(weights.stride, LAYERS)), PAD)
    with ThreadPoolExecutor(cores) as pool:
        matrices = {
            layer: list(pool.map(weights.weight_type.decode, np.array_split(stored, cores)))
            for layer, stored in weights.stored.items()
        }
        for number in weights.numbers:
            layer = weights.layer(number)
            flat[: residual.size] = normed(residual).ravel()
            rows = flat[: tokens * weights.stride(layer)].reshape(tokens, -1)
            rows = rows[:, : weights.stored[layer].shape[1]]
            outputs = list(pool.map(lambda part, rows=rows: rows @ part.T, matrices[layer]))
            products = np.hstack(outputs) * weights.row_scales[layer]
            residual = residual + np.roll(products, weights.rotation(number), axis=1)
    return residual
