"""`auto`: the algorithm that a newcomer should use at a size.

What `bench.tune` has found best on this machine, for each state of the link; where it has found nothing, what is sane
everywhere.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from collectives.operation import Algorithm, Build, Case, Operation, Pick, Traffic, Unsupported, World


def choose(size_bytes: int, ranks: int) -> str:
    """Without a table measured on this machine: fewest steps while latency decides, fewest bytes where bandwidth
    does."""
    return "one_shot_pull" if size_bytes * (ranks - 1) <= 128 << 10 else "two_shot"


def choose_direct_pull(size_bytes: int, ranks: int) -> str:
    """Of the other collectives: no way is shorter, and what is pulled is stored no more often than it has to be."""
    return "direct_pull"


def picked(picks: Sequence[Pick], case: Case, ranks: int) -> list[Pick]:
    """What was found best for the nearest size, in each state of the link; none where nothing was."""
    asked = case.collective.name, ranks, case.variant
    found = [pick for pick in picks if (pick.collective, pick.ranks, pick.variant) == asked]
    if not found or not case.segment_bytes:
        return []
    nearest = min((pick.size_bytes for pick in found), key=lambda size: abs(math.log(size / case.segment_bytes)))
    return [pick for pick in found if pick.size_bytes == nearest]


def built(algorithm: Algorithm, words: str) -> Algorithm:
    """The algorithm in the build that these words say: its name is followed by them. Raises ValueError."""
    if not words:
        return algorithm
    build = Build.of(words)
    return replace(algorithm, name=f"{algorithm.name}+{words}",
                   bind=lambda world, case: algorithm.bind(world, replace(case, build=build)))


def choosing_among(algorithms: Sequence[Algorithm], choose: Callable[[int, int], str]) -> Algorithm:
    """An algorithm that binds what is chosen for the size, one for each state of the link, and says which."""
    by_name = {algorithm.name: algorithm for algorithm in algorithms}

    def bind(world: World, case: Case) -> Operation | Unsupported:
        def bound(name: str) -> Operation | Unsupported:
            base, _, words = name.partition("+")
            found = built(by_name[base], words).bind(world, case)
            return found if isinstance(found, Unsupported) else replace(found, chosen=name)

        ranks = world.communicator.size
        picks = {pick.link_rtt_ns: bound(pick.algorithm) for pick in picked(world.picks, case, ranks)}
        by_link = {rtt_ns: found for rtt_ns, found in picks.items() if isinstance(found, Operation)}
        if not by_link:
            return bound(choose(case.segment_bytes, ranks))
        return replace(next(iter(by_link.values())), by_link=by_link)

    def traffic(ranks: int, case: Case) -> Traffic:
        return by_name[choose(case.segment_bytes, ranks)].traffic(ranks, case)

    def variants(world: World) -> tuple[str, ...]:
        """Of whatever may be chosen."""
        return tuple(dict.fromkeys(variant for algorithm in algorithms for variant in algorithm.variants(world)))

    return Algorithm("auto", "what is chosen for the size", bind, traffic, variants)
