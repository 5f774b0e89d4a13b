"""The links of a chain: the kernels that make the next send buffer between two calls.

The chain from a graph is what GPUs do when a model decodes, so it leads: it is the first table of a
run, and its times are those of a call alone, without the link. A chain that is launched call by
call keeps its links, which overlap with its calls.

Nothing holds the ranks together while links run alone. On a shared card, links of 1 MiB took 2.2 us
in some blocks and 8 us in others, more than a whole call with its link. So a link is the median of
the blocks in its lower mode, of all rows of a size, which have the same link. The least of them
would be too short and the call too long: docs/experiments/decisions.md has both by simulation."""

from collections.abc import Mapping, Sequence
from math import exp, hypot, log
from operator import itemgetter
from statistics import median

import numpy as np
from msgspec.structs import replace

from wiretax.common.grouped import grouped
from wiretax.record.case import key_of
from wiretax.record.schema import LEAST_US, Block, Result, Run, Summary
from wiretax.record.stats import MOST_HALF, Interval, autocorrelation, median_interval

# The lower mode has the links of at most MODE_RATIO times this quantile. The quantile is a link of
# the lower mode if at least one link in twenty is.
LOW_QUANTILE = 0.05
# Between the modes of the runs in docs/experiments/runs: most links of the lower mode are within
# 2 % of the quantile, and the median of the longer links is 1.5 to 3.9 times the lower mode's.
MODE_RATIO = 1.5
# A call with its link takes at least so many times as long as its link; otherwise the difference is
# the error of a link that runs alone. In the archived runs all calls take longer.
HIDING_RATIO = 1.15
ROW_FIELDS = ("variant", "memory", "algorithm", "library")  # in which rows of a size differ


def takes_links_off(run: Run) -> bool:
    """Whether the times of this run's chains are without their link: on GPUs, from a graph."""
    return bool(run.gpus and run.method.get("graph"))


def leads(result: Result) -> bool:
    """Whether the chain is the first table, and isolated calls, which contain two stamps and an
    empty launch, the second."""
    is_chained = any(case.mode == "chained" and case.time_us for case in result.cases)
    return is_chained and takes_links_off(result.run)


def links_of(run: Run, by_case: Mapping[int, Sequence[Block]]) -> dict[int, Summary]:
    """The link, in us, of each case of a leading chain, by its number, from the blocks that count.
    It has an interval from six rounds on."""
    if not takes_links_off(run):
        return {}

    chained = [number for number in by_case if run.cases[number].mode == "chained"]
    rows = grouped(chained, lambda number: key_of(run.cases[number], ROW_FIELDS)).values()
    series_us = dict[tuple[int, ...], list[float]]()
    for numbers in rows:
        blocks = [block for number in numbers for block in by_case[number] if _has_link(block)]
        if blocks:  # a row without links of its own has those of its size
            series_us[tuple(numbers)] = _link_of_rounds(blocks)
    rho = autocorrelation([*series_us.values()])
    links = dict[int, Summary]()
    for of_size, rounds_us in series_us.items():
        middle, low, high = median_interval(rounds_us, rho)
        link = Summary(median=middle, ci_low=low, ci_high=high, n_blocks=len(rounds_us))
        links |= dict.fromkeys(of_size, link)

    return links


def hidden_calls(
    links: Mapping[int, Summary], by_case: Mapping[int, Sequence[Block]]
) -> frozenset[int]:
    """The cases whose link alone took about as long as a call with its link, or longer: what the
    call took is unknown."""
    return frozenset(
        case
        for case, link in links.items()
        if median(block.time_us for block in by_case[case]) < HIDING_RATIO * link.median
    )


def _has_link(block: Block) -> bool:
    return (block.chain_only_us or 0.0) > 0


def _link_of_rounds(blocks: Sequence[Block]) -> list[float]:
    """The median of the links in the lower mode of each round that has one, in order, in us: links
    of one round may have the same error, so rounds are the independent values."""
    links_us = [(block.round, block.chain_only_us or 0.0) for block in blocks]
    # An interpolated quantile would lie between the modes where one of 20 blocks is in the lower.
    quantile_us = np.quantile([us for _, us in links_us], LOW_QUANTILE, method="lower")
    low = [(turn, us) for turn, us in links_us if us <= MODE_RATIO * quantile_us]
    by_round = grouped(sorted(low), itemgetter(0))
    return [median(us for _, us in of_round) for of_round in by_round.values()]


def time_with_link_error(time: Summary, link: Summary) -> Summary:
    """A time from which the link was taken off, with the error of the link in its interval: both
    are independent, so their half-widths add up in quadrature. No interval if one has none."""
    if time.ci_low is None or time.ci_high is None or link.ci_low is None or link.ci_high is None:
        return replace(time, ci_low=None, ci_high=None)

    # A link that is longer than its estimate makes the call shorter.
    down_us = hypot(time.median - time.ci_low, link.ci_high - link.median)
    up_us = hypot(time.ci_high - time.median, link.median - link.ci_low)
    return replace(time, ci_low=max(time.median - down_us, LEAST_US), ci_high=time.median + up_us)


def ratio_with_link_error(
    ratio: Interval, link: Summary, first_us: float, second_us: float
) -> Interval:
    """The interval of the ratio of two times, (a - L) / (b - L), with the error of their link L,
    which shifts its logarithm by |1 / (b - L) - 1 / (a - L)| for each microsecond. No interval if
    one has none, or if the shift is beyond a factor of a million."""
    middle, low, high = ratio
    if not low or not high or link.ci_low is None or link.ci_high is None:
        return middle, None, None

    shift = abs(1 / second_us - 1 / first_us) * (link.ci_high - link.ci_low) / 2
    if shift > MOST_HALF:
        return middle, None, None

    down, up = hypot(log(middle / low), shift), hypot(log(high / middle), shift)
    return middle, middle * exp(-down), middle * exp(up)
