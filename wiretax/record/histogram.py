"""How long the steps of blocks took, as counts in bins that no run chooses: blocks, launches and
runs add up. A step is one timed iteration: a call, or in a chain all its calls with their links.

A bin is 1/70 of an octave, 0.995 %, wide: bin k has the steps from 2^(k/70) ns to 2^((k+1)/70) ns,
and bin 0 also shorter ones. Counts are written as HdrHistogram's encoding V2 does, from bin 0 on:
LEB128 of zigzag numbers, in which -n stands for n empty bins; without its header, which would be
longer than most blocks' counts, and in base64."""

from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wiretax.record.schema import Block, Steps

BINS_PER_OCTAVE = 70
# Steps take less than 1e15 us.
MOST_BINS = int(BINS_PER_OCTAVE * np.log2(1e18)) + 1
Counts = NDArray[np.int64]


def steps_of(steps_us: ArrayLike) -> Steps:
    """The record of a block's steps, (n,) in us, at least one."""
    steps_us = np.asarray(steps_us, dtype=float)
    bins = BINS_PER_OCTAVE * np.log2(np.maximum(steps_us * 1e3, 1.0))
    first = int(bins.min())
    counts = np.bincount(bins.astype(np.int64) - first)
    least_us, most_us = float(steps_us.min()), float(steps_us.max())
    return Steps(round(least_us, 6), round(most_us, 6), _encoded(first, counts.tolist()))


def _encoded(first: int, counts: Sequence[int]) -> str:
    numbers, empty = list[int](), first
    for count in counts:
        if count:
            numbers += [-empty, count] if empty else [count]
        empty = 0 if count else empty + 1

    content = bytearray()
    for number in numbers:
        rest = 2 * number if number >= 0 else -2 * number - 1
        while rest >= 0x80:
            content.append(rest & 0x7F | 0x80)
            rest >>= 7
        content.append(rest)
    return b64encode(content).decode()


def counts_of(steps: Steps, n: int) -> tuple[int, list[int]]:
    """The first bin with a step, and the counts from there on, which are `n` in all. Raises
    ValueError for other text."""
    numbers, rest, shift = list[int](), 0, 0
    for byte in b64decode(steps.counts, validate=True):
        rest |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            numbers.append(-(rest + 1) // 2 if rest & 1 else rest // 2)
            rest = shift = 0
        elif shift > 63:
            raise ValueError("a count of steps is too long")

    counts = list[int]()
    for number in numbers:
        n_bins = len(counts) + max(-number, 1)
        if number == 0 or n_bins > MOST_BINS:
            raise ValueError("counts of steps are not in order")
        counts += [0] * -number if number < 0 else [number]
    if sum(counts) != n or not counts[-1:] or not counts[-1] or shift:
        raise ValueError(f"counts of steps are not {n} in all")

    first = next(place for place, count in enumerate(counts) if count)
    return first, counts[first:]


@dataclass(frozen=True, eq=False)
class Tally:
    """The steps of a case: `counts`, (blocks, bins), of the bins from `first` on, the launch of
    each block, by numbers from 0 on, and the shortest and longest step."""

    first: int
    counts: Counts
    launches: Counts
    least_us: float
    most_us: float

    @property
    def n(self) -> int:
        return int(self.counts.sum())

    @cached_property
    def edges_us(self) -> NDArray[np.float64]:
        """Where the bins begin, and the last one ends, (bins + 1,)."""
        numbers = np.arange(self.first, self.first + self.counts.shape[1] + 1)
        edges_us = 2.0 ** (numbers / BINS_PER_OCTAVE) / 1e3
        return np.asarray(edges_us if self.first else np.append(0.0, edges_us[1:]))

    def quantile_us(self, share: float) -> float:
        """The least time, in us, that at least this share of all steps, from 0 to 1, does not
        exceed: to 1 %, between the ends of its bin by its place among the bin's steps."""
        of_bins = self.counts.sum(axis=0)
        reached, rank = np.cumsum(of_bins), share * self.n
        # The sum of shares may be above 1 by an error of rounding.
        place = min(int(np.searchsorted(reached, rank)), len(reached) - 1)
        part = 1 - (reached[place] - rank) / max(of_bins[place], 1)
        low_us, high_us = self.edges_us[place : place + 2]
        return float(np.clip(low_us + part * (high_us - low_us), self.least_us, self.most_us))

    def above(self, limit_us: float) -> NDArray[np.float64]:
        """How many steps of each block take longer, (blocks,): of the limit's own bin by the part
        of the bin above it."""
        reached = np.cumsum(np.pad(self.counts, ((0, 0), (1, 0))), axis=1)
        below = [np.interp(limit_us, self.edges_us, of_block) for of_block in reached]
        return np.asarray(reached[:, -1] - below)


def tally(blocks: Sequence[Block], launch: int = 0) -> Tally | None:
    """The steps of these blocks of one case and launch: all of them, since the blocks that the
    state of the link leaves out are the tail. None if a block has none, as in runs of older
    versions. Raises ValueError for damaged counts."""
    if not blocks or any(block.steps is None for block in blocks):
        return None

    found = [(block.steps, *counts_of(block.steps, block.n)) for block in blocks if block.steps]
    low = min(first for _, first, _ in found)
    high = max(first + len(counts) for _, first, counts in found)
    counts = np.zeros((len(found), high - low), np.int64)
    for row, (_, first, own) in zip(counts, found, strict=True):
        row[first - low : first - low + len(own)] = own
    return Tally(
        low,
        counts,
        np.full(len(found), launch),
        min(steps.least_us for steps, *_ in found),
        max(steps.most_us for steps, *_ in found),
    )


def add(tallies: Sequence[Tally]) -> Tally:
    """All steps of these tallies, whose launches become different ones."""
    low = min(each.first for each in tallies)
    high = max(each.first + each.counts.shape[1] for each in tallies)
    launches, n_launches = list[Any](), 0
    for each in tallies:
        launches.append(each.launches + n_launches)
        n_launches += int(each.launches.max()) + 1
    widened = [
        np.pad(each.counts, ((0, 0), (each.first - low, high - each.first - each.counts.shape[1])))
        for each in tallies
    ]
    return replace(
        tallies[0],
        first=low,
        counts=np.concatenate(widened),
        launches=np.concatenate(launches),
        least_us=min(each.least_us for each in tallies),
        most_us=max(each.most_us for each in tallies),
    )
