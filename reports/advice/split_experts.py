"""The load of the busiest GPU where each of a group has whole experts of a mixture.

Tokens choose their experts as in `bench.alltoall --experts`: a router of a skew draws them, popular
experts are neighbours, and each layer waits for its busiest GPU."""

from dataclasses import dataclass
from functools import cache

import numpy as np

from collectives.experts import routing

BALANCED = "uniform"  # the skew of a router to which all experts are alike
DRAWN_TOKENS = 1024  # of more tokens so many are drawn: their shares hardly change
LAYERS = 64  # drawn of one token, and fewer of many: all together have 4 x DRAWN_TOKENS


@dataclass(frozen=True)
class Busiest:
    """Means over layers: the most experts of one GPU that a token chose; the most tokens that a
    GPU's experts compute, one for each choice; and the most tokens that a GPU sends to others or
    gets back from them, one for each GPU that has an expert of it."""

    experts: float
    rows: float
    leaving: float


@cache
def busiest_of(skew: str, gpus: int, experts: int, top_k: int, tokens: int) -> Busiest:
    """The busiest of so many GPUs, over which tokens and experts are spread evenly, in draws of
    fixed seeds."""
    drawn = min(tokens, DRAWN_TOKENS)
    layers = list[tuple[float, float, float]]()
    for seed in range(max(4, min(LAYERS, 4 * DRAWN_TOKENS // drawn))):
        routes = routing.draw(skew, gpus, experts, drawn, top_k, seed)
        rows, sent = routes.rows, routes.between
        chosen = np.bincount(routes.owner[rows["expert"] > 0], minlength=gpus).max()
        leaving = max(sent.sum(axis=1).max(), sent.sum(axis=0).max())
        layers.append((float(chosen), float(rows["rank"].max()), float(leaving)))

    chosen, rows_most, leaving = np.mean(layers, axis=0).tolist()
    return Busiest(chosen, rows_most * tokens / drawn, leaving * tokens / drawn)
