"""Groups things by what they share."""

from collections.abc import Callable, Iterable
from typing import TypeVar

Thing = TypeVar("Thing")
Shared = TypeVar("Shared")


def grouped(
    things: Iterable[Thing], shared: Callable[[Thing], Shared]
) -> dict[Shared, list[Thing]]:
    """The things by what each shares, in their order."""
    groups: dict[Shared, list[Thing]] = {}
    for thing in things:
        groups.setdefault(shared(thing), []).append(thing)

    return groups
