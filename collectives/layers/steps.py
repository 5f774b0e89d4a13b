"""Whole decode steps: a model's row-parallel layers one after another, each a GEMV, an all-reduce, and a norm that
feeds the next; split by tensor, or in a pipeline, or not at all.

A rank's columns have their activations from what the last norm gave, each rank from a place of its own; an MLP's output
layer has more columns than that, and beyond they are constants. A real step has column-parallel matrices besides. None
is here: they need no collective, and cost every split alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from collectives.collective import DATATYPES, Array, Datatype
from collectives.layers.fused import COLLECTIVE, EPSILON, FUSED, GemvCase, NormCase, gemv, in_a_row, norm
from collectives.layers.models import LAYERS, Model
from collectives.library.mpi import allocate
from collectives.operation import Memory, Operation, Step, Transfer, Unsupported, World

PAD = 0.01  # activations beyond `hidden`
SHIFT_ROWS = 37  # from a layer's matrix to that of the next layer, which has the same rows in another order


@dataclass
class Net:
    """What every split of a step computes: `layers` layers of a model, each a matrix of each of LAYERS, of `inner`
    columns a rank; distinct ones for `held` layers, then the first come again."""

    world: World
    model: Model
    layers: int
    held: int
    datatype: Datatype
    weight_type: str
    inner: dict[str, int]
    stored: dict[str, Array]  # (hidden, columns of all ranks), as weights are stored
    row_scale: float
    keep: list[object] = field(default_factory=list)

    def layer(self, number: int) -> str:
        return LAYERS[number % len(LAYERS)]

    def shift(self, number: int) -> int:
        """By how many rows a matrix is turned from `stored`."""
        return number % (len(LAYERS) * self.held) * SHIFT_ROWS % self.model.hidden

    @property
    def width(self) -> int:
        """Columns of all ranks, at most, and at least `hidden`."""
        return max(self.model.hidden, self.world.communicator.size * max(self.inner.values()))

    def on_device(self, array: Array) -> int:
        memory = self.world.device.private(array.nbytes)
        memory.write(array)
        self.keep.append(memory)
        return memory.address

    @cached_property
    def row_scales(self) -> int:
        """Where every row's scale lies, of int8 weights; 0 for others."""
        scales = np.full(self.model.hidden, self.row_scale, np.float32)
        return self.on_device(scales) if self.weight_type == "int8" else 0

    @cached_property
    def norm_weight(self) -> int:
        """Where what norms are multiplied by lies: ones."""
        return self.on_device(self.datatype.encode(np.ones(self.model.hidden)))


def net_of(world: World, model: Model, scale: float, held: int, datatype: Datatype, weight_type: str,
           seed: int) -> Net:
    """Draws the matrices, so that what is normed neither grows nor vanishes."""
    ranks, drawn = world.communicator.size, np.random.default_rng(seed)
    inner = {layer: model.inner(layer, ranks, scale) for layer in LAYERS}
    rows = {layer: drawn.standard_normal((model.hidden, ranks * columns), np.float32) / np.sqrt(ranks * columns)
            for layer, columns in inner.items()}
    row_scale = max(float(np.abs(matrix).max()) for matrix in rows.values()) / 127
    if weight_type == "int8":
        stored = {layer: np.rint(matrix / row_scale).astype(np.int8) for layer, matrix in rows.items()}
    else:
        stored = {layer: DATATYPES[weight_type].encode(matrix) for layer, matrix in rows.items()}
    return Net(world, model, model.layers, held, datatype, weight_type, inner, stored, row_scale)


def decoded(net: Net, layer: str) -> Array:
    """What the stored weights stand for, in float64."""
    stored = net.stored[layer]
    return stored * net.row_scale if net.weight_type == "int8" else DATATYPES[net.weight_type].decode(stored)


def hold(net: Net, numbers: Sequence[int], first: int, columns: dict[str, int]) -> dict[int, int]:
    """Puts the matrices of these numbers, or those of them that are distinct, on the device: so many `columns` of each
    kind from the first-th rank's on. Returns each one's address. Raises DeviceError."""
    parts = {layer: np.ascontiguousarray(net.stored[layer][:, first * net.inner[layer] :][:, : columns[layer]])
             for layer in LAYERS}
    distinct = sorted({number % (len(LAYERS) * net.held) for number in numbers})
    memory = net.world.device.private(sum(parts[net.layer(number)].nbytes for number in distinct))
    net.keep.append(memory)
    at, found = 0, dict[int, int]()
    for number in distinct:
        part, shift = parts[net.layer(number)], net.shift(number)
        memory.write(part[len(part) - shift :], at)
        memory.write(part[: len(part) - shift], at + shift * part[0].nbytes)
        found[number], at = memory.address + at, at + part.nbytes
    return {number: found[number % (len(LAYERS) * net.held)] for number in numbers}


@dataclass
class Chat:
    """A batch of `tokens` chats on a rank: addresses of their activations, residual, parts and sums."""

    tokens: int
    activations: int
    residual: int
    parts: int
    sums: int


def open_chat(net: Net, tokens: int) -> Chat:
    """Room for a batch. All ranks call it. Raises DeviceError."""
    size = tokens * net.model.hidden * net.datatype.size_bytes
    parts, sums, residual = (allocate(net.world, size) for _ in range(3))
    activations = allocate(net.world, (tokens + 1) * net.width * net.datatype.size_bytes)
    activations.write(net.datatype.encode(np.full((tokens + 1) * net.width, PAD)))
    net.keep += [parts, sums, residual, activations]
    return Chat(tokens, activations.address, residual.address, parts.address, sums.address)


def _gemv_case(net: Net, chat: Chat, number: int, weights: int, inner: int, first: int, variant: str) -> GemvCase:
    hidden = net.model.hidden
    return GemvCase(COLLECTIVE["gemv_allreduce"], chat.tokens * hidden, net.datatype, "sum", chat.parts, chat.sums,
                    variant=variant, hidden=hidden, inner=inner, tokens=chat.tokens, weight_type=net.weight_type,
                    weights=weights, row_scales=net.row_scales, stride=hidden, copies=1,
                    activations=chat.activations + first * inner * net.datatype.size_bytes)


def norm_case(net: Net, chat: Chat, variant: str = "copied") -> NormCase:
    hidden = net.model.hidden
    return NormCase(COLLECTIVE["allreduce_rmsnorm"], chat.tokens * hidden, net.datatype, "sum", chat.parts,
                    chat.activations, variant=variant, hidden=hidden, residual=chat.residual,
                    residual_out=chat.residual, weight=net.norm_weight, summed=chat.sums)


def split_by_tensor(net: Net, chat: Chat, weights: dict[int, int], form: str, variant: str) -> Operation | Unsupported:
    """A step of which every rank has a share of each matrix. `form` is one of FUSED["gemv_allreduce"], followed by a
    norm; or `allreduce_rmsnorm`, after a GEMV. All ranks call it. Raises DeviceError."""
    world, rank = net.world, net.world.communicator.rank
    norms = norm_case(net, chat, variant)
    if form == "allreduce_rmsnorm":
        first, after = FUSED["gemv_allreduce"]["compute"], FUSED["allreduce_rmsnorm"]["fused"].bind(world, norms)
    else:
        first = FUSED["gemv_allreduce"][form]
        after = norm(world, norm_case(net, chat), "add_rmsnorm", chat.parts if form == "compute" else chat.sums)
    operations = list[Operation]()
    for number, address in weights.items():
        bound = first.bind(world, _gemv_case(net, chat, number, address, net.inner[net.layer(number)], rank, variant))
        for one in (bound, after):
            if isinstance(one, Unsupported):
                return one
            operations.append(one)
    return in_a_row(world, operations)


def stage(net: Net, chat: Chat, weights: dict[int, int]) -> list[Operation]:
    """Layers of which this rank has every column. Raises DeviceError."""
    after = norm(net.world, norm_case(net, chat), "add_rmsnorm", chat.parts)
    assert isinstance(after, Operation)
    operations = list[Operation]()
    for number, address in weights.items():
        inner = net.world.communicator.size * net.inner[net.layer(number)]
        one = gemv(net.world, _gemv_case(net, chat, number, address, inner, 0, "copied"), "gemv")
        assert isinstance(one, Operation)
        operations += [one, after]
    return operations


def begin(net: Net, chat: Chat, residual: int) -> Operation:
    """Takes a residual that lies there over, and norms it, as a stage does with what it is handed."""
    nothing = net.on_device(np.zeros(chat.tokens * net.model.hidden * net.datatype.size_bytes, np.uint8))
    found = norm(net.world, replace(norm_case(net, chat), residual=residual), "add_rmsnorm", nothing)
    assert isinstance(found, Operation)
    return found


def hand_on(net: Net, send: int, receive: int, count: int, to: int, origin: int) -> Operation:
    """A message of so many elements into the next stage's memory, and one from the stage before; -1: none. All ranks
    call it. Raises DeviceError."""
    world, peers = net.world, net.world.peers
    assert not isinstance(peers, Unsupported)
    arguments = peers.arguments(send, receive, count, 0)
    receives = peers.everyones(world.communicator, receive)
    assert receives, "a stage is handed what it gets into memory that all have mapped"
    arguments.receives[: len(receives)] = receives
    macros = {"WORLD": str(world.communicator.size), "ELEMENT": net.datatype.element}
    step = Step(world.device.compile("link", macros).kernel("link_push"), Transfer(arguments, to, origin),
                world.device.blocks_for(count * net.datatype.size_bytes))
    return Operation(step, world.device.caller(step))


def pipeline(net: Net, chats: Sequence[Chat], inboxes: Sequence[Memory], weights: dict[int, int]) -> Operation:
    """A step of all chats through stages, one a rank, each with as many layers: in beat b rank r has chat (b - r) mod
    ranks, where there is one, and hands on what it has made of it. So a step begins, and ends, with every stage at
    work that has a chat; inbox b gets what is handed on in beat b. All ranks call it. Raises DeviceError."""
    rank, ranks = net.world.communicator.rank, net.world.communicator.size
    operations = list[Operation]()
    for beat in range(ranks):
        mine, theirs = (beat - rank) % ranks, (beat - rank + 1) % ranks  # the one before has this
        source, inbox = inboxes[beat - 1].address, inboxes[beat].address
        if mine < len(chats):
            operations += [begin(net, chats[mine], source), *stage(net, chats[mine], weights)]
        count = chats[0].tokens * net.model.hidden
        send = chats[mine].residual if mine < len(chats) else 0
        operations.append(hand_on(net, send, inbox, count, (rank + 1) % ranks if mine < len(chats) else -1,
                                  (rank - 1) % ranks if theirs < len(chats) else -1))
    return in_a_row(net.world, operations)


def normed(residual: Array) -> Array:
    """Rows divided by the root of their mean square."""
    return np.asarray(residual / np.sqrt(np.mean(residual**2, axis=-1, keepdims=True) + EPSILON))


def reference(net: Net, residual: Array) -> Array:
    """What a step makes of a residual, (tokens, hidden), in float64."""
    matrices = {layer: decoded(net, layer) for layer in LAYERS}
    tokens, hidden = residual.shape
    for number in range(len(LAYERS) * net.layers):
        matrix = matrices[net.layer(number)]
        flat = np.concatenate([normed(residual).ravel(), np.full(net.width, PAD)])
        columns = np.stack([flat[t * hidden :][: matrix.shape[1]] for t in range(tokens)])
        residual = residual + np.roll(columns @ matrix.T, net.shift(number), axis=1)
    return residual
