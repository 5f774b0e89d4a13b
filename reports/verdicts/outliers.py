"""Slow nodes among equal ones: `screen` compares each node with its peers, size by size and over
all sizes; `explain_pairs` tells a slow node from a slow cable. Values are logs of costs."""

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri, stdtrit

from reports.verdicts.verdict import POWER, Bools, Floats, Integers

MARGIN = 0.02  # a node that is slower by less is not named
LEAST_NODES = 4  # below, the spread of peers is unknown
LEAST_LAUNCHES = 3  # that replicate a slow node
LEAST_IN_RACK, LEAST_PEERS = 3, 2  # nodes of a rack; other pairs of a node, to separate it
REPORT_P = 0.05  # chance of any alarm in a report on fleets without a slow node
LEVEL_P, SIZE_P, RACK_P = 0.4, 0.4, 0.2  # its shares: tests over all sizes, of one size, of racks
# Deviations count up to CLIP robust standard deviations, so that slow nodes do not hide each other;
# a normal distribution keeps KEPT of its variance. The standard deviation of n clipped values then
# varies like one with FREEDOM (n - 1) degrees of freedom, by simulation for 4 to 200 values.
CLIP, KEPT, FREEDOM = 2.0, 0.7737, 0.75
ALL = -1  # the column of a finding over all sizes


@dataclass
class Screen:
    """Each node against its peers. Arrays have a row for each node: `launches`; `excess` (nodes,
    sizes), the log of its cost over the peers' median, NaN if it was not measured; `level`, its
    mean over the sizes, with a 95 % interval from `low` to `high`, and `of_launch` (nodes,
    launches), the same of each launch; `is_slow` (nodes, sizes) and `is_slow_overall`;
    `is_replicated`: its launches agree. `slow_racks` has the excess of each slow rack.
    `detectable` is the slowdown (0.03: 3 %) that would be found in four of five fleets, infinite
    below LEAST_NODES."""

    launches: Integers
    excess: Floats
    level: Floats
    low: Floats
    high: Floats
    of_launch: Floats
    is_slow: Bools
    is_slow_overall: Bools
    is_replicated: Bools
    slow_racks: dict[str, float]
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
    racks: Sequence[str] = (),
    p: float = REPORT_P,
    margin: float = MARGIN,
) -> Screen:
    """Screens nodes by their launches, (launches, sizes), NaN where nothing was measured. `node_of`
    is the node of each launch, from 0; `racks` the rack of each node, "" for none; `p` the chance
    of any alarm if no node is slow.

    A node's value is the median of its launches. It is compared with the median node, in robust
    standard deviations of all nodes, by Student's test; Bonferroni's correction covers nodes, sizes
    and racks. Fewer than three launches cannot tell a slow node from disturbed launches."""
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
    found_racks = _slow_racks(level, typical, racks, RACK_P * p, margin)
    slow_racks = {
        rack: excess
        for rack, excess in found_racks.items()
        if agree(own_levels[[other == rack for other in racks]])
    }
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
        slow_racks,
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
    most = CLIP * np.median(np.abs(deviations)) / 0.6745
    clipped = np.clip(deviations, -most, most)
    return float(np.sqrt(np.mean(clipped**2) / KEPT))


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


def _slow_racks(
    level: Floats, error: float, racks: Sequence[str], p: float, margin: float
) -> dict[str, float]:
    """The median level of each rack that is slower than the fleet."""
    members = {rack: level[[other == rack for other in racks]] for rack in {*racks} - {""}}
    members = {rack: own for rack, own in members.items() if len(own) >= LEAST_IN_RACK}
    if len(members) < 2:
        return {}
    least = _least(p / len(members), np.full(len(level), error))[0]
    return {
        rack: float(np.median(own))
        for rack, own in sorted(members.items())
        if np.median(own) > max(least * np.sqrt(median_variance(len(own))), np.log1p(margin))
    }


def explain_pairs(pairs: Sequence[tuple[str, str]], screen: Screen) -> list[tuple[str, list[int]]]:
    """What explains the slow pairs: (a node, its slow pairs) if most of the node's pairs are slow
    and their launches agree, otherwise ("", the pair). A node with fewer than LEAST_PEERS other
    pairs explains nothing. The node with the most slow pairs comes first, as each pair is explained
    once."""
    level, open_pairs = screen.level, {int(pair) for pair in np.flatnonzero(screen.is_named)}
    explained = list[tuple[str, list[int]]]()
    while open_pairs:
        own = {
            node: [number for number, pair in enumerate(pairs) if node in pair]
            for number in open_pairs
            for node in pairs[number]
        }
        slow = {
            node: sorted(open_pairs.intersection(numbers))
            for node, numbers in own.items()
            if len(numbers) > LEAST_PEERS
        }
        slow = {
            node: numbers
            for node, numbers in slow.items()
            if len(numbers) > 1
            and 2 * len(numbers) > len(own[node])
            and agree(screen.of_launch[own[node]])
        }
        if not slow:
            break
        worst = max(slow, key=lambda node: (len(slow[node]), float(np.sum(level[slow[node]]))))
        explained.append((worst, slow[worst]))
        open_pairs -= {*slow[worst]}
    return [*explained, *(("", [pair]) for pair in sorted(open_pairs, key=lambda n: -level[n]))]
