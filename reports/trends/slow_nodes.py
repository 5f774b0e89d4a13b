"""Slow nodes among equal ones: `screen` compares each node, or pair of nodes, with its equals
over all sizes; `slow_ends` names nodes by their slow pairs. Costs are logarithms; what
a screen reports are shares of the cost."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import ndtri, stdtrit

from reports.verdicts.verdict import POWER, Floats
from wiretax.record.stats import clipped

SLOW, SUSPECT, EQUAL = "SLOW", "SUSPECT", "fine"
PAIR = "+"  # between the labels of a pair
LEAST_SLOWDOWN = 0.02  # a node that is slower by less is not named
LEAST_NODES = 4  # below, the spread of equal nodes is unknown
LEAST_LAUNCHES = 3  # that replicate a slow node; or pairs of a node, to tell it from its partners
MOST_OF = 0.75  # the share of launches, or of pairs, that must be slow
REPORT_P = 0.05  # chance of any alarm in a report on fleets without a slow node
# Deviations count up to CLIP robust standard deviations, so that slow nodes do not hide each other;
# a normal distribution keeps KEPT of its variance. The standard deviation of n clipped values then
# varies like one with FREEDOM (n - 1) degrees of freedom, by simulation for 4 to 200 values.
CLIP, KEPT, FREEDOM = 2.0, 0.7737, 0.75


class Screening(NamedTuple):
    """What launches of nodes show. `nodes` has a row for each, by its name: `launches`; `slower`,
    the share by which it is slower than the median node over all sizes, with a 95 % interval from
    `low` to `high`; `verdict`."""

    nodes: Any  # a DataFrame, of whose rows pandas' types know nothing
    by_size: Any  # a DataFrame: that share at each size, (nodes, sizes), NaN if it was not measured
    detectable: float  # the slowdown (0.03: 3 %) that would be found in four of five fleets


def screen(log_costs: pd.DataFrame, p: float) -> Screening:
    """Screens four or more nodes by their launches: `log_costs` has a row for each (node, launch)
    and a column for each size, NaN where nothing was measured. `p` is the chance of any alarm if no
    node is slow.

    A node's value is the median of its launches. It is compared with the median node, in robust
    standard deviations of all nodes, by Student's test; Bonferroni's correction covers the nodes.
    Fewer than three launches cannot tell a slow node from disturbed launches."""
    of_node = log_costs.groupby(level=0).median()
    excess = of_node - of_node.median()
    level = excess.mean(axis=1)
    level_of_launch = (log_costs - of_node.median()).mean(axis=1) - level.median()
    level -= level.median()
    launches = level_of_launch.groupby(level=0).size()
    noise, share = launch_variance(level_of_launch), median_variance(launches.to_numpy())
    limits, errors = _limits(level, noise, share, p / len(level))
    is_slow = level > np.maximum(limits, np.log1p(LEAST_SLOWDOWN))
    verdicts = pd.Series(EQUAL, level.index)

    for node in level.index[is_slow]:
        verdicts[node] = SLOW if agree(level_of_launch[node]) else SUSPECT

    # Half the 95 % interval of a level: from the noise of the node's launches, or the spread of the
    # nodes if each has one launch, and from the noise of the median node.
    own = np.sqrt(noise * share) if noise else errors
    of_median = np.median(errors) * np.sqrt(median_variance(len(errors)))
    half = -stdtrit(FREEDOM * (len(errors) - 1), 0.025) * np.hypot(own, of_median)
    nodes = pd.DataFrame(
        {
            "launches": launches,
            "slower": np.expm1(level),
            "low": np.expm1(level - half),
            "high": np.expm1(level + half),
            "verdict": verdicts,
        }
    )
    found = np.expm1(np.median(limits) + ndtri(POWER) * np.median(errors))
    return Screening(nodes, np.expm1(excess), max(float(found), LEAST_SLOWDOWN))


def _limits(values: pd.Series, noise: float, share: Floats, p: float) -> tuple[Floats, Floats]:
    """The value that each node reaches with probability `p` if none is slow, and its standard
    deviation. Nodes with fewer launches than most vary more: a node has this `share` of `noise`,
    the variance between launches."""
    spread = _robust_variance(values - values.median())
    # Nodes that were launched again because of a disturbed launch must not set the noise.
    noise = min(noise, spread / float(np.mean(share)))
    errors = np.sqrt(np.maximum(spread + noise * (share - np.mean(share)), spread / 4))
    nodes = len(values)
    deviate = -stdtrit(FREEDOM * (nodes - 1), p) * np.sqrt(1 + median_variance(nodes))
    return np.asarray(deviate * errors), errors


def launch_variance(of_launch: pd.Series) -> float:
    """The variance between launches of a node; 0 if each node has one."""
    of_node = of_launch.groupby(level=0)
    counts = of_node.transform("size")
    several = counts > 1

    if not several.any():
        return 0.0

    # The mean of n launches follows them, so that deviations are too small.
    scale = np.sqrt(counts / (counts - 1).clip(lower=1))
    return _robust_variance(((of_launch - of_node.transform("mean")) * scale)[several])


def median_variance(n: Any) -> Floats:
    """The variance of the median of n values with variance 1: 1 for one, pi / 2n for many."""
    return np.asarray(np.pi / 2 / (n - 1 + np.pi / 2))


def _robust_variance(deviations: pd.Series) -> float:
    """The variance around 0, without the weight of outliers."""
    return float(np.mean(clipped(deviations.to_numpy(), CLIP) ** 2) / KEPT)


def agree(of_launch: Any) -> bool:
    """Whether launches replicate that something is slow: there are three or more, and three
    quarters of them exceed LEAST_SLOWDOWN and half of their median. Disturbed launches, even two of
    three, seldom do."""
    least = max(np.median(of_launch) / 2, np.log1p(LEAST_SLOWDOWN))
    return len(of_launch) >= LEAST_LAUNCHES and bool(np.mean(of_launch > least) >= MOST_OF)


def slow_ends(slow_pairs: Sequence[str], pairs: Sequence[str]) -> dict[str, list[str]]:
    """The nodes that explain slow pairs, with these pairs: of three pairs with the node or more,
    three quarters are slow."""
    explained = dict[str, list[str]]()
    for node in sorted({node for pair in slow_pairs for node in pair.split(PAIR)}):
        own = [pair for pair in pairs if node in pair.split(PAIR)]
        slow = [pair for pair in own if pair in slow_pairs]
        if len(own) >= LEAST_LAUNCHES and len(slow) >= MOST_OF * len(own):
            explained[node] = slow

    return explained
