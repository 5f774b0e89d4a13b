"""A chain's tail beside the one that its calls would give it, were each delayed by itself."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wiretax.record.effective_steps import has_interval
from wiretax.record.histogram import Tally, tally
from wiretax.record.schema import Block
from wiretax.record.stats import student_quantile
from wiretax.record.tails import percentile

POINTS = 1 << 15  # of time: after a stall of 50 ms a step between them is still 3 us
GROUPS = 8  # of neighbouring blocks, for the jackknife
JUDGED = 0.99
NOTABLE = 0.1  # of a P99
Floats = NDArray[np.float64]


def chain_beside_calls(isolated: Sequence[Block], chained: Sequence[Block], calls: int) -> str:
    """A sentence if the P99 of chains of so many calls is over NOTABLE away, beyond both intervals,
    from that of as many independent calls, given all blocks of the same row and size in either
    mode; else "". The P50s are taken as equal, because a chain has its links, and lacks the fixed
    costs of single calls. Raises ValueError for damaged counts."""
    single, chain = tally(isolated), tally(chained)
    if single is None or chain is None or not has_interval(single):
        return ""
    found = percentile(chain, JUDGED)
    if found is None or found.ci_low is None:
        return ""

    middle_us = chain.quantile_us(0.5)
    low_us, expected_us, high_us = (middle_us + us for us in beyond_middle_us(single, calls))
    told = f"A chain's P99 is {found.value / middle_us:.3g} x its P50, "
    if found.ci_low > high_us and found.value > (1 + NOTABLE) * expected_us:
        return (
            f"{told}more than independent calls would give it: delays outlast a call and hit many"
            " calls of a chain."
        )
    is_below = found.ci_high is not None and found.ci_high < low_us
    if is_below and expected_us > (1 + NOTABLE) * found.value:
        return (
            f"{told}less than independent calls would give it: delays come at regular intervals, or"
            " to single calls alone."
        )
    return ""


def beyond_middle_us(single: Tally, calls: int) -> tuple[float, float, float]:
    """How far, in us, the P99 of the sum of so many independent steps is above its P50, between the
    ends of its 95 % interval, by the jackknife over groups of blocks."""
    groups = np.array_split(single.counts, GROUPS)
    left = [single.of_bins - group.sum(axis=0) for group in groups]
    found, *without = _distances_us(single, np.array([single.of_bins, *left]), calls)
    error_us = np.std(without) * np.sqrt(GROUPS - 1)
    half_us = float(student_quantile(GROUPS - 1) * error_us)
    return found - half_us, found, found + half_us


def _distances_us(single: Tally, counts: NDArray[np.int64], calls: int) -> list[float]:
    """How far, in us, the P99 of the sum is above its P50, for steps with each of these (rows,
    bins) of counts in the bins of `single`."""
    shares = counts / counts.sum(axis=1, keepdims=True)
    mean_us = float(shares[0] @ single.middles_us)
    sigma_us = float(np.sqrt(calls * shares[0] @ (single.middles_us - mean_us) ** 2))
    # Sums are as far from their mean at the most, but for one in a million. Each bin is at the two
    # points around its middle, with the weights that keep its mean.
    step_us = 2 * (10 * sigma_us + single.most_us) / POINTS
    whole, part = np.divmod((single.middles_us - mean_us) / step_us, 1)
    points = np.zeros((len(shares), POINTS))
    for row, weights in zip(points, shares, strict=True):
        np.add.at(row, whole.astype(int) % POINTS, weights * (1 - part))
        np.add.at(row, (whole.astype(int) + 1) % POINTS, weights * part)

    # The sum of independent steps has the power of their transform.
    sums = np.fft.irfft(np.fft.rfft(points) ** calls, POINTS)
    reached = np.cumsum(np.fft.fftshift(sums, axes=1), axis=1)
    ends = [np.searchsorted(row, [0.5, JUDGED]) for row in reached]
    return [float((last - middle) * step_us) for middle, last in ends]
