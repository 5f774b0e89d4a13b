"""Draws a batch for a mixture of experts: which experts each token chooses, and the resulting load.

All ranks draw the same batch. A `skew` says how likely a token chooses expert e, counted from 1:
`uniform` makes all alike; `zipf:S` makes them likely in proportion to e^-S. A batch of real routes
is split in the same way."""

from dataclasses import dataclass

import numpy as np

from collectives.collective import Array

MOST_EXPERTS, MOST_CHOICES = 1024, 16  # the largest models of 2026 have 512 and 10


@dataclass(frozen=True)
class Routes:
    """A batch of tokens and the experts that they chose. Tokens and experts are split over the
    ranks in order, as evenly as possible.

    | field | shape | value |
    |---|---|---|
    | `chosen`, `weights` | (tokens, top_k) | the experts of each token, and their weights |
    | `owner` | (experts,) | the rank of each expert |
    | `tokens_of` | (ranks,) | the number of tokens on each rank |
    | `home`, `place` | (tokens,) | the rank of each token, and its index there |
    | `leaving` | (ranks, ranks, places) | whether a rank sends the token at a place to another |
    | `between` | (ranks, ranks) | tokens that a rank sends to another; as many return |"""

    ranks: int
    experts: int
    chosen: Array
    weights: Array
    owner: Array
    tokens_of: Array
    home: Array
    place: Array
    leaving: Array
    between: Array

    def rows_of(self, rank: int) -> tuple[Array, Array]:
        """The token in each row of a rank's experts, and which of its choices it is. Rows are
        sorted by expert, then by token, and so by home rank."""
        token, choice = np.nonzero(self.owner[self.chosen] == rank)
        order = np.lexsort((token, self.chosen[token, choice]))
        return token[order], choice[order]

    @property
    def rows(self) -> dict[str, Array]:
        """The number of rows of each expert, (experts,), and of each rank, (ranks,)."""
        return {
            "expert": np.bincount(self.chosen.ravel(), minlength=self.experts),
            "rank": np.bincount(self.owner[self.chosen].ravel(), minlength=self.ranks),
        }

    def imbalance(self) -> dict[str, float]:
        """Maximum over mean of the rows of experts and of ranks."""
        return {
            f"{name}_max_over_mean": float(rows.max() / rows.mean())
            for name, rows in self.rows.items()
        }


def draw(skew: str, ranks: int, experts: int, tokens: int, top_k: int, seed: int) -> Routes:
    """A batch. Each token chooses different experts: draws without replacement, by the Gumbel trick
    (Kool, van Hoof and Welling, 2019)."""
    generator, exponent = np.random.default_rng(seed), float(skew.partition(":")[2] or 0)
    likely = -exponent * np.log(np.arange(1, experts + 1))
    # Row by row: all keys of many tokens and experts would need gigabytes.
    rows = [
        np.argpartition(-likely - generator.gumbel(size=experts), top_k - 1)[:top_k]
        for _ in range(tokens)
    ]
    return split(np.array(rows, np.int32), ranks, experts, seed)


def split(chosen: Array, ranks: int, experts: int, seed: int) -> Routes:
    """The batch of tokens that chose these experts, (tokens, top_k). A token's weights are those of
    `weights_of`, in random order."""
    tokens, top_k = chosen.shape
    in_order = np.tile(weights_of(top_k), (tokens, 1))
    weights = np.random.default_rng([seed, 1]).permuted(in_order, axis=1)
    owner = np.arange(experts) * ranks // experts
    tokens_of = np.diff(np.arange(ranks + 1) * tokens // ranks)
    home = np.repeat(np.arange(ranks), tokens_of)
    place = np.concatenate([np.arange(count) for count in tokens_of])
    leaving = np.zeros((ranks, ranks, tokens_of.max()), bool)
    leaving[home[:, None], owner[chosen], place[:, None]] = True
    leaving[np.arange(ranks), np.arange(ranks)] = False
    return Routes(
        ranks,
        experts,
        chosen,
        weights.astype(np.float32),
        owner,
        tokens_of,
        home,
        place,
        leaving,
        leaving.sum(axis=2),
    )


def weights_of(top_k: int) -> Array:
    """Different weights, so that no sum is right with another expert's weight: 1, 2, ... units and
    the rest of a power of two, 256 at most. They add up to 1, so a chain does not shrink a token.
    Its element, an integer up to 31 or what half or bfloat16 makes of it, times 256 has at most 19
    bits: no sum in fp32 rounds, in whatever order it adds."""
    units = 1 << (top_k * (top_k + 1) // 2 - 1).bit_length()
    first = np.arange(1, top_k)
    return np.append(first, units - first.sum()) / units
