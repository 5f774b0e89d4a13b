"""The stable layer in numpy, whose every bit leaves.h must give, and layers as items of the beds of
sanitized_ranks.py and emulated/ranks.py, with ranks of one process."""

from dataclasses import dataclass, field
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import numpy as np

from collectives.collective import Array, Datatype
from collectives.layers.fused import WEIGHTS, Gemv, GemvCase
from collectives.layers.fused_forms import FUSED
from collectives.operation import Operation
from wiretax.record.case import FUSED_STABLE

LEAVES, CHAINS = 8, 64
GAP = 16  # elements between two tokens' activations, all NaN


def sum_of_leaf(matrix: Array, activations: Array) -> Array:
    """(tokens, hidden) of float32 (hidden, columns) and (tokens, columns), by leaves.h."""
    sums: Array = np.zeros((len(activations), len(matrix), CHAINS), np.float32)
    for first in range(0, matrix.shape[1], CHAINS):
        period = slice(first, first + CHAINS)
        products = activations[:, None, period] * matrix[:, period]
        sums[..., : products.shape[-1]] += products
    while sums.shape[-1] > 1:
        half = sums.shape[-1] // 2
        sums = sums[..., :half] + sums[..., half:]
    return sums[..., 0]


def layer_of(
    datatype: Datatype,
    matrix: Array,
    activations: Array,
    scales: Array | None,
) -> Array:
    """The stored result (tokens, hidden) of decoded inputs of all ranks."""
    inputs = (np.split(each.astype(np.float32), LEAVES, axis=1) for each in (matrix, activations))
    with np.errstate(all="ignore"):
        sums = [sum_of_leaf(*leaf) for leaf in zip(*inputs, strict=True)]
        while len(sums) > 1:
            sums = [a + b for a, b in zip(sums[::2], sums[1::2], strict=True)]
        return datatype.encode(sums[0] if scales is None else sums[0] * scales)


@dataclass(kw_only=True)
class Layer:
    """A matrix of (hidden, `columns` of all ranks), in some `copies`, and tokens. Of every third
    row the first columns of some leaves are infinite or NaN: no other row may show them."""

    datatype: Datatype
    weight_type: Datatype
    tokens: int
    columns: int
    hidden: int = 64
    copies: int = 1
    gap: int = 0  # elements between two tokens' activations
    seed: int = 0
    exponent: int = 0  # of 2, by which all elements are multiplied
    matrix: Array = field(init=False)  # stored, (copies, hidden, columns)
    activations: Array = field(init=False)  # stored, (tokens, columns)
    scales: Array = field(init=False)  # of rows, float32

    def __post_init__(self) -> None:
        draw = np.random.default_rng(self.seed)
        shape = self.copies, self.hidden, self.columns
        values = draw.normal(size=shape) * 10.0 ** draw.integers(-3, 3, (1, self.hidden, 1))
        values[:, ::5] *= draw.choice([0.0, -0.0, 1e-4, 1.0], values[:, ::5].shape)
        half = self.columns // 2
        # These rows cancel but for their roundings, which a 16-bit result then shows.
        values[:, 1::4, half:] = -values[:, 1::4, half - 1 :: -1]
        starts = np.arange(0, self.columns, self.columns // LEAVES)
        values[:, 2::12, starts[draw.integers(0, LEAVES, 2)]] = np.inf
        values[:, 5::12, 0] = -np.inf
        values[:, 8::12, starts[-1]] = np.nan
        if self.weight_type.name == "int8":
            values = draw.integers(-127, 128, shape)
            values[:, 1::4, half:] = -values[:, 1::4, half - 1 :: -1]
        vectors = draw.normal(size=(self.tokens, self.columns))
        vectors[:, half:] = vectors[:, half - 1 :: -1]
        vectors *= 10.0 ** draw.integers(-2, 2, (self.tokens, 1))
        self.matrix = self.weight_type.encode(values * 2.0**self.exponent)
        self.activations = self.datatype.encode(vectors * 2.0**self.exponent)
        self.scales = draw.lognormal(-4, 2, self.hidden).astype(np.float32)

    @cached_property
    def results(self) -> list[Array]:
        """Of each copy, stored."""
        scales = self.scales if self.weight_type.name == "int8" else None
        activations = self.datatype.decode(self.activations)
        return [
            layer_of(self.datatype, self.weight_type.decode(matrix), activations, scales)
            for matrix in self.matrix
        ]

    def wrong_elements(
        self,
        stored: Array,
        launches_before: int | None = None,
    ) -> int:
        """Of a result, whose copy is known or the nearest one; any NaN is a NaN's."""
        results = self.results
        if launches_before is not None:
            results = [results[launches_before % self.copies]]
        found = self.datatype.decode(stored.reshape(results[0].shape))
        wanted = (self.datatype.decode(each) for each in results)
        same_bits = (stored.reshape(results[0].shape) == each for each in results)
        return min(
            int((~(same | np.isnan(found) & np.isnan(want))).sum())
            for same, want in zip(same_bits, wanted, strict=True)
        )


def layer_item(
    bed: Any,
    name: str,
    layer: Layer,
) -> None:
    """Adds the layer on all ranks of this process; what it counts are its wrong elements."""
    datatype, inner = layer.datatype, layer.columns // bed.ranks
    items = []
    for rank, world in enumerate(bed.worlds):
        own = slice(rank * inner, (rank + 1) * inner)
        vectors = np.full((layer.tokens, inner + layer.gap), np.nan)
        rows = datatype.encode(vectors)
        rows[:, :inner] = layer.activations[:, own]
        inputs = np.ascontiguousarray(layer.matrix[:, :, own]), rows, layer.scales
        stored = [bed.memory(each.nbytes) for each in inputs]
        for memory, each in zip(stored, inputs, strict=True):
            memory.write(each.view(np.uint8).ravel())
        weights, activations, scales = (memory.address for memory in stored)
        result = bed.memory(layer.tokens * layer.hidden * datatype.size_bytes)
        result.write(np.full(result.size_bytes, 0xFF, np.uint8))
        structure = Gemv(
            weights=weights,
            activations=activations,
            row_scales=scales,
            hidden=layer.hidden,
            inner=inner,
            stride=inner + layer.gap,
            copies=layer.copies,
        )
        case = GemvCase(
            layer.tokens * layer.hidden,
            datatype,
            0,
            result.address,
            layer=structure,
            weight_type=layer.weight_type,
        )
        operation = FUSED["gemv_allreduce"][FUSED_STABLE].bind(world, case)
        assert isinstance(operation, Operation), operation
        bed.keep += stored

        def wrong(result: Any = result) -> Array:
            count = layer.wrong_elements(result.read().view(datatype.storage))
            return np.array([count], np.uint32).view(np.uint8)

        items.append(([operation.step], SimpleNamespace(read=wrong)))
    bed.items[name] = items


def drawn_item(
    bed: Any,
    name: str,
    datatype: Datatype,
) -> None:
    """A layer of two matrices, whose other type and shape the bed draws."""
    layer = Layer(
        datatype=datatype,
        weight_type=WEIGHTS[("int8", "float16", "bfloat16")[bed.seed % 3]],
        tokens=1 + (bed.seed + 3) % 8,
        columns=LEAVES * bed.draw.choice([8, 56, 264, 584]),
        hidden=bed.draw.choice([64, 320]),
        copies=2,
        gap=GAP,
        seed=bed.seed,
    )
    layer_item(bed, name, layer)
