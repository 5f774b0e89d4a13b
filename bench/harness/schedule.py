"""How a run divides its time: the length of blocks, the turns of slow groups, a round's order."""

import random
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from bench.harness.iteration import Iteration
from bench.harness.suite import Suite

LONGEST_BLOCK_S = 0.1  # a stop waits for the block's end
LEAST_TURNS = 16  # of a slow group: six even rounds give an interval in the longest state
Item = TypeVar("Item")


def fewest_iterations(iteration: Iteration) -> int:
    """Of a block: a median needs three, but a chain is 160 calls by itself, and one iteration of
    some sizes takes as long as a block may."""
    return 1 if iteration.chain_calls or iteration.iteration_s > LONGEST_BLOCK_S else 3


def block_cost_s(iteration: Iteration, checks: int, block_s: float) -> float:
    """The seconds that a block of `block_s` timed seconds takes altogether."""
    timed = max(fewest_iterations(iteration), block_s / iteration.iteration_s)
    repeats = 2 if iteration.executor else 1  # a feature's executor runs a block and its reference
    return 0.001 + iteration.iteration_s * (timed + iteration.warmup + 2 * checks) * repeats


def take_turns(iterations: Sequence[Iteration], checks: int, budget_s: float, rounds: int) -> int:
    """Returns the number of rounds that fit the budget.

    Where even the shortest blocks of all groups do not fit `rounds` times, slow groups run only in
    every k-th round (k odd, so that they see odd and even rounds), down to LEAST_TURNS.
    """
    cost_s: dict[str, float] = {}
    for iteration in iterations:
        if iteration.group:
            cost = block_cost_s(iteration, checks, 0.0)
            cost_s[iteration.group] = cost_s.get(iteration.group, 0.0) + cost
    every = dict.fromkeys(cost_s, 1)
    while sum(cost_s[group] / every[group] for group in every) * rounds > budget_s:
        slowable = [group for group in every if rounds / (every[group] + 2) >= LEAST_TURNS]
        if slowable:
            every[max(slowable, key=lambda group: cost_s[group] / every[group])] += 2
        elif rounds > LEAST_TURNS:
            rounds = max(LEAST_TURNS, rounds * 3 // 4)
            every = dict.fromkeys(cost_s, 1)
        else:
            break
    for iteration in iterations:
        iteration.every = every.get(iteration.group, iteration.every)
    return rounds


def set_block_lengths(iterations: Sequence[Iteration], checks: int, budget_s: float, rounds: int,
                      requested: int) -> None:
    """Makes blocks as long as `rounds` rounds over all iterations allow within the budget; or, with
    `requested` iterations a case, as long as it takes to run them."""
    def cost_s(length_s: float) -> float:
        return rounds * sum(block_cost_s(iteration, checks, length_s) / iteration.every
                            for iteration in iterations)

    lengths_s = np.geomspace(LONGEST_BLOCK_S, 2e-4, 40)
    fitting_s = [length_s for length_s in lengths_s if cost_s(length_s) <= budget_s]
    length_s = fitting_s[0] if fitting_s else lengths_s[-1]
    for iteration in iterations:
        if requested:
            most = max(1, int(LONGEST_BLOCK_S / iteration.iteration_s))
            iteration.count = min(-(-requested // rounds), most)
        else:
            fit = int(length_s / iteration.iteration_s)
            iteration.count = max(fewest_iterations(iteration), fit)


def shorten(iterations: Sequence[Iteration], share: float) -> None:
    """Cuts the blocks to a share of their length: the link has become slower."""
    for iteration in iterations:
        shorter = int(iteration.count * share * 0.9)
        iteration.count = max(fewest_iterations(iteration), shorter)


def visits(suite: Suite, active: Sequence[int], round_: int,
           seed: int) -> list[tuple[int, int | None]]:
    """The order of a round: sizes at random, and within a size its cases and its probe of the link
    (None) at random, so that compared blocks stand close in time. Returns sizes and cases."""
    def is_due(number: int) -> bool:  # the cases of a group together
        iteration = suite.iterations[number]
        phase = round_ if iteration.group else number + round_
        return round_ == 0 or phase % iteration.every == 0

    groups: dict[tuple[int, str], list[int | None]] = {}
    rare_sizes = set()
    for number in filter(is_due, active):
        size, iteration = suite.headers[number].size_bytes, suite.iterations[number]
        groups.setdefault((size, iteration.group), []).append(number)
        if iteration.every > 1:
            rare_sizes.add(size)
    order = shuffled(list(groups), f"{seed} {round_}")
    # Slow groups come last: if time runs out over one, all others have been measured.
    order.sort(key=lambda group: group[0] in rare_sizes)
    visited: list[tuple[int, int | None]] = []
    for size, group in order:
        probe: list[int | None] = [None] if size in suite.link_parts else []
        members = shuffled(groups[size, group] + probe, f"{seed} {round_} {size}")
        visited += [(size, member) for member in members]
    return visited


def shuffled(items: Sequence[Item], seed: str) -> list[Item]:
    """The items in an order that all ranks draw alike."""
    return random.Random(seed).sample(items, len(items))
