"""`auto`: what bench.tune measured as best here, or a choice that is reasonable everywhere."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from collectives.operation import Algorithm, Bound, Case, Operation, TunedChoice, World

SAME_STATE_RATIO = 1.5  # of two round trips in one state; states were 2 to 5 times apart


def choose(size_bytes: int, ranks: int) -> str:
    """The default all-reduce: fewest steps where latency dominates, fewest bytes elsewhere."""
    return "one_shot_pull" if size_bytes * (ranks - 1) <= 128 << 10 else "two_shot"


def choose_direct_pull(size_bytes: int, ranks: int) -> str:
    """The default of the other collectives: the shortest way, with the fewest stores."""
    return "direct_pull"


def same_state(rtt_a_ns: float, rtt_b_ns: float) -> bool:
    """Whether two round trips of a flag, perhaps of two launches, show one state of the link."""
    return max(rtt_a_ns, rtt_b_ns) <= SAME_STATE_RATIO * min(rtt_a_ns, rtt_b_ns)


def choices_for(choices: Sequence[TunedChoice], case: Case, ranks: int) -> list[TunedChoice]:
    """The best algorithm in each tuned state of the link, at the nearest size that was tuned."""
    if not case.segment_bytes:
        return []
    key = case.collective.name, ranks, case.variant
    comparable = [choice for choice in choices
                  if (choice.collective, choice.ranks, choice.variant) == key]
    states: list[list[TunedChoice]] = []
    for choice in sorted(comparable, key=lambda choice: choice.link_rtt_ns):
        if not states or not same_state(states[-1][0].link_rtt_ns, choice.link_rtt_ns):
            states.append([])
        states[-1].append(choice)

    def distance(choice: TunedChoice) -> float:
        return abs(math.log(choice.size_bytes / case.segment_bytes))

    return [min(state, key=distance) for state in states]


def choosing_among(algorithms: Sequence[Algorithm],
                   choose: Callable[[int, int], str]) -> Algorithm:
    """`auto`: binds the tuned choice for each state of the link, or `choose(size_bytes, ranks)`."""
    by_name = {algorithm.name: algorithm for algorithm in algorithms}

    def bind_named(world: World, case: Case, name: str) -> Bound:
        base, _, words = name.partition("+")
        bound = by_name[base].built(words).bind(world, case)
        return replace(bound, chosen=name) if isinstance(bound, Operation) else bound

    def bind(world: World, case: Case) -> Bound:
        ranks, by_link = world.communicator.size, dict[float, Operation]()
        for choice in choices_for(world.choices, case, ranks):
            bound = bind_named(world, case, choice.algorithm)
            if isinstance(bound, Operation):
                by_link[choice.link_rtt_ns] = bound
        if by_link:
            return replace(next(iter(by_link.values())), by_link=by_link)
        return bind_named(world, case, choose(case.segment_bytes, ranks))

    return Algorithm("auto", "the best for the size: as bench.tune measured, or a default", bind,
                     registered=True)
