"""`auto`: the algorithm that a newcomer should use at a size."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from collectives.operation import Algorithm, Case, Operation, Traffic, Unsupported, World


def choose(size_bytes: int, ranks: int) -> str:
    """Without a table measured on this machine: fewest steps while latency decides, fewest bytes where bandwidth
    does."""
    return "one_shot_pull" if size_bytes * (ranks - 1) <= 128 << 10 else "two_shot"


def choose_direct_pull(size_bytes: int, ranks: int) -> str:
    """Of the other collectives: no way is shorter, and what is pulled is stored no more often than it has to be."""
    return "direct_pull"


def choosing_among(algorithms: Sequence[Algorithm], choose: Callable[[int, int], str]) -> Algorithm:
    """An algorithm that binds the one chosen for the size, and says which."""
    by_name = {algorithm.name: algorithm for algorithm in algorithms}

    def bind(world: World, case: Case) -> Operation | Unsupported:
        name = choose(case.segment_bytes, world.communicator.size)
        bound = by_name[name].bind(world, case)
        return bound if isinstance(bound, Unsupported) else replace(bound, chosen=name)

    def traffic(ranks: int, case: Case) -> Traffic:
        return by_name[choose(case.segment_bytes, ranks)].traffic(ranks, case)

    def variants(world: World) -> tuple[str, ...]:
        """Of whatever may be chosen."""
        return tuple(dict.fromkeys(variant for algorithm in algorithms for variant in algorithm.variants(world)))

    return Algorithm("auto", "what is chosen for the size", bind, traffic, variants)
