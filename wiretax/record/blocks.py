"""The blocks of a run that count. Every report on a run groups `Counted`.

Before and after each block a flag bounced between the ranks: its round trip shows the state of the
link. A run has one state, the one that most blocks are in. The other blocks stay in the file and do
not count, except that a wrong result in them is one."""

from collections.abc import Sequence
from itertools import compress
from operator import attrgetter

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wiretax.common.grouped import grouped
from wiretax.record.chain_links import hidden_calls, links_of
from wiretax.record.schema import Block, Counted, End, LinkBlock, Result, Rounds, Run

STATE_RATIO = 1.5  # of two round trips in one state, at the most
CHANGED_RATIO = 1.3  # of the round trips before and after a block during which the link changed
LEAST_SHARE = 1 / 3  # of the blocks in one state; below it the link never settled, and all count


def count_blocks(run: Run, blocks: Sequence[Block]) -> Counted:
    """The blocks of a run in the state of the link that most of them are in, and the links of its
    chains."""
    trips_ns = np.array([round_trip_ns(block) for block in blocks], dtype=float)
    rtt_ns, counts = main_state(trips_ns)
    is_settled = bool(counts.sum() >= LEAST_SHARE * len(blocks))
    own = list(compress(blocks, counts | (not is_settled)))
    by_case = grouped(own, attrgetter("case"))
    links, left_out = links_of(run, by_case), len(blocks) - len(own)
    hidden = hidden_calls(links, by_case)
    for case in hidden:
        del by_case[case]
    return Counted(by_case, links, hidden, rtt_ns, left_out, is_settled)


def describe_link(end: End, counted: Counted) -> None:
    """Says in the end of a run where its link was, and how many blocks are left out."""
    end.rtt_ns, end.left_out_blocks = counted.rtt_ns or None, counted.left_out


def round_trip_ns(block: Block | LinkBlock) -> float:
    """The round trip of a flag around a block; 0 without probes, NaN if the link changed."""
    before, after = block.link_rtt_ns or (0.0, 0.0)
    if before == after == 0:
        return 0.0
    if min(before, after) <= 0 or max(before, after) > CHANGED_RATIO * min(before, after):
        return float("nan")

    return float(np.sqrt(before * after))


def main_state(trips_ns: ArrayLike) -> tuple[float, NDArray[np.bool_]]:
    """The state that most of these round trips show, and which of them do: those within STATE_RATIO
    of the round trip that has most others so near. A block without a probe (0) is in any state; if
    none has one, the state is 0."""
    trips_ns = np.asarray(trips_ns, dtype=float)
    probed = np.sort(trips_ns[trips_ns > 0])
    if not len(probed):
        return 0.0, trips_ns == 0

    last = np.searchsorted(probed, probed * STATE_RATIO, side="right")
    n_near = last - np.searchsorted(probed, probed / STATE_RATIO)
    most = np.flatnonzero(n_near == n_near.max())
    centre = probed[most[len(most) // 2]]
    is_near = same_state(trips_ns, centre)
    return float(np.median(trips_ns[is_near])), is_near | (trips_ns == 0)


def in_main_state(runs: Sequence[Result]) -> NDArray[np.bool_]:
    """Which of these runs are in the state of the link that most of them are in."""
    return main_state([run.counted.rtt_ns for run in runs])[1]


def same_state(trips_ns: ArrayLike, other_ns: ArrayLike) -> NDArray[np.bool_]:
    """Whether two round trips, above 0, show one state of the link; false for NaN."""
    trips_ns, other_ns = np.asarray(trips_ns), np.asarray(other_ns)
    return np.asarray((trips_ns <= STATE_RATIO * other_ns) & (other_ns <= STATE_RATIO * trips_ns))


def paired(first: Rounds, second: Rounds) -> NDArray[np.float64]:
    """Two costs in their common rounds, in order, where both are above 0: shape (2, rounds)."""
    rounds = [
        number
        for number in sorted(first.keys() & second.keys())
        if first[number] > 0 and second[number] > 0
    ]
    return np.array([[costs_us[number] for number in rounds] for costs_us in (first, second)])
