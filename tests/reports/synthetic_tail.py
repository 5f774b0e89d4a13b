"""Runs of one case of two ranks whose slow steps have a planted cause. Stamps become blocks as in a
real run, so that its slow steps are those that a run would store."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from bench.harness.iteration import Iteration
from bench.harness.stamped_times import times_us
from bench.harness.timing import block_record
from collectives.operation import Operation
from kernels.devices.device import Step
from tests.reports.synthetic_run import head_of
from wiretax.record.blocks import count_blocks
from wiretax.record.schema import CaseHeader, End, Result
from wiretax.record.summarise import build_cases

NOTHING = Step("nothing", 0, None)
WORLD = mock.MagicMock()  # costs more to make than a block
WARMUP = 8
STEP_US, PAUSE_US = 10.0, 5.0  # of a step, and between two
SLOW_US = 40.0  # that a slow step takes longer
FAST_NS, OTHER_NS = 100.0, 300.0  # round trips of the link
HEADER = CaseHeader(
    collective="all_reduce",
    size_bytes=16384,
    count=4096,
    datatype="float32",
    redop="sum",
    algorithm="library",
    library="mine",
)
Draw = np.random.Generator
Numbers = np.ndarray[Any, np.dtype[Any]]
# Which steps of a block are slow on which ranks, (2, n), by when they begin, in us, and by how many
# calls of the case were before, (n,).
Cause = Callable[[Draw, Numbers, Numbers], Numbers]


def run_of(
    cause: Cause, seed: int = 0, n: int = 2000, n_blocks: int = 20, other: Numbers | None = None
) -> Result:
    """A run of so many blocks of n steps; the link is in another state in the blocks `other`."""
    draw, blocks = np.random.default_rng(seed), []
    at_us, calls = 0.0, 7 + np.arange(n)
    iteration = Iteration("", NOTHING, Operation(NOTHING), NOTHING, NOTHING, 0, warmup=WARMUP)
    for number in range(n_blocks):
        calls += WARMUP + 1
        began_us = at_us + draw.uniform(5e4, 2e5) + (STEP_US + PAUSE_US) * np.arange(n)
        own_us = STEP_US * draw.lognormal(0, 0.05, (2, n))
        own_us += SLOW_US * cause(draw, began_us, calls) * draw.lognormal(0, 0.3, n)
        stamps_us = np.stack([np.broadcast_to(began_us, (2, n)), *3 * [began_us + own_us]], axis=-1)
        stamps = [*(1e3 * stamps_us).astype(np.int64)]
        block = block_record(iteration, number, times_us(iteration, stamps, WORLD))
        is_other = other is not None and number in other
        block.link_rtt_ns = (OTHER_NS, OTHER_NS) if is_other else (FAST_NS, FAST_NS)
        blocks.append(block)
        calls += n + 1
        at_us = began_us[-1]

    run = head_of([HEADER], benchmark="allreduce")
    counted = count_blocks(run, blocks)
    cases = build_cases(run, counted, blocks, [])
    return Result(Path("made.jsonl"), run, cases, counted, blocks, end=End(status="complete"))


def on_ranks(is_slow: Numbers, ranks: Numbers | int) -> Numbers:
    """The steps that are slow, each on rank 0, on rank 1 or, by -1, on both."""
    ranks = np.broadcast_to(ranks, is_slow.shape)
    return np.asarray(is_slow & np.stack([ranks != 1, ranks != 0]))


def now_and_then(draw: Draw, began_us: Numbers, calls: Numbers, share: float = 0.01) -> Numbers:
    ranks = draw.integers(-1, 2, len(calls))
    return on_ranks(draw.random(len(calls)) < share, ranks)


def in_bursts(draw: Draw, began_us: Numbers, calls: Numbers) -> Numbers:
    """Disturbances last for up to 200 steps on the same ranks, and many blocks have none."""
    begins = draw.random(len(calls)) < draw.choice([0.0, 0.002])
    during = np.convolve(begins, np.ones(draw.choice([9, 50, 200])))[: len(calls)]
    return on_ranks((during > 0) & (draw.random(len(calls)) < 0.4), int(draw.integers(-1, 2)))


def at_places(draw: Draw, began_us: Numbers, calls: Numbers) -> Numbers:
    """The same steps of each block, and some others."""
    found = now_and_then(draw, began_us, calls, 0.001)
    found[:, [0, 1, 5]] = True
    return found


def timer(hz: float) -> Cause:
    def cause(draw: Draw, began_us: Numbers, calls: Numbers) -> Numbers:
        ticks = np.floor((began_us - 777.0) * hz / 1e6)
        return on_ranks(np.diff(ticks, append=ticks[-1]) > 0, draw.integers(-1, 2, len(calls)))

    return cause


def every(period: int, rank: int | None = None) -> Cause:
    """On this rank alone, or each time on others."""

    def cause(draw: Draw, began_us: Numbers, calls: Numbers) -> Numbers:
        ranks = draw.integers(-1, 2, len(calls)) if rank is None else rank
        return on_ranks(calls % period == 3, ranks)

    return cause


def on_rank(rank: int, share: float = 0.01) -> Cause:
    def cause(draw: Draw, began_us: Numbers, calls: Numbers) -> Numbers:
        return on_ranks(draw.random(len(calls)) < share, rank)

    return cause


def both(*causes: Cause) -> Cause:
    def cause(draw: Draw, began_us: Numbers, calls: Numbers) -> Numbers:
        return np.asarray(np.any([each(draw, began_us, calls) for each in causes], axis=0))

    return cause
