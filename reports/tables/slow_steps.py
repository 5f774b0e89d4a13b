"""Why a case has a tail: what its slow steps have in common beyond chance, in one sentence."""

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from math import comb, erfc
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reports.tables.sentences import MOST_STEAL_SHARE
from wiretax.common.grouped import grouped
from wiretax.record.case import is_own_work
from wiretax.record.histogram import Tally, tally
from wiretax.record.schema import Block, Case, Result, SlowStep
from wiretax.record.tails import SLOW_RATIO, steps_of_case

MOST_P = 0.01 / 4  # that chance explains a cause: Bonferroni's share of four that are looked for
LEAST_SHARE = 0.25  # of the slow steps: without those of a rarer cause the tail would be the same
# CONFIG_HZ of Linux, but for 300: every third tick of 300 Hz is one of 100 Hz, which is commoner.
TIMERS_HZ = 100, 250, 1000
MOST_PERIOD = 5000  # in steps
MOST_EVENTS = 400  # of a case: more take longer, and tell no more
Events = Sequence[tuple[Block, SlowStep]]


def why_slow(result: Result, case: Case) -> str:
    """The causes of a case's slow steps, each with its share of them; "" if chance can explain all,
    and without slow steps."""
    blocks = [block for block in result.blocks if block.case == case.case]
    steps = steps_of_case(result, case.case)
    events = [(block, step) for block in blocks for step in block.slow or ()]
    events = events[:: len(events) // MOST_EVENTS + 1]
    if not events or steps is None:
        return ""

    step = step_word(case)
    shares = one_rank(events, result), period(events, blocks, result, step)
    causes = [*filter(None, (*shares, other_state(steps, blocks, result)))]
    said = [f"of its slow {step}s, {'; '.join(causes)}"] if causes else []
    stolen = result.end.steal_share if result.end else None
    if stolen and stolen > max(MOST_STEAL_SHARE, time_of_slow(steps)):
        said.append(f"the hypervisor withheld {stolen:.1%} of the CPU time, enough for all of them")
    return "; ".join(said)


def step_word(case: Case) -> str:
    if case.calls > 1:
        return "chain"
    return "step" if is_own_work(case) else "call"


def one_rank(events: Events, result: Result) -> str:
    """Whether one rank alone is slow in more blocks than all other ranks alone: by the binomial
    distribution of even chances, for any of the ranks. Steps of a block are not independent, so a
    block has one vote."""
    alone = [(block.round, step.rank) for block, step in events if step.rank >= 0]
    if not alone or result.run.world_size < 2:
        return ""

    of_blocks = grouped(alone, itemgetter(0)).values()
    votes = Counter(Counter(map(itemgetter(1), own)).most_common(1)[0][0] for own in of_blocks)
    [(rank, most)] = votes.most_common(1)
    n, n_alone = sum(votes.values()), sum(step.rank == rank for _, step in events)
    p = result.run.world_size * sum(comb(n, k) for k in range(most, n + 1)) / 2**n
    if p > MOST_P or n_alone < LEAST_SHARE * len(events):
        return ""

    gpus = result.end.gpus if result.end else []
    is_hot = any(gpu.rank == rank and (gpu.throttled_s or gpu.throttled_looks) for gpu in gpus)
    whose = ", whose GPU was throttled" if is_hot else ""
    return f"{n_alone} of {len(events)} were slow on rank {rank} alone{whose}"


def period(events: Events, blocks: Sequence[Block], result: Result, step: str) -> str:
    """Whether they come at multiples of a timer's period, or at every so many steps of the case,
    those around the timed ones counted."""
    starts, done, checks = dict[int, float](), 0.0, result.run.method.get("checks", 1)
    for block in blocks:
        before = (block.warmup or 0) + checks
        starts[block.round] = done + before
        done += before + block.n + checks

    numbers, of_blocks = np.arange(2, MOST_PERIOD), np.array([*starts.values()])
    calls = {(b.round, slow.iteration): starts[b.round] + slow.iteration for b, slow in events}
    every, share = common_period([*calls.values()], numbers)
    if share and mean_phases(of_blocks, every) > 0.5:
        # The blocks have this period, and so has any place in them: a place counts once.
        once = {place // (every / 2): call for (_, place), call in calls.items()}
        every, share = common_period([*once.values()], [every], len(numbers))
    periods_us = 1e6 / np.array(TIMERS_HZ)
    period_us, of_timer = common_period([slow.at_us for _, slow in events], periods_us)
    if share > of_timer:
        return f"{share:.0%} came every {every:.0f} {step}s"
    if of_timer:
        hz = f"a timer of {1e6 / period_us:.0f} Hz"
        whose = "timers" if period_us == 1000 else hz  # those of 100 and 250 Hz have it together
        return f"{of_timer:.0%} came at multiples of {period_us / 1e3:g} ms, as from {whose}"
    return ""


def common_period(at: ArrayLike, periods: ArrayLike, n_tried: int = 0) -> tuple[float, float]:
    """The period, among some, that explains most events, and their share: the length of their mean
    phase. (0, 0) if chance can explain that of each period, or of each of `n_tried`, by Rayleigh's
    test (Mardia and Jupp, "Directional Statistics", section 6.3.1), in which events closer than
    half a period count once."""
    at, periods = np.sort(at), np.array(periods)
    if not len(at) or not len(periods):
        return 0.0, 0.0

    shares = mean_phases(at, periods)
    ratios = periods / periods[shares.argmax()]
    # The divisors of a period explain its events too, and by chance some others.
    is_multiple = np.abs(ratios - np.round(ratios)) < 1e-9
    period = periods[is_multiple & (shares > 0.75 * shares.max())].max()
    # A multiple of a divisor may be beside the period, if events are few or blocks alike.
    is_near = np.abs(periods / period - 1) < 0.05
    period = periods[is_near & (shares == shares[is_near].max())].max()
    apart = at[:1].tolist()
    for each in at.tolist():
        if each - apart[-1] >= period / 2:
            apart.append(each)

    share = float(mean_phases(np.array(apart), period))
    p = max(len(periods), n_tried) * np.exp(-len(apart) * share**2)
    return (float(period), share) if p < MOST_P and share > LEAST_SHARE else (0.0, 0.0)


def mean_phases(at: NDArray[Any], periods: ArrayLike) -> NDArray[Any]:
    """Of each period from 0, for events at any time, to 1, at its multiples after some offset."""
    return np.asarray(np.abs(np.exp(2j * np.pi * np.divide.outer(at, periods)).mean(axis=0)))


def other_state(steps: Tally, blocks: Sequence[Block], result: Result) -> str:
    """Whether they are in the blocks that the link's state leaves out: the rank sum (Mann and
    Whitney, 1947) of the blocks' shares of slow steps. Blocks in a row in one state are not
    independent, and count as one."""
    counted = {id(block) for block in result.counted.by_case.get(blocks[0].case, blocks)}
    limit_us = SLOW_RATIO * steps.quantile_us(0.5)
    found = [
        (is_out, stretch.above(limit_us).sum(), stretch.n)
        for is_out, own in groupby(blocks, lambda block: id(block) not in counted)
        if (stretch := tally([*own]))
    ]
    is_out, slow, n_steps = map(np.array, zip(*found, strict=True))
    if not is_out.any():
        return ""

    shares = slow / n_steps
    _, place, counts = np.unique(shares, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    n, n_out = len(ranks), int(is_out.sum())
    deviation = np.sqrt(ranks.var() * (n - n_out) / n_out / max(n - 1, 1))
    share = slow[is_out].sum() / max(slow.sum(), 1)
    if share < LEAST_SHARE or not deviation:
        return ""
    if erfc((ranks[is_out].mean() - (n + 1) / 2) / deviation / np.sqrt(2)) / 2 > MOST_P:
        return ""
    of_blocks = 1 - len(counted) / len(blocks)
    return f"{share:.0%} came in the {of_blocks:.0%} of its blocks in another state of the link"


def time_of_slow(steps: Tally) -> float:
    """The share of the time that the slow steps take beyond the P50."""
    p50_us, middles_us = steps.quantile_us(0.5), steps.middles_us
    beyond_us = np.where(middles_us > SLOW_RATIO * p50_us, middles_us - p50_us, 0)
    return float((steps.of_bins @ beyond_us) / (steps.of_bins @ middles_us))
