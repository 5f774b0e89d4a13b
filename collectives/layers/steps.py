"""Whole decode steps: a model's row-parallel layers one after another, each a GEMV, an all-reduce
and a norm that feeds the next layer. `bench.layers.decode` measures them.

A step runs split by tensor, in a pipeline, or on one rank. Each rank's columns read their
activations from the last norm, from another place on each rank. An MLP's output layer has more
columns than the norm has elements; its further activations are constants. A real step also has
column-parallel matrices. They are left out: they need no collective, and cost every split the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from collectives.collective import DATATYPES, Array, Datatype
from collectives.layers.fused import (
    COLLECTIVE,
    EPSILON,
    FUSED,
    Bound,
    GemvCase,
    NormCase,
    gemv,
    norm,
    one_after_another,
)
from collectives.layers.models import LAYERS, Model
from collectives.link import STRUCTURES, Transfer
from collectives.operation import Operation, Unsupported, World, use_registered
from kernels.devices.device import Memory, Step

PAD = 0.01  # the activations beyond `hidden`
SHIFT_ROWS = 37  # between the matrices of two layers, which have the same rows in another order


@dataclass
class Net:
    """The matrices that every split of a step multiplies: for each layer of the model one of each
    kind in LAYERS, (hidden, columns of all ranks), with the columns shrunk by `scale`.

    The first `held` layers are distinct; then they repeat. `inner` counts a rank's columns;
    `stored` has the matrices as the device stores them.
    """

    world: World
    model: Model
    scale: float
    held: int
    datatype: Datatype
    weight_type: str
    seed: int
    inner: dict[str, int] = field(init=False)
    stored: dict[str, Array] = field(init=False)
    row_scale: float = field(init=False)
    keep: list[object] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Draws the matrices. Their size keeps the residual from growing or vanishing."""
        ranks, drawn = self.world.communicator.size, np.random.default_rng(self.seed)
        self.inner = {layer: self.model.columns(layer, ranks, self.scale) for layer in LAYERS}
        rows = {layer: (drawn.standard_normal((self.model.hidden, ranks * inner), np.float32)
                        / np.sqrt(ranks * inner)) for layer, inner in self.inner.items()}
        self.row_scale = max(float(np.abs(matrix).max()) for matrix in rows.values()) / 127
        self.stored = {layer: self.encoded(matrix) for layer, matrix in rows.items()}

    def encoded(self, matrix: Array) -> Array:
        if self.weight_type == "int8":
            return np.rint(matrix / self.row_scale).astype(np.int8)
        return DATATYPES[self.weight_type].encode(matrix)

    def decoded(self, layer: str) -> Array:
        """The values of the stored weights, in float64."""
        if self.weight_type == "int8":
            return self.stored[layer] * self.row_scale
        return DATATYPES[self.weight_type].decode(self.stored[layer])

    def layer(self, number: int) -> str:
        return LAYERS[number % len(LAYERS)]

    def shift(self, number: int) -> int:
        """The number of rows by which a matrix is rotated from `stored`."""
        return number % (len(LAYERS) * self.held) * SHIFT_ROWS % self.model.hidden

    def all_columns(self, number: int) -> int:
        """The columns of a matrix on all ranks together."""
        return self.world.communicator.size * self.inner[self.layer(number)]

    @property
    def width(self) -> int:
        """The columns of the widest matrix; at least `hidden`."""
        return max(self.model.hidden, *map(self.all_columns, range(len(LAYERS))))

    def on_device(self, array: Array) -> int:
        memory = self.world.device.private(array.nbytes)
        memory.write(array)
        self.keep.append(memory)
        return memory.address

    @cached_property
    def row_scales(self) -> int:
        """The address of every row's scale for int8 weights; 0 for others."""
        scales = np.full(self.model.hidden, self.row_scale, np.float32)
        return self.on_device(scales) if self.weight_type == "int8" else 0

    @cached_property
    def norm_weight(self) -> int:
        """The address of the norms' weights, all 1."""
        return self.on_device(self.datatype.encode(np.ones(self.model.hidden)))


def hold(net: Net, numbers: Sequence[int], first: int, ranks: int) -> dict[int, int]:
    """Puts the distinct matrices among `numbers` on the device, with the columns of `ranks` ranks
    from rank `first` on. Returns the address of each number's matrix. Raises DeviceError."""
    parts: dict[str, Array] = {}
    for layer in LAYERS:
        inner = net.inner[layer]
        columns = net.stored[layer][:, first * inner : (first + ranks) * inner]
        parts[layer] = np.ascontiguousarray(columns)
    distinct = sorted({number % (len(LAYERS) * net.held) for number in numbers})
    memory = net.world.device.private(sum(parts[net.layer(number)].nbytes for number in distinct))
    net.keep.append(memory)
    offset = 0
    addresses: dict[int, int] = {}
    for number in distinct:
        part, shift = parts[net.layer(number)], net.shift(number)
        memory.write(part[len(part) - shift :], offset)
        memory.write(part[: len(part) - shift], offset + shift * part[0].nbytes)
        addresses[number] = memory.address + offset
        offset += part.nbytes
    return {number: addresses[number % (len(LAYERS) * net.held)] for number in numbers}


@dataclass
class Chat:
    """A batch of `tokens` chats on a rank: the addresses of its activations, residual, parts and
    sums."""

    tokens: int
    activations: int
    residual: int
    parts: int
    sums: int


def open_chat(net: Net, tokens: int) -> Chat:
    """The buffers of a batch. All ranks call it. Raises DeviceError."""
    size, allocate = net.datatype.size_bytes, net.world.library.allocate
    parts, sums, residual = (allocate(net.world, tokens * net.model.hidden * size)
                             for _ in range(3))
    elements = (tokens + 1) * net.width
    activations = allocate(net.world, elements * size)
    activations.write(net.datatype.encode(np.full(elements, PAD)))
    net.keep += [parts, sums, residual, activations]
    return Chat(tokens, activations.address, residual.address, parts.address, sums.address)


def _gemv_case(net: Net, chat: Chat, number: int, weights: int) -> GemvCase:
    """The case over all columns of a matrix."""
    hidden = net.model.hidden
    return GemvCase(
        COLLECTIVE["gemv_allreduce"], chat.tokens * hidden, net.datatype, "sum", chat.parts,
        chat.sums, hidden=hidden, inner=net.all_columns(number), tokens=chat.tokens,
        weight_type=net.weight_type, weights=weights, row_scales=net.row_scales, stride=hidden,
        copies=1, activations=chat.activations)


def norm_case(net: Net, chat: Chat, variant: str = "copied") -> NormCase:
    hidden = net.model.hidden
    return NormCase(
        COLLECTIVE["allreduce_rmsnorm"], chat.tokens * hidden, net.datatype, "sum", chat.parts,
        chat.activations, variant=variant, hidden=hidden, residual=chat.residual,
        residual_out=chat.residual, weight=net.norm_weight, summed=chat.sums)


def split_by_tensor(net: Net, chat: Chat, weights: dict[int, int], form: str,
                    variant: str) -> Bound:
    """A step in which every rank has a share of each matrix. `form` is one of
    FUSED["gemv_allreduce"], followed by a norm; or `allreduce_rmsnorm`, after a GEMV. All ranks
    call it. Raises DeviceError."""
    world, rank = net.world, net.world.communicator.rank
    if form == "allreduce_rmsnorm":
        first = FUSED["gemv_allreduce"]["compute"]
        after = FUSED["allreduce_rmsnorm"]["fused"].bind(world, norm_case(net, chat, variant))
    else:
        first = FUSED["gemv_allreduce"][form]
        source = chat.parts if form == "compute" else chat.sums
        after = norm(world, norm_case(net, chat), "add_rmsnorm", source)
    operations: list[Bound] = []
    for number, address in weights.items():
        inner = net.inner[net.layer(number)]
        offset = rank * inner * net.datatype.size_bytes
        case = replace(_gemv_case(net, chat, number, address), inner=inner, variant=variant,
                       activations=chat.activations + offset)
        operations += [first.bind(world, case), after]
    return one_after_another(world, *operations)


def multiply(net: Net, chat: Chat, number: int, weights: int) -> Bound:
    """A GEMV with all columns of a matrix."""
    return gemv(net.world, _gemv_case(net, chat, number, weights), "gemv")


def stage(net: Net, chat: Chat, weights: dict[int, int],
          multiply: Callable[[Net, Chat, int, int], Bound] = multiply) -> list[Bound]:
    """Layers with all their columns on this rank. Raises DeviceError."""
    after = norm(net.world, norm_case(net, chat), "add_rmsnorm", chat.parts)
    operations: list[Bound] = []
    for number, address in weights.items():
        operations += [multiply(net, chat, number, address), after]
    return operations


def take_over(net: Net, chat: Chat, residual: int) -> Bound:
    """Copies the residual that another stage left at this address, and normalises it."""
    size_bytes = chat.tokens * net.model.hidden * net.datatype.size_bytes
    zeros = net.on_device(np.zeros(size_bytes, np.uint8))
    return norm(net.world, replace(norm_case(net, chat), residual=residual), "add_rmsnorm", zeros)


def hand_on(net: Net, send: int, receive: int, count: int, target: int, source: int) -> Operation:
    """Sends `count` elements to the rank `target`, and receives as many from the rank `source`; -1:
    no rank. All ranks call it. Raises DeviceError."""
    world = net.world
    assert not isinstance(world.peers, Unsupported)
    arguments = world.peers.arguments(send, receive, count, 0)
    refusal = use_registered(world, arguments.receives, receive)
    assert not refusal, "a stage receives into memory that all ranks have mapped"
    macros = {"WORLD": str(world.communicator.size), "ELEMENT": net.datatype.element}
    kernel = world.device.compile("link", macros, STRUCTURES).kernel("link_push")
    blocks = world.device.blocks_for(count * net.datatype.size_bytes)
    step = Step(kernel, Transfer(arguments, target, source), blocks)
    return Operation(step, world.device.caller(step))


def pipeline(net: Net, chats: Sequence[Chat], inboxes: Sequence[Memory],
             weights: dict[int, int]) -> Bound:
    """A step of all chats through stages, one a rank, with the same number of layers each.

    In beat b, rank r computes chat (b - r) mod ranks, if it exists, and hands the result on into
    inbox b. So every stage with a chat works from the begin of a step to its end. All ranks call
    it. Raises DeviceError.
    """
    rank, ranks = net.world.communicator.rank, net.world.communicator.size
    count = chats[0].tokens * net.model.hidden
    operations: list[Bound] = []
    for beat in range(ranks):
        own, previous = (beat - rank) % ranks, (beat - rank + 1) % ranks  # chats of these ranks
        send, target = 0, -1
        if own < len(chats):
            send, target = chats[own].residual, (rank + 1) % ranks
            operations += [take_over(net, chats[own], inboxes[beat - 1].address),
                           *stage(net, chats[own], weights)]
        source = (rank - 1) % ranks if previous < len(chats) else -1
        operations.append(hand_on(net, send, inboxes[beat].address, count, target, source))
    return one_after_another(net.world, *operations)


def normed(residual: Array) -> Array:
    """Rows divided by the root of their mean square."""
    return np.asarray(residual / np.sqrt(np.mean(residual**2, axis=-1, keepdims=True) + EPSILON))


def reference(net: Net, residual: Array) -> Array:
    """The residual after a step, (tokens, hidden), in float64."""
    matrices = {layer: net.decoded(layer) for layer in LAYERS}
    tokens, hidden = residual.shape
    for number in range(len(LAYERS) * net.model.layers):
        matrix = matrices[net.layer(number)]
        flat = np.concatenate([normed(residual).ravel(), np.full(net.width, PAD)])
        columns = np.stack([flat[t * hidden :][: matrix.shape[1]] for t in range(tokens)])
        residual = residual + np.roll(columns @ matrix.T, net.shift(number), axis=1)
    return residual
