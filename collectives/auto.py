"""`auto`: the algorithm that a newcomer should use at a size.

What `bench.tune` has found best on this machine, for each state of the link; where it has found nothing, what is sane
everywhere.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from collectives.operation import Algorithm, Build, Case, Operation, Pick, Traffic, Unsupported, World

SAME_STATE_RATIO = 1.5  # of round trips, over launches; states were 2 to 5 times apart


def choose(size_bytes: int, ranks: int) -> str:
    """Without a table measured on this machine: fewest steps while latency decides, fewest bytes where bandwidth
    does."""
    return "one_shot_pull" if size_bytes * (ranks - 1) <= 128 << 10 else "two_shot"


def choose_direct_pull(size_bytes: int, ranks: int) -> str:
    """Of the other collectives: no way is shorter, and what is pulled is stored no more often than it has to be."""
    return "direct_pull"


def picked(picks: Sequence[Pick], case: Case, ranks: int) -> list[Pick]:
    """What was found best in each state of the link, at the size nearest of those that were searched in it; none where
    nothing was."""
    asked = case.collective.name, ranks, case.variant
    found = [pick for pick in picks if (pick.collective, pick.ranks, pick.variant) == asked and case.segment_bytes]
    states: list[list[Pick]] = []
    for pick in sorted(found, key=lambda pick: pick.link_rtt_ns):
        if not states or not same_state(states[-1][0].link_rtt_ns, pick.link_rtt_ns):
            states.append([])
        states[-1].append(pick)
    return [min(state, key=lambda pick: abs(math.log(pick.size_bytes / case.segment_bytes))) for state in states]


def same_state(one_ns: float, other_ns: float) -> bool:
    """Whether two round trips of a flag, perhaps of two launches, are of one state of the link."""
    return max(one_ns, other_ns) <= SAME_STATE_RATIO * min(one_ns, other_ns)


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
        for best in candidates(world, case, ranks):
            picks = {pick.link_rtt_ns: bound(pick.algorithm) for pick in best}
            by_link = {rtt_ns: found for rtt_ns, found in picks.items() if isinstance(found, Operation)}
            if by_link:
                return replace(next(iter(by_link.values())), by_link=by_link)
        return bound(choose(case.segment_bytes, ranks))

    def candidates(world: World, case: Case, ranks: int) -> Iterator[list[Pick]]:
        """What was found best. Lossy algorithms only where one is it in every state of the link: what a result is must
        not hang on that."""
        def base(pick: Pick) -> Algorithm:
            return by_name[pick.algorithm.partition("+")[0]]

        known = [pick for pick in world.picks if pick.collective == case.collective.name]
        if world.lossy:
            best = picked(sorted(known, key=lambda pick: not base(pick).lossy), case, ranks)
            if len({base(pick).name for pick in best}) == 1 and base(best[0]).lossy:
                yield best
        yield picked([pick for pick in known if not base(pick).lossy], case, ranks)

    def traffic(ranks: int, case: Case) -> Traffic | None:
        return by_name[choose(case.segment_bytes, ranks)].traffic(ranks, case)

    def variants(world: World) -> tuple[str, ...]:
        """Of whatever may be chosen."""
        return tuple(dict.fromkeys(variant for algorithm in algorithms for variant in algorithm.variants(world)))

    return Algorithm("auto", "what is chosen for the size", bind, traffic, variants)
