"""A row-parallel layer of a model: its shape, and its data, which are alike at any number of ranks.

All ranks' columns are drawn as one matrix, of which a rank takes its own. A part of the rows is
drawn and repeated, so rows that are alike must have the same bits. So must the first and the last
token of a batch, and the token of a batch of one."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np

from bench.harness.iteration import allocated
from bench.harness.session import Session
from bench.stability.subject import Compute
from bench.stability.sums import MANTISSA_BITS, drawn
from collectives.collective import Array, Datatype
from collectives.layers.fused import WEIGHTS, Gemv, GemvCase
from collectives.layers.stable import LEAVES
from collectives.models import LAYERS, MODELS, UNIT_COLUMNS
from collectives.operation import CollectiveCase

LAYER_DATA = "PCG64 raw, activations of 1 to 16, weights of 1/16 to 1, 1021 rows in turn"
# Rows: a prime, so no tile or block of rows begins with the same one again. Another order of fp32
# sums changes about one of 1,000 halves, and 8 tokens have 8,168 here.
DISTINCT = 1021
WEIGHT_SCALE = 1 / 16  # a sum of 2^16 products has 800 as its deviation: far below the most of half
TOKENS = 1, 2, 5, 8  # in a batch; 8 is the most of a GEMV
MOST_TOKENS = max(TOKENS)
ACTIVATIONS = 1 << 20  # whose data these are, where rows have theirs: no model has as many
# Deviations by which rounding may move a sum. Each of its additions rounds by half an ULP at most
# of the sum so far, a random walk: n of them move it by sqrt(n) half ULPs of its own deviation, and
# walks that stray far by a few times that.
MOST_DEVIATIONS = 8


@dataclass(frozen=True)
class Layer:
    """`inner`: the columns of all ranks together; `heads`: those of the model's attention."""

    name: str
    model: str
    hidden: int
    inner: int
    heads: int

    def reason_against(self, ranks: int) -> str | None:
        """Why so many ranks cannot share it. Engines copy heads of keys and values to several
        ranks, so they forbid nothing."""
        if self.heads % ranks:
            return f"the {self.heads} attention heads of {self.model}"
        if self.inner % (ranks * UNIT_COLUMNS):
            return f"the {self.inner} columns of {self.name}, in multiples of {UNIT_COLUMNS},"
        return None

    @property
    def rows(self) -> int:
        """The distinct ones, at most about half of all."""
        return min(DISTINCT, self.hidden // 2 | 1)


def layers_of(model: str, scale: Fraction) -> Iterator[Layer]:
    """A `scale` below 1 keeps so much of the columns, in whole units of all numbers of ranks."""
    fields = MODELS[model]
    for name in LAYERS:
        inner = fields.columns(name)
        if scale < 1:
            inner = fields.columns(name, LEAVES, scale) * LEAVES
        yield Layer(name, model, fields.hidden, inner, fields.heads)


def tokens_in(batch: int) -> list[int]:
    """Which of MOST_TOKENS tokens are in a batch. The last one is the first one again."""
    return [*range(batch - 1), 0]


class Room:
    """The memory of a layer on this rank of `session.world`. All ranks make it together. Raises
    Refusal."""

    def __init__(self, session: Session, layer: Layer, weight_type: Datatype) -> None:
        world, seed = session.world, session.options.seed
        self.session, self.layer, self.weight_type = session, layer, weight_type
        self.columns = columns = layer.inner // world.ranks
        self.own = slice(world.rank * columns, (world.rank + 1) * columns)
        self.seed = seed, LAYERS.index(layer.name)
        with world.communicator.all_or_none():
            self.weights = world.device.private(layer.hidden * columns * weight_type.size_bytes)
            self.activations = world.device.private(4 * MOST_TOKENS * columns)
        self.buffers = allocated(world, seed, 4 * MOST_TOKENS * layer.hidden)
        self.compute = Compute(layer.hidden, self._gemv, most_rows=MOST_TOKENS, is_aligned=True)

    def _gemv(self, case: CollectiveCase) -> GemvCase:
        layer = Gemv(
            weights=self.weights.address,
            activations=self.activations.address,
            hidden=self.layer.hidden,
            inner=self.columns,
            stride=self.columns,
            copies=1,
        )
        return GemvCase(**vars(case), layer=layer, weight_type=self.weight_type)

    def _drawn(self, whose: int, count: int = 1) -> Array:
        """This rank's part of `count` vectors that all ranks together have, (count, columns)."""
        vectors = (drawn((*self.seed, whose + at), self.layer.inner) for at in range(count))
        return np.stack([vector[self.own] for vector in vectors])

    @cached_property
    def rows(self) -> Array:
        """The distinct rows of this rank's weights as they are stored, (rows, columns)."""
        return self.weight_type.encode(self._drawn(0, self.layer.rows) * WEIGHT_SCALE)

    @cached_property
    def tokens(self) -> Array:
        """The distinct tokens' activations for this rank, (MOST_TOKENS, columns)."""
        return self._drawn(ACTIVATIONS, MOST_TOKENS)

    def fill_weights(self, rows: Array, first: int = 0) -> None:
        """Stores encoded rows, (number, columns), as those from `first` on."""
        self.weights.write(rows, first * self.columns * self.weight_type.size_bytes)

    def draw_weights(self) -> None:
        """Stores the distinct rows again and again."""
        hidden = self.layer.hidden
        for first in range(0, hidden, self.layer.rows):
            self.fill_weights(self.rows[: hidden - first], first)

    def fill_activations(self, datatype: Datatype, batch: int) -> None:
        self.activations.write(datatype.encode(self.tokens[tokens_in(batch)]))

    def exact(self, datatype: Datatype) -> tuple[Array, Array]:
        """The results of the distinct tokens, (MOST_TOKENS, hidden), in float64, and what rounding
        may change them by: the products have the deviation of a random walk, and so have the errors
        of sums that are rounded to the datatype after each addition. All ranks call it."""
        weights = self.weight_type.decode(self.rows)
        activations = datatype.rounded(self.tokens)
        own = activations @ weights.T, activations**2 @ (weights**2).T
        sums, squares = np.sum(self.session.communicator.all_gather(own), axis=0)
        half_ulp = 2.0 ** -(1 + MANTISSA_BITS[datatype.name])
        most = MOST_DEVIATIONS * half_ulp * np.sqrt(self.layer.inner * squares)
        every = np.arange(self.layer.hidden) % self.layer.rows
        return sums[:, every], most[:, every]


def weights_for(datatype: str) -> Datatype:
    """What a model in this datatype stores; one in float has weights in half."""
    return WEIGHTS["bfloat16" if datatype == "bfloat16" else "float16"]
