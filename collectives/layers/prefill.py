"""A chunk of a prompt through layers of a model: matmuls, the vendor's, with an all-reduce and a norm after each; split
by tensor, by tensor and sequence, or in a pipeline.

As in collectives/steps.py, whose Net this takes, a layer has its activations from what was normed last, and there are
no column-parallel layers. Of more than `hidden` columns, all are taken from wherever they lie in the buffer.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from collectives.algorithm import ALGORITHMS
from collectives.collective import COLLECTIVES, Array
from collectives.layers.fused import FUSED, all_reduce, in_a_row, norm
from collectives.layers.models import LAYERS
from collectives.layers.overlap import array_of, driven, product
from collectives.layers.steps import PAD, Chat, Net, begin, decoded, hand_on, norm_case, normed
from collectives.operation import Case, Memory, Operation, Unsupported


def columns_of(flat: Any, tokens: int, hidden: int, columns: int) -> Any:
    """What a layer of so many columns multiplies, (tokens, columns), of activations one after another."""
    if columns <= hidden:
        return flat[: tokens * hidden].reshape(tokens, hidden)[:, :columns]
    return flat[: tokens * columns].reshape(tokens, columns)


def matmul(net: Net, chat: Chat, number: int, weights: int, first: int, columns: int) -> Operation:
    """Activations times a matrix of so many columns, from the first-th of all on, (hidden, columns) at that address,
    into `chat.parts`."""
    world, hidden, tokens = net.world, net.model.hidden, chat.tokens
    every = world.communicator.size * net.inner[net.layer(number)]
    flat = array_of(world, net.datatype, chat.activations, tokens * net.width)
    left = columns_of(flat, tokens, hidden, every)[:, first : first + columns]
    right = array_of(world, net.datatype, weights, hidden, columns).T
    out = array_of(world, net.datatype, chat.parts, tokens, hidden)
    return driven(world, product(world, left, right, out), [])


def in_turn(net: Net, operations: Sequence[Operation]) -> Operation:
    """One after the other: from Python on a CPU, whose matmuls have no C function that a native loop could call."""
    if net.world.device.name != "cpu":
        return in_a_row(net.world, operations)
    calls = [operation.call for operation in operations]

    def run() -> None:
        for call in calls:
            call()

    return driven(net.world, run, operations)


def shares_in_turn(net: Net, chat: Chat, weights: dict[int, int],
                   after: Sequence[Operation | Unsupported]) -> Operation | Unsupported:
    """This rank's share of each matrix, and these after each."""
    rank, operations = net.world.communicator.rank, list[Operation]()
    for number, address in weights.items():
        inner = net.inner[net.layer(number)]
        for one in (matmul(net, chat, number, address, rank * inner, inner), *after):
            if isinstance(one, Unsupported):
                return one
            operations.append(one)
    return in_turn(net, operations)


def split_by_tensor(net: Net, chat: Chat, weights: dict[int, int], form: str, variant: str) -> Operation | Unsupported:
    """Every rank has a share of each matrix. `form` is an all-reduce, followed by a norm; `allreduce_rmsnorm`, both in
    one; or `compute`, neither summed nor fused. All ranks call it. Raises DeviceError."""
    world, norms = net.world, norm_case(net, chat, variant)
    after: list[Operation | Unsupported] = []
    if form == "allreduce_rmsnorm":
        after = [FUSED["allreduce_rmsnorm"]["fused"].bind(world, norms)]
    elif form == "compute":
        after = [norm(world, norm_case(net, chat), "add_rmsnorm", chat.parts)]
    else:
        reduce = ALGORITHMS["all_reduce"][form].bind(world, all_reduce(norms, chat.parts, chat.sums))
        after = [reduce, norm(world, norm_case(net, chat), "add_rmsnorm", chat.sums)]
    return shares_in_turn(net, chat, weights, after)


def split_by_sequence(net: Net, chat: Chat, weights: dict[int, int], own: Memory,
                      variant: str) -> Operation | Unsupported:
    """As by tensor, but the sums are scattered over the tokens, each rank norms its share of them, and what is normed
    is gathered: the same bytes on the wire, and a norm of 1/ranks of the tokens. `own` has room for two shares; a
    rank's residual lies where all tokens' does. All ranks call it. Raises DeviceError."""
    world, rank, ranks = net.world, net.world.communicator.rank, net.world.communicator.size
    share = chat.tokens // ranks * net.model.hidden
    share_bytes = share * net.datatype.size_bytes
    at = rank * share_bytes
    scatter = ALGORITHMS["reduce_scatter"]["direct_pull"].bind(world, Case(
        COLLECTIVES["reduce_scatter"], share, net.datatype, "sum", chat.parts, own.address, variant=variant))
    case = replace(norm_case(net, chat), count=share, receive=own.address + share_bytes, residual=chat.residual + at,
                   residual_out=chat.residual + at)
    gather = ALGORITHMS["all_gather"]["direct_pull"].bind(world, Case(
        COLLECTIVES["all_gather"], share, net.datatype, "none", own.address + share_bytes, chat.activations,
        variant=variant))
    after = [scatter, norm(world, case, "add_rmsnorm", own.address), gather]
    return shares_in_turn(net, chat, weights, after)


def stage(net: Net, chat: Chat, weights: dict[int, int]) -> list[Operation]:
    """Layers of which this rank has every column. Raises DeviceError."""
    after = norm(net.world, norm_case(net, chat), "add_rmsnorm", chat.parts)
    assert isinstance(after, Operation)
    return [one for number, address in weights.items()
            for one in (matmul(net, chat, number, address, 0,
                               net.world.communicator.size * net.inner[net.layer(number)]), after)]


def pipeline(net: Net, chat: Chat, inboxes: Sequence[Memory], weights: dict[int, int], part: float = 1.0) -> Operation:
    """Each rank's layers in its turn, after which it hands on the residual, or such a part of it, to the next one:
    rank 0 gets the last. All ranks call it. Raises DeviceError."""
    rank, ranks = net.world.communicator.rank, net.world.communicator.size
    count = int(chat.tokens * net.model.hidden * part)
    operations = list[Operation]()
    for turn in range(ranks):
        if turn == rank:
            operations += [begin(net, chat, inboxes[turn - 1].address), *stage(net, chat, weights)]
        to, origin = (turn + 1) % ranks if turn == rank else -1, turn if (turn + 1) % ranks == rank else -1
        operations.append(hand_on(net, chat.residual, inboxes[turn].address, count, to, origin))
    return in_turn(net, operations)


def reference(net: Net, residual: Array, numbers: Sequence[int]) -> Array:
    """What these layers make of a residual, (tokens, hidden), in float64."""
    matrices = {layer: decoded(net, layer) for layer in LAYERS}
    tokens, hidden = residual.shape
    flat = np.full(tokens * net.width, PAD)
    for number in numbers:
        matrix = matrices[net.layer(number)]
        flat[: tokens * hidden] = normed(residual).ravel()
        product = columns_of(flat, tokens, hidden, matrix.shape[1]) @ matrix.T
        residual = residual + np.roll(product, net.shift(number), axis=1)
    return residual
