"""How a run divides its time: the length of blocks, the rounds of slow groups, a round's order."""

import random
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from bench.harness.iteration import Iteration
from bench.harness.suite import Suite
from bench.harness.timing import PILOT_S

LONGEST_BLOCK_S = 0.1  # a stop waits for the block's end
LEAST_GROUP_ROUNDS = 16  # of a slow group: six even rounds give an interval in the longest state


def fewest_iterations(iteration: Iteration) -> int:
    """Of a block: three for a median; one chain of 160 calls, or one as long as a whole block."""
    is_long = iteration.chain_calls or iteration.duration_s > LONGEST_BLOCK_S
    return 1 if is_long else 3


def block_cost_s(iteration: Iteration, checks: int, block_s: float) -> float:
    """The seconds that a block of `block_s` timed seconds takes altogether."""
    timed = max(fewest_iterations(iteration), block_s / iteration.duration_s)
    return 0.001 + iteration.duration_s * (timed + iteration.warmup + 2 * checks)


def warm_up_alike(iterations: Sequence[Iteration]) -> None:
    """Gives every case of a group the group's longest warm-up, of at most a pilot's length, because
    their times are subtracted: a pilot from warm caches finds too short a warm-up."""
    for own in (iteration for iteration in iterations if iteration.group):
        longest = max(each.warmup for each in iterations if each.group == own.group)
        own.warmup = max(own.warmup, min(longest, int(PILOT_S / own.duration_s)))


def fit_rounds(iterations: Sequence[Iteration], checks: int, budget_s: float, rounds: int) -> int:
    """The number of rounds that fit the budget in seconds, and `every` of the iterations. That is
    `rounds`, if the shortest blocks of all groups fit as often. Otherwise the most expensive groups
    run in every third, fifth, ... round alone (odd, so that they see odd and even rounds), as long
    as each keeps LEAST_GROUP_ROUNDS; if that is not enough, there are fewer rounds."""
    cost_s = defaultdict[str, float](float)
    for iteration in iterations:
        if group := iteration.group:
            cost_s[group] += block_cost_s(iteration, checks, 0.0)
    every = dict.fromkeys(cost_s, 1)
    while sum(cost_s[group] / every[group] for group in every) * rounds > budget_s:
        slowable = [group for group in every if rounds / (every[group] + 2) >= LEAST_GROUP_ROUNDS]
        if slowable:
            every[max(slowable, key=lambda group: cost_s[group] / every[group])] += 2
        elif rounds > LEAST_GROUP_ROUNDS:
            rounds = max(LEAST_GROUP_ROUNDS, rounds * 3 // 4)
            every = dict.fromkeys(cost_s, 1)
        else:
            break
    for iteration in iterations:
        iteration.every = every.get(iteration.group, iteration.every)
    return rounds


def set_block_lengths(
    iterations: Sequence[Iteration], checks: int, budget_s: float, rounds: int, requested: int
) -> None:
    """Makes blocks so long that `rounds` rounds fit the budget, or hold `requested` iterations."""

    def cost_s(length_s: float) -> float:
        return rounds * sum(
            block_cost_s(iteration, checks, length_s) / iteration.every for iteration in iterations
        )

    lengths_s = np.geomspace(LONGEST_BLOCK_S, 2e-4, 40)
    length_s = next(
        (length_s for length_s in lengths_s if cost_s(length_s) <= budget_s), lengths_s[-1]
    )
    for iteration in iterations:
        iteration.count = max(fewest_iterations(iteration), int(length_s / iteration.duration_s))
        if requested:
            most = max(1, int(LONGEST_BLOCK_S / iteration.duration_s))
            iteration.count = min(-(-requested // rounds), most)


def visits(
    suite: Suite, active: Sequence[int], round_: int, seed: int
) -> list[tuple[int, int | None]]:
    """The order of a round: sizes at random, and within a size its cases and its probe of the link
    (None) at random, so that compared blocks stand close in time. Returns sizes and cases."""
    groups: dict[tuple[int, str], list[int | None]] = {}
    for number in active:
        size, iteration = suite.headers[number].size_bytes, suite.iterations[number]
        phase = round_ if iteration.group else number + round_  # a group's cases run together
        if round_ and phase % iteration.every:
            continue
        groups.setdefault((size, iteration.group), []).append(number)
    draw = random.Random(f"{seed} {round_}")  # alike on all ranks
    visited: list[tuple[int, int | None]] = []
    for size, group in draw.sample(list(groups), len(groups)):
        members = groups[size, group]
        if size in suite.link_parts:
            members = [*members, None]
        visited += [(size, member) for member in draw.sample(members, len(members))]
    return visited
