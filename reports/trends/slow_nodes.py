"""Slow nodes among equal ones: `screen` compares each node, or pair of nodes, with its peers, size
by size and over all sizes; `slow_ends` names nodes by their slow pairs. Values are logs of costs.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from reports.store.schema import Run
from reports.store.stats import clipped
from reports.verdicts.verdict import POWER, Bools, Floats, Integers

SLOW, SUSPECT, EQUAL = "SLOW", "SUSPECT", "fine"
PAIR = "+"  # between the labels of a pair, as in the column `node`
MARGIN = 0.02  # a node that is slower by less is not named
LEAST_NODES = 4  # below, the spread of peers is unknown
LEAST_LAUNCHES = 3  # that replicate a slow node
LEAST_PEERS = 2  # other pairs of a node, to tell it from its partners
REPORT_P = 0.05  # chance of any alarm in a report on fleets without a slow node
# Its shares, for tests over all sizes and of one size. They leave a fifth: with all of it 5.6 % of
# 160 simulated reports had an alarm, for the limit is approximate.
LEVEL_P, SIZE_P = 0.4, 0.4
# Deviations count up to CLIP robust standard deviations, so that slow nodes do not hide each other;
# a normal distribution keeps KEPT of its variance. The standard deviation of n clipped values then
# varies like one with FREEDOM (n - 1) degrees of freedom, by simulation for 4 to 200 values.
CLIP, KEPT, FREEDOM = 2.0, 0.7737, 0.75


@dataclass
class Screen:
    """Each node against its peers. Arrays have a row for each node: `launches`; `excess` (nodes,
    sizes), the log of its cost over the peers' median, NaN if it was not measured; `level`, its
    mean over the sizes, with a 95 % interval from `low` to `high`, and `of_launch` (nodes,
    launches), the same of each launch; `is_slow` (nodes, sizes) and `is_slow_overall`;
    `is_replicated`: its launches agree. `detectable` is the slowdown (0.03: 3 %) that would be
    found in four of five fleets, infinite below LEAST_NODES."""

    launches: Integers
    excess: Floats
    level: Floats
    low: Floats
    high: Floats
    of_launch: Floats
    is_slow: Bools
    is_slow_overall: Bools
    is_replicated: Bools
    detectable: float

    @property
    def is_named(self) -> Bools:
        return np.asarray(self.is_slow_overall | self.is_slow.any(axis=1))


def shares(kinds: Sequence[Hashable]) -> list[float]:
    """The chance of a false alarm for each screen of a report, by what the screen compares, such as
    nodes or pairs: REPORT_P in all, an equal part for each kind, in equal parts for its screens."""
    counts = Counter(kinds)
    return [REPORT_P / len(counts) / counts[kind] for kind in kinds]


def screen(
    logs: Floats,
    node_of: Integers,
    p: float = REPORT_P,
    margin: float = MARGIN,
) -> Screen:
    """Screens nodes by their launches, (launches, sizes), NaN where nothing was measured. `node_of`
    is the node of each launch, from 0; `p` the chance of any alarm if no node is slow.

    A node's value is the median of its launches. It is compared with the median node, in robust
    standard deviations of all nodes, by Student's test; Bonferroni's correction covers nodes and
    sizes. Fewer than three launches cannot tell a slow node from disturbed launches."""
    by_node = by_launch(logs, node_of)
    launches = np.sum(np.isfinite(by_node).any(axis=2), axis=1)
    centre = median(median(by_node, 1), 0)
    by_node = by_node - centre
    excess = median(by_node, 1)
    nodes, sizes = excess.shape
    measured = np.isfinite(excess)
    part = mean(excess, 1)
    level = part - median(part, 0)
    is_slow = np.zeros(excess.shape, bool)
    replicated = np.zeros(excess.shape, bool)
    for size in range(sizes):
        rows = np.flatnonzero(measured[:, size])
        noise = launch_variance(by_node[rows, :, size])
        error = spread_of(excess[rows, size], launches[rows], noise)
        least = _least(SIZE_P * p / nodes / sizes, error)
        is_slow[rows, size] = excess[rows, size] > np.maximum(least, np.log1p(margin))
        for row in np.flatnonzero(is_slow[:, size]):
            replicated[row, size] = agree(by_node[row, :, size], margin)
    own_levels = mean(by_node, 2)
    noise = launch_variance(own_levels)
    error = spread_of(level, launches, noise)
    lacking = np.sum(~measured, axis=1)
    if lacking.any():  # fewer sizes average less
        rest = robust_deviation((excess - part[:, None])[measured])
        error = np.sqrt(error**2 + rest**2 * lacking / np.maximum(sizes - lacking, 1) / sizes)
    least = _least(LEVEL_P * p / nodes, error)
    overall = level > np.maximum(least, np.log1p(margin))
    own_levels = own_levels - median(part, 0)
    certain = [slow and agree(own, margin) for slow, own in zip(overall, own_levels, strict=True)]
    typical = float(np.median(error))
    within = np.sqrt(noise * median_variance(launches)) if np.isfinite(noise) else error
    half = -stdtrit(max(FREEDOM * (nodes - 1), 1), 0.025) * np.hypot(
        within, typical * np.sqrt(median_variance(nodes))
    )
    found = float(np.expm1(np.median(least) + ndtri(POWER) * typical))
    return Screen(
        launches,
        excess,
        level,
        level - half,
        level + half,
        own_levels,
        is_slow,
        overall,
        np.where(overall, certain, (is_slow & replicated).any(axis=1)),
        max(found, margin) if nodes >= LEAST_NODES else np.inf,
    )


def by_launch(logs: Floats, node_of: Integers) -> Floats:
    """(nodes, launches, sizes), with NaN for launches that a node lacks."""
    counts = np.bincount(node_of)
    order = np.argsort(node_of, kind="stable")
    place = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    by_node = np.full((len(counts), counts.max(), logs.shape[1]), np.nan)
    by_node[node_of[order], place] = logs[order]
    return by_node


def median(values: Floats, axis: int) -> Floats:
    """The median without NaN; NaN where all are. nanmedian takes ten times as long and warns."""
    ordered = np.sort(values, axis=axis)  # NaN last
    count = np.sum(np.isfinite(values), axis=axis, keepdims=True)
    ends = [
        np.take_along_axis(ordered, np.maximum(middle, 0), axis)
        for middle in ((count - 1) // 2, count // 2 - (count == 0))
    ]
    return np.asarray(np.squeeze((ends[0] + ends[1]) / 2, axis))


def mean(values: Floats, axis: int) -> Floats:
    """The mean without NaN; NaN where all are."""
    count = np.sum(np.isfinite(values), axis=axis)
    total = np.nansum(values, axis=axis)
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan))


def median_variance(n: Integers | int) -> Floats:
    """The variance of the median of n values with variance 1: 1 for one, pi / 2n for many."""
    return np.asarray(np.pi / 2 / (np.asarray(n) - 1 + np.pi / 2))


def robust_deviation(deviations: Floats) -> float:
    """The standard deviation around 0, without the weight of outliers."""
    return float(np.sqrt(np.mean(clipped(deviations, CLIP) ** 2) / KEPT))


def launch_variance(by_node: Floats) -> float:
    """The variance between launches of a node, (nodes, launches); NaN if each node has one."""
    counts = np.sum(np.isfinite(by_node), axis=1)
    several = by_node[counts > 1]
    if not len(several):
        return float("nan")
    means = mean(several, 1)[:, None]
    # The mean of n launches follows them, so that deviations are too small.
    scale = np.sqrt(counts[counts > 1] / (counts[counts > 1] - 1))[:, None]
    deviations = (several - means) * scale
    return robust_deviation(deviations[np.isfinite(deviations)]) ** 2


def spread_of(excess: Floats, launches: Integers, noise: float) -> Floats:
    """The standard deviation of each node's value. Nodes with fewer launches than most vary more,
    by the variance `noise` between launches."""
    variance = robust_deviation(excess - np.median(excess)) ** 2
    if np.isfinite(noise):
        share = median_variance(launches)
        # Nodes that were launched again because of a disturbed launch must not set the noise.
        own = min(noise, variance / float(np.mean(share))) * share
        return np.sqrt(np.maximum(variance + own - np.mean(own), variance / 4))
    return np.full(len(excess), np.sqrt(variance))


def agree(launches: Floats, margin: float = 0.0) -> bool:
    """Whether launches, NaN for none, replicate that something is slow: there are three or more,
    and three quarters of them exceed the margin and half of their median. Disturbed launches, even
    two of three, seldom do."""
    ordered = np.sort(launches[np.isfinite(launches)])
    n = len(ordered)
    return n >= LEAST_LAUNCHES and bool(
        ordered[(n - 1) // 4] > max(np.median(ordered) / 2, np.log1p(margin))
    )


def _least(p: float, error: Floats) -> Floats:
    """The excess that each of these nodes, whose values vary by `error`, reaches with probability
    `p`; infinite for too few nodes."""
    nodes = len(error)
    if nodes < LEAST_NODES:
        return np.full(nodes, np.inf)
    deviate = -stdtrit(FREEDOM * (nodes - 1), p) * np.sqrt(1 + median_variance(nodes))
    return np.asarray(deviate * error)


def slow_ends(pairs: Sequence[tuple[str, str]], screen: Screen) -> dict[str, list[int]]:
    """The nodes that explain slow pairs, with these pairs: most of the node's pairs are slow and
    their launches agree. A node with fewer than LEAST_PEERS other pairs explains nothing. The node
    with the most slow pairs comes first, as each pair is explained once."""
    level, open_pairs = screen.level, {int(pair) for pair in np.flatnonzero(screen.is_named)}
    explained = dict[str, list[int]]()
    while True:
        own = {
            node: [number for number, pair in enumerate(pairs) if node in pair]
            for number in open_pairs
            for node in pairs[number]
        }
        slow = {node: sorted(open_pairs.intersection(numbers)) for node, numbers in own.items()}
        slow = {
            node: numbers
            for node, numbers in slow.items()
            if len(own[node]) > LEAST_PEERS
            and len(numbers) > 1
            and 2 * len(numbers) > len(own[node])
            and agree(screen.of_launch[own[node]])
        }
        if not slow:
            return explained
        worst = max(slow, key=lambda node: (len(slow[node]), float(np.sum(level[slow[node]]))))
        explained[worst] = slow[worst]
        open_pairs -= {*slow[worst]}


@dataclass
class Group:
    """Nodes, or pairs of nodes, with equal hardware that were measured alike, in the order of the
    rows of `screen`. `head` is the head of one of the runs; `explained` has the slow pairs of nodes
    of which most pairs are slow; `disturbed`, by row, the shares of the CPU time that the
    hypervisor withheld from disturbed launches."""

    head: Run
    names: list[str]
    sizes_bytes: list[int]
    screen: Screen
    disturbed: dict[int, list[float]]
    explained: dict[str, list[int]]

    @property
    def kind(self) -> str:
        return "pair" if PAIR in self.names[0] else "node"

    @property
    def title(self) -> str:
        return (
            f"{self.head.benchmark}, {self.head.world['size']} ranks, machine "
            f"{self.head.machine_id}"
        )

    def rests_on_disturbed(self, row: int) -> bool:
        """Whether all launches of a node were disturbed."""
        return len(self.disturbed.get(row, ())) == int(self.screen.launches[row])

    def verdict(self, row: int) -> str:
        if not self.screen.is_named[row]:
            return EQUAL
        is_certain = self.screen.is_replicated[row] and not self.rests_on_disturbed(row)
        return SLOW if is_certain else SUSPECT

    def slow_sizes(self, row: int) -> list[int]:
        """The sizes at which it is slow, if it is not slow over all."""
        if self.screen.is_slow_overall[row]:
            return []
        return [self.sizes_bytes[size] for size in np.flatnonzero(self.screen.is_slow[row])]

    @cached_property
    def figures(self) -> Floats:
        """The excess of each row with its 95 % interval, (rows, 3), as a share of the cost: over
        all sizes, or without an interval of its slowest size if only some sizes are slow."""
        seen = self.screen
        logs = np.stack([seen.level, seen.low, seen.high], axis=1)
        at_sizes = seen.is_slow.any(axis=1) & ~seen.is_slow_overall
        logs[at_sizes, 0] = np.nanmax(seen.excess[at_sizes], axis=1)
        logs[at_sizes, 1:] = np.nan
        return np.asarray(np.expm1(logs))

    def excess(self, row: int) -> str:
        """`+5.1% [+3.9% +6.2%]`, or `+5.1%` of the slowest size."""
        value, low, high = self.figures[row]
        return f"{value:+.1%}" + ("" if np.isnan(low) else f" [{low:+.1%} {high:+.1%}]")

    @property
    def order(self) -> list[int]:
        """The rows, named ones first, then slowest first."""
        value, is_named = self.figures[:, 0], self.screen.is_named
        return sorted(range(len(self.names)), key=lambda row: (not is_named[row], -value[row]))


class Family(NamedTuple):
    """Runs on nodes, or on pairs of nodes, that were measured alike: the head of one, the name of
    each row of `costs_us` (rows, keys, states), the share of the CPU time that was withheld from
    each if it was disturbed, otherwise 0, and the sizes of the keys in bytes."""

    head: Run
    names: list[str]
    costs_us: Floats
    disturbance: list[float]
    sizes: NDArray[Any]


def judged(families: Sequence[Family]) -> list[Group]:
    """The families, screened. Those with enough nodes share the false alarms of the report."""
    families = sorted(families, key=lambda family: -len({*family.names}))
    large = [family for family in families if len({*family.names}) >= LEAST_NODES]
    parts = shares([PAIR in family.names[0] for family in large])
    parts += [0.0] * (len(families) - len(large))
    return [_group(family, p) for family, p in zip(families, parts, strict=True)]


def _group(family: Family, p: float) -> Group:
    """Screens a family, with the chance `p` of a false alarm. A case counts in the state of the
    link that most nodes had; of a node that never had it in its own, so that a node with a slow
    link shows."""
    names, costs_us = sorted({*family.names}), family.costs_us
    node_of = np.array([names.index(name) for name in family.names])
    counts = np.array(
        [np.isfinite(costs_us[node_of == node]).sum(axis=0) for node in range(len(names))]
    )  # (nodes, keys, states)
    common = np.argmax((counts > 0).sum(axis=0), axis=-1)  # the fastest of equally frequent ones
    had_it = np.take_along_axis(counts, common[None, :, None], axis=2)[:, :, 0] > 0
    state_of = np.where(had_it, common, np.argmax(counts, axis=-1))
    has_costs = (counts > 0).any(axis=(0, 2))
    of_state = np.take_along_axis(costs_us, state_of[node_of][:, :, None], axis=2)[:, :, 0]
    logs = np.log(of_state[:, has_costs])
    size_of = family.sizes[has_costs]
    excess = logs - median(median(by_launch(logs, node_of), 1), 0)
    sizes_bytes = sorted({*size_of.tolist()})
    by_size = np.column_stack([mean(excess[:, size_of == size], 1) for size in sizes_bytes])
    disturbed: dict[int, list[float]] = defaultdict(list)
    for row, share in zip(node_of.tolist(), family.disturbance, strict=True):
        if share:
            disturbed[row].append(share)
    group = Group(family.head, names, sizes_bytes, screen(by_size, node_of, p), disturbed, {})
    if group.kind == "pair":
        pairs = [(name.split(PAIR)[0], name.split(PAIR)[1]) for name in names]
        group.explained = {
            node: rows
            for node, rows in slow_ends(pairs, group.screen).items()
            if not all(map(group.rests_on_disturbed, rows))
        }
    return group
