"""Which experts a router chooses for each token of a batch, and what that loads on experts and ranks.

Drawn alike on all ranks. A `skew` says how often each expert is chosen, out of tokens x top_k times, and never more
often than there are tokens, as a token chooses no expert twice:

    uniform      all alike
    zipf:S       the e-th in proportion to e^-S
    hot:N        the first N alike, the others as little as can be
    file:PATH    an .npy file of whole numbers, one for each expert
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
MOST_EXPERTS, MOST_CHOICES = 1024, 16  # of the largest models of 2026: 512 and 10


class SkewError(Exception):
    """A skew that says nothing, or that cannot be with so many experts and tokens; one sentence."""


def expert_counts(skew: str, experts: int, tokens: int, top_k: int) -> Array:
    """How many tokens choose each expert, (experts,). Raises SkewError."""
    kind, _, said = skew.partition(":")
    if kind == "file":
        return _counts_from(Path(said), experts, tokens, top_k)
    rank = np.arange(experts, dtype=np.float64)
    popularity: dict[str, Callable[[float], Array]] = {
        "uniform": lambda _: np.ones(experts), "zipf": lambda s: (rank + 1) ** -s,
        "hot": lambda n: np.where(rank < n, 1.0, 1e-9)}
    try:
        number = float(said) if kind != "uniform" else 0.0
        fits = kind in popularity and (said == "" if kind == "uniform" else 0 <= number <= 100)
    except ValueError:
        fits = False
    if not fits:
        raise SkewError(f"{skew!r} is no skew such as uniform, zipf:1.2, hot:2 or file:counts.npy")
    if kind == "hot" and not (number.is_integer() and 1 <= number <= experts):
        raise SkewError(f"{skew!r}: hot are 1 to all of the {experts} experts")
    return _in_proportion(popularity[kind](number), tokens, top_k)


def _counts_from(path: Path, experts: int, tokens: int, top_k: int) -> Array:
    try:
        counts = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError, BadZipFile) as error:
        why = getattr(error, "strerror", None) or "it is not one of numbers"
        raise SkewError(f"{path} cannot be read as an .npy file: {why}") from error
    if not isinstance(counts, np.ndarray) or counts.shape != (experts,):
        raise SkewError(f"{path} has the shape {getattr(counts, 'shape', 'of several arrays')}, not ({experts},), one "
                        "count for each expert")
    if counts.dtype.kind not in "iu" or counts.min() < 0:
        raise SkewError(f"{path} has {counts.dtype} values; counts are whole numbers of at least 0")
    if counts.max() > tokens or counts.sum() != tokens * top_k:
        raise SkewError(f"{path} counts {counts.sum()} choices, at most {counts.max()} of an expert; {tokens} tokens "
                        f"with {top_k} choices each make {tokens * top_k}, at most {tokens} of an expert")
    return counts.astype(np.int64)


def _in_proportion(popularity: Array, tokens: int, top_k: int) -> Array:
    """Whole numbers that add up to tokens x top_k, none above `tokens`, as nearly in proportion as can be."""
    share = np.zeros(len(popularity))
    free = np.ones(len(popularity), bool)
    while True:
        left = tokens * top_k - tokens * np.count_nonzero(~free)
        share = np.where(free, popularity / popularity[free].sum() * left, tokens) if free.any() else share + tokens
        beyond = free & (share > tokens)
        if not beyond.any():
            break
        free &= ~beyond
    counts = np.floor(share + 1e-9).astype(np.int64)
    missing = tokens * top_k - counts.sum()
    by_rest = np.argsort(-(share - counts), kind="stable")
    counts[by_rest[counts[by_rest] < tokens][:missing]] += 1
    return counts


def choose(counts: Array, tokens: int, top_k: int, seed: int) -> Array:
    """Different experts for each token, (tokens, top_k), in random order, so that each has its count.

    A token draws among those that are left in proportion to how often (Efraimidis and Spirakis, 2006), but takes each
    that all tokens from now on have to take.
    """
    draw, left = np.random.default_rng(seed), counts.astype(np.float64)
    chosen = np.empty((tokens, top_k), np.int32)
    for token in range(tokens):
        with np.errstate(divide="ignore"):
            keys = np.where(left > 0, np.log(draw.random(len(left))) / left, -np.inf)
        keys[left >= tokens - token] = np.inf
        chosen[token] = np.argpartition(-keys, top_k - 1)[:top_k]
        left[chosen[token]] -= 1
    return draw.permuted(chosen[draw.permutation(tokens)], axis=1)


@dataclass(frozen=True)
class Routes:
    """The experts of a batch's tokens, `chosen` (tokens, top_k), and their weights. Tokens and experts are split over
    the ranks, in order and as evenly as can be. `skew` is how it was asked for; of a file, what is in it and not where
    it lies."""

    skew: str
    ranks: int
    experts: int
    chosen: Array
    weights: Array

    @cached_property
    def owner(self) -> Array:
        """Whose each expert is, (experts,)."""
        return owners(self.experts, self.ranks)

    @cached_property
    def home(self) -> Array:
        """Whose each token is, (tokens,)."""
        return np.repeat(np.arange(self.ranks), self.tokens_of)

    @cached_property
    def tokens_of(self) -> Array:
        """How many tokens each rank has, (ranks,)."""
        return np.diff(np.arange(self.ranks + 1) * len(self.chosen) // self.ranks)

    @cached_property
    def goes_to(self) -> Array:
        """Whether a rank has one of a token's experts, (tokens, ranks)."""
        goes: Array = (self.owner[self.chosen][:, :, None] == np.arange(self.ranks)).any(axis=1)
        return goes

    def rows_of(self, rank: int) -> tuple[Array, Array]:
        """Which token stands in each row of a rank's experts, and as which of its choices: by expert, then in the order
        of tokens, which is that of ranks."""
        token, choice = np.nonzero(self.owner[self.chosen] == rank)
        order = np.lexsort((token, self.chosen[token, choice]))
        return token[order], choice[order]

    @cached_property
    def between(self) -> Array:
        """How many tokens a rank has for each other one, (ranks, ranks); as many sums come back."""
        found = np.array([self.goes_to[self.home == rank].sum(axis=0) for rank in range(self.ranks)])
        np.fill_diagonal(found, 0)
        return found

    def imbalance(self) -> dict[str, float]:
        """Most over mean, and the coefficient of variation, of the rows of experts and of ranks."""
        by_expert = np.bincount(self.chosen.ravel(), minlength=self.experts)
        by_rank = np.bincount(self.owner, by_expert, self.ranks)
        return {f"{whose}_{what}": float(value) for whose, loads in (("expert", by_expert), ("rank", by_rank))
                for what, value in (("max_over_mean", loads.max() / loads.mean()), ("cv", loads.std() / loads.mean()))}


def owners(experts: int, ranks: int) -> Array:
    """Whose each expert is, (experts,)."""
    return np.arange(experts) * ranks // experts


def most_rows(skew: str, ranks: int, experts: int, tokens: int, top_k: int) -> int:
    """The most rows that a rank's experts get. Raises SkewError."""
    return int(np.bincount(owners(experts, ranks), expert_counts(skew, experts, tokens, top_k)).max())


def draw(skew: str, ranks: int, experts: int, tokens: int, top_k: int, seed: int) -> Routes:
    """A batch. The weights of a token add up to 1 and are powers of two, so that checked sums come out exactly. Raises
    SkewError."""
    counts = expert_counts(skew, experts, tokens, top_k)
    chosen = choose(counts, tokens, top_k, seed)
    halves = 0.5 ** np.minimum(np.arange(1, top_k + 1), top_k - 1)
    weights = np.random.default_rng([seed, 1]).permuted(np.tile(halves, (tokens, 1)), axis=1)
    name = f"file:{hashlib.sha256(counts.tobytes()).hexdigest()[:8]}" if skew.startswith("file:") else skew
    return Routes(name, ranks, experts, chosen, weights.astype(np.float32))
