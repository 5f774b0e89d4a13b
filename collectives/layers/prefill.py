"""Layers of a model for a chunk of a prompt: the vendor's matmuls, each with an all-reduce and a
norm; split by tensor, by tensor and sequence, or in a pipeline. `bench.layers.prefill` measures
them.

The model is the Net of `steps`: a layer reads its activations from the last norm, and there are no
column-parallel layers. A matrix with more than `hidden` columns reads its activations one token
after another from the buffer, wherever tokens begin there.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from collectives.algorithm import ALGORITHMS
from collectives.collective import COLLECTIVES, Array
from collectives.layers import steps
from collectives.layers.fused import FUSED, Bound, all_reduce, norm, one_after_another
from collectives.layers.models import LAYERS
from collectives.layers.overlap import array_of, driven, product, runs_in_python
from collectives.layers.steps import PAD, Chat, Net, norm_case, normed
from collectives.operation import Case, Operation, World, in_a_row
from kernels.devices.device import Memory


def columns_of(flat: Any, tokens: int, hidden: int, columns: int) -> Any:
    """The activations (tokens, columns) that a layer multiplies, from a flat array."""
    if columns <= hidden:
        return flat[: tokens * hidden].reshape(tokens, hidden)[:, :columns]
    return flat[: tokens * columns].reshape(tokens, columns)


def matmul(net: Net, chat: Chat, number: int, weights: int,
           columns: slice | None = None) -> Operation:
    """Activations times all or some columns of a matrix, (hidden, columns) at `weights`, into
    `chat.parts`."""
    world, hidden, tokens = net.world, net.model.hidden, chat.tokens
    columns = columns or slice(0, net.all_columns(number))
    flat = array_of(world, net.datatype, chat.activations, tokens * net.width)
    left = columns_of(flat, tokens, hidden, net.all_columns(number))[:, columns]
    right = array_of(world, net.datatype, weights, hidden, columns.stop - columns.start).T
    result = array_of(world, net.datatype, chat.parts, tokens, hidden)
    return driven(world, product(world, left, right, result), [])


def join(world: World, operations: Sequence[Operation]) -> Operation:
    """The operations as one; Python performs it if it performs the matmuls."""
    if not runs_in_python(world):
        return in_a_row(world, operations)

    def run() -> None:
        for operation in operations:
            operation.call()

    return driven(world, run, operations)


def shares_in_turn(net: Net, chat: Chat, weights: dict[int, int], after: Sequence[Bound]) -> Bound:
    """This rank's share of each matrix, followed by `after`."""
    operations: list[Bound] = []
    for number, address in weights.items():
        inner = net.inner[net.layer(number)]
        first = net.world.communicator.rank * inner
        operations += [matmul(net, chat, number, address, slice(first, first + inner)), *after]
    return one_after_another(net.world, *operations, join=join)


def split_by_tensor(net: Net, chat: Chat, weights: dict[int, int], form: str,
                    variant: str) -> Bound:
    """Every rank has a share of each matrix. `form` is an all-reduce, followed by a norm;
    `allreduce_rmsnorm`, both in one launch; or `compute`, without the sum. All ranks call it.
    Raises DeviceError."""
    world, case = net.world, norm_case(net, chat, variant)
    after: list[Bound]
    if form == "allreduce_rmsnorm":
        after = [FUSED["allreduce_rmsnorm"]["fused"].bind(world, case)]
    elif form == "compute":
        after = [norm(world, case, "add_rmsnorm", chat.parts)]
    else:
        reduce = all_reduce(case, chat.parts, chat.sums)
        after = [ALGORITHMS["all_reduce"][form].bind(world, reduce),
                 norm(world, case, "add_rmsnorm", chat.sums)]
    return shares_in_turn(net, chat, weights, after)


def split_by_sequence(net: Net, chat: Chat, weights: dict[int, int], own: Memory) -> Bound:
    """As split by tensor, but the sums are scattered over the tokens, each rank normalises its
    share, and the shares are gathered: the same bytes on the wire, and a norm of 1/ranks of the
    tokens.

    `own` has room for two shares; a rank's share of the residual lies within `chat.residual`. All
    ranks call it. Raises DeviceError.
    """
    world, rank, ranks = net.world, net.world.communicator.rank, net.world.communicator.size
    share = chat.tokens // ranks * net.model.hidden
    share_bytes = share * net.datatype.size_bytes
    residual, own_normed = chat.residual + rank * share_bytes, own.address + share_bytes
    case = replace(norm_case(net, chat), count=share, receive=own_normed, residual=residual,
                   residual_out=residual)
    scatter = Case(COLLECTIVES["reduce_scatter"], share, net.datatype, "sum", chat.parts,
                   own.address)
    gather = Case(COLLECTIVES["all_gather"], share, net.datatype, "none", own_normed,
                  chat.activations)
    return shares_in_turn(net, chat, weights, [
        ALGORITHMS["reduce_scatter"]["direct_pull"].bind(world, scatter),
        norm(world, case, "add_rmsnorm", own.address),
        ALGORITHMS["all_gather"]["direct_pull"].bind(world, gather)])


def pipeline(net: Net, chat: Chat, inboxes: Sequence[Memory], weights: dict[int, int],
             share: float = 1.0) -> Bound:
    """Each rank's layers in its turn; then it hands this share of the residual on to the next rank.
    Rank 0 gets the result. All ranks call it. Raises DeviceError."""
    rank, ranks = net.world.communicator.rank, net.world.communicator.size
    count = int(chat.tokens * net.model.hidden * share)
    operations: list[Bound] = []
    for turn in range(ranks):
        target, source = -1, -1
        if turn == rank:
            target = (turn + 1) % ranks
            operations += [steps.take_over(net, chat, inboxes[turn - 1].address),
                           *steps.stage(net, chat, weights, matmul)]
        if (turn + 1) % ranks == rank:
            source = turn
        inbox = inboxes[turn].address
        operations.append(steps.hand_on(net, chat.residual, inbox, count, target, source))
    return one_after_another(net.world, *operations, join=join)


def reference(net: Net, residual: Array, numbers: Sequence[int]) -> Array:
    """The residual (tokens, hidden) after these layers, in float64."""
    matrices = {layer: net.decoded(layer) for layer in LAYERS}
    tokens, hidden = residual.shape
    flat = np.full(tokens * net.width, PAD)
    for number in numbers:
        matrix = matrices[net.layer(number)]
        flat[: tokens * hidden] = normed(residual).ravel()
        outputs = columns_of(flat, tokens, hidden, matrix.shape[1]) @ matrix.T
        residual = residual + np.roll(outputs, net.shift(number), axis=1)
    return residual
