"""A few of the slow steps of a block, by which reports tell why a case has a tail."""

import random

import numpy as np

from bench.harness.iteration import Iteration
from bench.harness.stamped_times import Floats, Times
from wiretax.record.schema import MOST_SLOW_STEPS, SlowStep
from wiretax.record.tails import LEAST_SLOW_SHARE, SLOW_RATIO

OWN_MEDIAN_STEPS = 10  # of a block, from which on its median is its own
FULL_BLOCKS = 16  # of a case, as a run has: of later ones one slow step is enough


def slow_steps(
    iteration: Iteration, times: Times, total_us: Floats, began_ns: int
) -> list[SlowStep]:
    """At most MOST_SLOW_STEPS of those that take over twice the block's median, the last of the
    iteration's `usual_us`, at random; none if they are too few for a tail. For a short block the
    median of the case's blocks so far takes its place. Slow steps in a row count once: the others
    are the first one's wake. Without a shared clock a rank's time has its waits for late ranks, and
    so names no rank."""
    *before_us, usual_us = iteration.usual_us
    if len(total_us) < OWN_MEDIAN_STEPS:
        usual_us = float(np.median(iteration.usual_us))
    slow = np.flatnonzero(total_us > SLOW_RATIO * usual_us)
    if len(slow) < LEAST_SLOW_SHARE * len(total_us):
        return []

    slow = slow[np.diff(slow, prepend=-2) > 1]
    most = MOST_SLOW_STEPS if len(before_us) < FULL_BLOCKS else 1
    # Every so many of them would add a period of its own.
    chosen = random.Random(len(before_us)).sample(slow.tolist(), min(len(slow), most))
    found = []
    for number in sorted(chosen):
        by_rank_us = times.time_by_rank[:, number]
        if not iteration.chain_calls:
            by_rank_us = by_rank_us + times.after_by_rank[:, number]
        late = np.flatnonzero(by_rank_us > SLOW_RATIO * usual_us)
        is_alone = len(late) == 1 and not np.isnan(times.skew[number])
        at_us = max(int(times.at_ns[number]) - began_ns, 0) // 1000
        found.append(SlowStep(number, at_us, times.ranks[late[0]] if is_alone else -1))
    return found
