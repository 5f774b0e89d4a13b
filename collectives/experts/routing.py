"""Draws a batch for a mixture of experts: which experts each token chooses, and the resulting load.

All ranks draw the same batch. A `skew` says how the tokens x top_k choices spread over the experts.
No expert gets more choices than there are tokens, as a token chooses an expert at most once:

    uniform      all experts equally
    zipf:S       expert e in proportion to e^-S, counted from 1
    hot:N        the first N experts equally, the others as little as possible
    file:PATH    an .npy file of integers, one count for each expert
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
SKEW = re.compile(r"uniform|zipf:(\d{1,2}(?:\.\d+)?)|hot:(\d{1,4})")
MOST_EXPERTS, MOST_CHOICES = 1024, 16  # the largest models of 2026 have 512 and 10


def expert_counts(skew: str, experts: int, tokens: int, top_k: int) -> Array:
    """How many tokens choose each expert, (experts,). Raises ValueError."""
    if skew.startswith("file:"):
        return _counts_from(Path(skew.removeprefix("file:")), experts, tokens, top_k)
    if not (match := SKEW.fullmatch(skew)):
        raise ValueError(
            f"{skew!r} is not a skew such as uniform, zipf:1.2, hot:2 or file:counts.npy"
        )
    exponent, hot = float(match[1] or 0), match[2]
    expert = np.arange(1, experts + 1, dtype=np.float64)
    if hot is None:
        return _in_proportion(expert**-exponent, tokens, top_k)
    if not 1 <= int(hot) <= experts:
        raise ValueError(f"{skew!r}: 1 to all of the {experts} experts can be hot")
    return _in_proportion(np.where(expert <= int(hot), 1.0, 1e-9), tokens, top_k)


def _counts_from(path: Path, experts: int, tokens: int, top_k: int) -> Array:
    try:
        counts = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError, BadZipFile) as error:
        why = getattr(error, "strerror", None) or "it is not one of numbers"
        raise ValueError(f"{path} cannot be read as an .npy file: {why}") from error
    if not (
        isinstance(counts, np.ndarray)
        and counts.shape == (experts,)
        and counts.dtype.kind in "iu"
        and counts.min() >= 0
        and counts.max() <= tokens
        and counts.sum() == tokens * top_k
    ):
        raise ValueError(
            f"{path} must have {experts} integers from 0 to {tokens} (tokens) that "
            f"add up to {tokens * top_k} (choices)"
        )
    return counts.astype(np.int64)


def _in_proportion(popularity: Array, tokens: int, top_k: int) -> Array:
    """Integers, (experts,), that add up to tokens x top_k; none exceeds `tokens`."""
    free = np.ones(len(popularity), bool)  # experts below the limit
    while True:
        left = tokens * (top_k - np.count_nonzero(~free))
        scale = left / popularity[free].sum() if free.any() else 0.0
        share = np.where(free, popularity * scale, tokens)
        if not (beyond := free & (share > tokens)).any():
            break
        free &= ~beyond
    counts = np.floor(share + 1e-9).astype(np.int64)
    missing = tokens * top_k - counts.sum()
    by_rest = np.argsort(-(share - counts), kind="stable")
    counts[by_rest[counts[by_rest] < tokens][:missing]] += 1
    return counts


def choose(counts: Array, tokens: int, top_k: int, seed: int) -> Array:
    """Different experts for each token, (tokens, top_k), in random order, that match the counts. A
    token draws experts in proportion to their remaining counts (Efraimidis and Spirakis, 2006), but
    must take every expert that all remaining tokens need."""
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
    """A batch of tokens and the experts that they chose. Tokens and experts are split over the
    ranks in order, as evenly as possible. `skew` has a hash instead of a path.

    | field | shape | value |
    |---|---|---|
    | `chosen`, `weights` | (tokens, top_k) | the experts of each token, and their weights |
    | `owner` | (experts,) | the rank of each expert |
    | `tokens_of` | (ranks,) | the number of tokens on each rank |
    | `home`, `place` | (tokens,) | the rank of each token, and its index there |
    | `leaving` | (ranks, ranks, places) | whether a rank sends the token at a place to another |
    | `between` | (ranks, ranks) | tokens that a rank sends to another; as many return |"""

    skew: str
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
        """Maximum over mean, and coefficient of variation, of the rows of experts and of ranks."""
        measures: dict[str, float] = {}
        for name, rows in self.rows.items():
            measures[f"{name}_max_over_mean"] = float(rows.max() / rows.mean())
            measures[f"{name}_cv"] = float(rows.std() / rows.mean())
        return measures


def draw(skew: str, ranks: int, experts: int, tokens: int, top_k: int, seed: int) -> Routes:
    """A batch. Weights are powers of two that add up to 1: sums are exact. Raises ValueError."""
    counts = expert_counts(skew, experts, tokens, top_k)
    chosen = choose(counts, tokens, top_k, seed)
    halves = 0.5 ** np.minimum(np.arange(1, top_k + 1), top_k - 1)
    weights = np.random.default_rng([seed, 1]).permuted(np.tile(halves, (tokens, 1)), axis=1)
    if skew.startswith("file:"):
        skew = f"file:{hashlib.sha256(counts.tobytes()).hexdigest()[:8]}"
    owner = np.arange(experts) * ranks // experts
    tokens_of = np.diff(np.arange(ranks + 1) * tokens // ranks)
    home = np.repeat(np.arange(ranks), tokens_of)
    place = np.concatenate([np.arange(count) for count in tokens_of])
    leaving = np.zeros((ranks, ranks, tokens_of.max()), bool)
    leaving[home[:, None], owner[chosen], place[:, None]] = True
    leaving[np.arange(ranks), np.arange(ranks)] = False
    return Routes(
        skew,
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
