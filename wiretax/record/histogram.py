"""How long the steps of blocks took, as counts in bins that no run chooses: blocks, launches and
runs add up. A step is one timed iteration: a call, or in a chain all its calls with their links.

A bin is 1/70 of an octave, 0.995 %, wide: bin k has the steps from 2^(k/70) ns to 2^((k+1)/70) ns,
and bin 0 also shorter ones. Counts are written as HdrHistogram's encoding V2 does, from bin 0 on:
LEB128 of zigzag numbers, in which -n stands for n empty bins; without its header, which would be
longer than most blocks' counts, and in base64."""

from base64 import b64decode, b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wiretax.record.schema import Block, Steps

BINS_PER_OCTAVE = 70
# Steps take less than 1e15 us.
MOST_BINS = int(BINS_PER_OCTAVE * np.log2(1e18)) + 1
MOST_BYTES = 7  # of a number, so that those of all bins add up to less than 2^63
AT_ONCE = 500  # blocks that are decoded together: hostile ones take 100 MB
MOST_CELLS = 2_000_000  # of the counts of a case, 16 MB: 1,000 blocks of usual ones have 500,000
Counts = NDArray[np.int64]


def steps_of(steps_us: ArrayLike) -> Steps:
    """The record of a block's steps, (n,) in us, at least one."""
    # Of a clock that was set back, as that of a GPU may be: no report would read a negative time.
    steps_us = np.asarray(np.maximum(steps_us, 0.0), dtype=float)
    bins = _bins_of(steps_us)
    first = int(bins.min())
    counts = np.bincount(bins - first)
    least_us, most_us = float(steps_us.min()), float(steps_us.max())
    return Steps(round(least_us, 6), round(most_us, 6), _encoded(first, counts.tolist()))


def _bins_of(times_us: NDArray[np.float64]) -> Counts:
    octaves = np.log2(np.maximum(times_us * 1e3, 1.0))
    return np.asarray((BINS_PER_OCTAVE * octaves).astype(np.int64))


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


def placed_steps(blocks: Sequence[Block]) -> Iterator[tuple[Counts, Counts, Counts]]:
    """For each bin with steps of these blocks, which all have steps: the block's place, the bin and
    the count, in the order of blocks and bins, of AT_ONCE blocks together. Raises ValueError for
    damaged steps."""
    for at in range(0, len(blocks), AT_ONCE):
        rows, bins, counts = _placed(blocks[at : at + AT_ONCE])
        yield at + rows, bins, counts


def _placed(blocks: Sequence[Block]) -> tuple[Counts, Counts, Counts]:
    steps = [block.steps for block in blocks if block.steps]
    contents = [b64decode(each.counts, validate=True) for each in steps]
    content = np.frombuffer(b"".join(contents), np.uint8)
    stops = np.cumsum(list(map(len, contents)), dtype=np.int64)
    if not all(contents) or (content[stops - 1] >= 0x80).any():
        raise ValueError("counts of steps are cut off")

    ends = np.flatnonzero(content < 0x80) + 1
    starts = np.append(0, ends[:-1])
    if (ends - starts).max() > MOST_BYTES:
        raise ValueError("a count of steps is too large")
    shifts = 7 * (np.arange(len(content)) - np.repeat(starts, ends - starts))
    numbers = np.add.reduceat((content & 0x7F).astype(np.int64) << shifts, starts)
    is_count = numbers & 1 == 0
    counts, n_bins = np.where(is_count, numbers >> 1, 0), np.where(is_count, 1, (numbers + 1) >> 1)
    # Where each block's numbers stop, where they start, and the block and the bin of each.
    ends_of = np.searchsorted(ends, stops, side="right")
    firsts = np.append(0, ends_of[:-1])
    owners = np.repeat(np.arange(len(steps)), ends_of - firsts)
    before = np.cumsum(n_bins) - n_bins
    bins = before - before[firsts][owners]
    if not numbers.all() or not is_count[ends_of - 1].all() or n_bins.max() > MOST_BINS:
        raise ValueError("counts of steps are not in order")
    if bins.max() >= MOST_BINS:
        raise ValueError("counts of steps are of too many bins")
    if (np.add.reduceat(counts, firsts) != [block.n for block in blocks]).any():
        raise ValueError("counts of steps are not as many as the block's iterations")

    owners, bins, counts = owners[is_count], bins[is_count], counts[is_count]
    edges = np.searchsorted(owners, np.arange(len(steps) + 1))
    found = np.stack([bins[edges[:-1]], bins[edges[1:] - 1]])
    told_us = np.array([(each.least_us, each.most_us) for each in steps]).T
    # Times are rounded, which may be across the edge of a bin.
    if (told_us[0] > told_us[1]).any() or (abs(_bins_of(told_us) - found) > 1).any():
        raise ValueError("the shortest and the longest step are not those of the counts")
    return owners, bins, counts


def medians_us(blocks: Sequence[Block]) -> NDArray[np.float64]:
    """Between which times, in us, the median of each block's steps is, (2, blocks): from where the
    bin of the lower middle step begins to where that of the upper one ends. All blocks have steps.
    Raises ValueError for damaged steps."""
    _, bins, counts = map(np.concatenate, zip(*placed_steps(blocks), strict=True))
    reached, n = np.cumsum(counts), np.array([block.n for block in blocks])
    before = np.cumsum(n) - n
    middles = np.searchsorted(reached, before + np.stack([(n + 1) // 2, n // 2 + 1]))
    low, high = 2.0 ** ((bins[middles] + [[0], [1]]) / BINS_PER_OCTAVE) / 1e3
    return np.array([np.where(bins[middles[0]], low, 0.0), high])


@dataclass(frozen=True, eq=False)
class Tally:
    """The steps of a case: `counts`, (blocks, bins), of the bins from `first` on, the launch of
    each block, by numbers from 0 on, and the shortest and longest step. A row has several blocks
    where they are of one step each, or more than fit into MOST_CELLS."""

    first: int
    counts: Counts
    launches: Counts
    least_us: float
    most_us: float

    @cached_property
    def of_bins(self) -> Counts:
        """The steps of all blocks, (bins,)."""
        return np.asarray(self.counts.sum(axis=0))

    @property
    def n(self) -> int:
        return round(float(self.of_bins.sum()))

    @cached_property
    def edges_us(self) -> NDArray[np.float64]:
        """Where the bins begin, and the last one ends, (bins + 1,)."""
        numbers = np.arange(self.first, self.first + self.counts.shape[1] + 1)
        edges_us = 2.0 ** (numbers / BINS_PER_OCTAVE) / 1e3
        return np.asarray(edges_us if self.first else np.append(0.0, edges_us[1:]))

    @property
    def middles_us(self) -> NDArray[np.float64]:
        return np.asarray((self.edges_us[1:] + self.edges_us[:-1]) / 2)

    def quantile_us(self, share: float) -> float:
        """The least time, in us, that at least this share of all steps, from 0 to 1, does not
        exceed: to 1 %, between the ends of its bin by its place among the bin's steps."""
        reached, rank = np.cumsum(self.of_bins), share * self.n
        # The sum of shares may be above 1 by an error of rounding.
        place = min(int(np.searchsorted(reached, rank)), len(reached) - 1)
        part = 1 - (reached[place] - rank) / max(self.of_bins[place], 1)
        low_us, high_us = self.edges_us[place : place + 2]
        return float(np.clip(low_us + part * (high_us - low_us), self.least_us, self.most_us))

    def above(self, limit_us: float) -> NDArray[np.float64]:
        """How many steps of each block take longer, (blocks,): of the limit's own bin by the part
        of the bin above it, where bins begin at the shortest and end at the longest step."""
        edges_us = np.clip(self.edges_us, self.least_us, self.most_us)
        ends = np.arange(1, len(edges_us))
        below = np.interp(limit_us, edges_us, np.append(0, ends))
        return np.asarray(self.counts @ np.clip(ends - below, 0.0, 1.0))


def tally(blocks: Sequence[Block]) -> Tally | None:
    """The steps of these blocks of one case and launch: all of them, since the blocks that the
    state of the link leaves out are the tail. None if a block has none, as in runs of older
    versions. Raises ValueError for damaged counts."""
    steps = [block.steps for block in blocks if block.steps]
    if not steps or len(steps) < len(blocks):
        return None

    least_us, most_us = min(each.least_us for each in steps), max(each.most_us for each in steps)
    low, high = _bins_of(np.array([least_us, most_us])).tolist()
    # Times are rounded, which may be across the edge of a bin.
    low, width = max(low - 1, 0), high - low + 3
    # Blocks that follow each other share a row: very many, which would not fit; and blocks of one
    # step, which would hide that slow steps come together, in batches of the square root of n
    # (Flegal and Jones, Annals of Statistics 38, 2010).
    is_single = all(block.n == 1 for block in blocks)
    of_a_row = max(1 + len(blocks) * width // MOST_CELLS, isqrt(len(blocks)) if is_single else 1)
    counts = np.zeros((1 + (len(blocks) - 1) // of_a_row, width), np.int64)
    for places, bins, placed in placed_steps(blocks):
        np.add.at(counts, (places // of_a_row, bins - low), placed)
    return Tally(low, counts, np.zeros(len(counts), np.int64), least_us, most_us)


def add(tallies: Sequence[Tally]) -> Tally:
    """All steps of these tallies, whose launches become different ones."""
    low = min(each.first for each in tallies)
    width = max(each.first + each.counts.shape[1] for each in tallies) - low
    counts = np.zeros((sum(len(each.counts) for each in tallies), width), np.int64)
    launches, row = list[Counts](), 0
    for each in tallies:
        start = each.first - low
        n_rows, n_bins = each.counts.shape
        counts[row : row + n_rows, start : start + n_bins] = each.counts
        launches.append(each.launches + (launches[-1].max() + 1 if launches else 0))
        row += n_rows
    return Tally(
        low,
        counts,
        np.concatenate(launches),
        min(each.least_us for each in tallies),
        max(each.most_us for each in tallies),
    )
