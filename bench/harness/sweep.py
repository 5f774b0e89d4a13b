"""The axes of a run: which sizes, algorithms and modes, and in which order."""

import random
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

Item = TypeVar("Item")

CHAIN_CALLS = 160  # all-reduces of one token of a 70B model: 80 layers, two each
CHAIN_ROUND_TRIPS = 58  # of one token of DeepSeek-V3: its layers with experts
MOST_CHAINED_BYTES = 512 << 10


def sizes(smallest: int, largest: int, factor: int, element_bytes: int) -> list[int]:
    """From `smallest` to `largest` bytes, times `factor`; from 0 on to one element."""
    found = []
    size = smallest
    while size <= largest:
        found.append(size)
        size = size * factor or element_bytes
    return found


def modes(mode: str | None, size_bytes: int, beside: bool = False) -> list[str]:
    """The modes in which a size is measured; None, the default, chains the sizes that decoding has, and `as_used`, the
    default where something goes on beside that a single short call would hardly meet, has these chained alone."""
    mode = mode or ("as_used" if beside else None)
    if mode in ("isolated", "chained"):
        return [mode]
    if mode == "as_used":
        return ["chained" if size_bytes <= MOST_CHAINED_BYTES else "isolated"]
    return ["isolated", "chained"] if mode == "both" or size_bytes <= MOST_CHAINED_BYTES else ["isolated"]


def disturbed(shapes: Sequence[Mapping[str, Any]], skews_us: Sequence[float],
              beside: str | None) -> list[Mapping[str, Any]]:
    """Each shape of a collective, with a rank late by so much (0 is the shape itself), and with this beside it."""
    late: list[dict[str, Any]] = [{"arrival_skew_us": skew_us} if skew_us else {} for skew_us in skews_us]
    return [{**shape, **how} for shape in shapes for how in [*late, *([{"beside": beside}] if beside else [])]]


def reason_against(mode: str, redop: str, shape: Mapping[str, Any], ranks: int) -> str | None:
    """Why a mode or a shape has no meaning for an operation or so many ranks; None where it has."""
    if "arrival_skew_us" in shape and ranks == 1:
        return "one rank waits for nobody"
    if mode == "chained" and shape.get("way") in ("dispatch", "combine"):
        return "a chain goes on from where it ends; round_trip does"
    if mode == "chained" and shape.get("way") == "one_way":
        return "one way nothing comes back that the next message could hang on; ping_pong is its chain"
    return "a chain of products leaves every type's range" if mode == "chained" and redop == "prod" else None


def shuffled(items: Sequence[Item], seed: str) -> list[Item]:
    """The items in an order that all ranks draw alike."""
    return random.Random(seed).sample(items, len(items))
