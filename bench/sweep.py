"""The axes of a run: which sizes, algorithms and modes, and in which order."""

import random
from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")

CHAIN_CALLS = 160  # all-reduces of one token of a 70B model: 80 layers, two each
MOST_CHAINED_BYTES = 512 << 10


def sizes(smallest: int, largest: int, factor: int, element_bytes: int) -> list[int]:
    """From `smallest` to `largest` bytes, times `factor`; each cut down to whole elements."""
    found = []
    size = smallest
    while size <= largest:
        found.append(size // element_bytes * element_bytes)
        size = size * factor or element_bytes
    return list(dict.fromkeys(found))


def modes(mode: str | None, size_bytes: int) -> list[str]:
    """The modes in which a size is measured; None, the default, chains the sizes that decoding has."""
    if mode in ("isolated", "chained"):
        return [mode]
    return ["isolated", "chained"] if mode == "both" or size_bytes <= MOST_CHAINED_BYTES else ["isolated"]


def reason_against(mode: str, redop: str) -> str | None:
    """Why a mode has no meaning for an operation; None where it has."""
    return "a chain of products leaves every type's range" if mode == "chained" and redop == "prod" else None


def shuffled(items: Sequence[Item], seed: str) -> list[Item]:
    """The items in an order that all ranks draw alike."""
    return random.Random(seed).sample(items, len(items))
