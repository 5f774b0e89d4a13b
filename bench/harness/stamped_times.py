"""The times of a block's iterations from the time stamps of all ranks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.harness.iteration import ARRIVED, BEGUN, DONE, LEFT, Iteration
from collectives.operation import World
from kernels.devices.device import Stamps

Floats = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Times:
    """Microseconds by iteration, of a chain per call: `time` of the operation (last exit minus last
    arrival on a shared clock, otherwise the slowest rank's), `after` of the next step; both also
    [rank, iteration], by these `ranks`. An iteration arrived at `at_ns` by rank 0's clock."""

    ranks: Sequence[int]
    at_ns: Stamps
    time: Floats
    after: Floats
    skew: Floats
    time_by_rank: Floats
    after_by_rank: Floats


def times_us(iteration: Iteration, stamps: Sequence[Stamps], world: World) -> Times:
    """The times from all ranks' stamps. Only the stamps of the iteration's `ranks` count, from the
    arrival of its `movers` on: a rank without a part in a transfer may arrive when it is over."""
    ranks = iteration.ranks or tuple(range(len(stamps)))
    stamps_ns = np.stack([stamps[rank] for rank in ranks])
    arrived_ns, skew_us = stamps_ns[:, :, ARRIVED], np.full(stamps_ns.shape[1], np.nan)
    unit_ns = 1e3 * max(1, iteration.chain_calls) / iteration.scale
    after_us = (stamps_ns[:, :, DONE] - stamps_ns[:, :, BEGUN]) / unit_ns
    if world.shares_clock(iteration.ranks):
        if len(ranks) > 1 or len(stamps) == 1:
            skew_us = np.ptp(arrived_ns, axis=0) / 1e3
        arrived_ns = arrived_ns[[ranks.index(rank) for rank in iteration.movers or ranks]].max(
            axis=0
        )
    time_us = (stamps_ns[:, :, LEFT] - arrived_ns) / unit_ns
    at_ns = stamps[0][:, ARRIVED]
    return Times(
        ranks, at_ns, time_us.max(axis=0), after_us.max(axis=0), skew_us, time_us, after_us
    )
