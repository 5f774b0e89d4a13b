"""`auto`: the algorithm that a newcomer should use at a size."""

from collections.abc import Sequence
from dataclasses import replace

from collectives.operation import Algorithm, Case, Operation, Traffic, Unsupported, World


def choose(size_bytes: int, ranks: int) -> str:
    """Without a table measured on this machine: fewest steps while latency decides, fewest bytes where bandwidth
    does."""
    return "one_shot_pull" if size_bytes * (ranks - 1) <= 128 << 10 else "two_shot"


def choosing_among(algorithms: Sequence[Algorithm]) -> Algorithm:
    """An algorithm that binds the one chosen for the size, and says which."""
    by_name = {algorithm.name: algorithm for algorithm in algorithms}

    def bind(world: World, case: Case) -> Operation | Unsupported:
        name = choose(case.size_bytes, world.communicator.size)
        bound = by_name[name].bind(world, case)
        return bound if isinstance(bound, Unsupported) else replace(bound, chosen=name)

    def traffic(ranks: int, size_bytes: int) -> Traffic:
        return by_name[choose(size_bytes, ranks)].traffic(ranks, size_bytes)

    return Algorithm("auto", "what is chosen for the size", bind, traffic)
