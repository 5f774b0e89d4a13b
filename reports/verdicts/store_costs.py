"""The costs of many runs of a store in columns, by the rules of `sides.find_costs`: medians of the
blocks of a case in one state of the link, which the runs of a group determine together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from reports.store.columns import MIXED, UNPROBED, Blocks, Entry, Integers
from reports.store.index import Contents
from reports.store.stats import BIN, link_valleys
from reports.tables.rows import MIN_STATE_BLOCKS
from reports.verdicts.sides import Key, key_of, world_of
from reports.verdicts.verdict import Floats


@dataclass
class Costs:
    """Median costs in us of runs, (runs, keys, states), NaN without enough blocks; the round trip
    of each state of the link in ns, fastest first; and whether a run has a case, (runs, keys)."""

    keys: list[Key]
    rtt_ns: list[float]
    us: Floats
    is_measured: NDArray[np.bool_]


def alike_of(entry: Entry) -> tuple[Any, ...]:
    """What runs that can be compared share: machine, world, benchmark, dispatch and statistic."""
    run = entry.run
    return (
        run.machine_id,
        str(world_of(run)),
        run.benchmark,
        run.world.get("dispatch", "native"),
        entry.across_ranks,
    )


class States(NamedTuple):
    """The last bin of each state of the link but the slowest, and the state of a mixed block."""

    valleys: Integers
    of_mixed: int


def find_costs(contents: Contents, groups: Sequence[Sequence[Entry]]) -> list[Costs]:
    """The costs of each group of entries of `contents`. The entries of a group share the states of
    the link."""
    plans: dict[int, Any] = {}  # by the identity of a plan: its keys
    ok_cases: dict[int, NDArray[np.bool_]] = {}  # by the identity of the statuses
    of_group, place_of = list[Costs](), dict[Entry, tuple[int, int]]()
    states, columns = list[States](), list[dict[int, Integers]]()
    for number, entries in enumerate(groups):
        for entry in entries:
            if id(entry.run.cases) not in plans:
                plans[id(entry.run.cases)] = [key_of(case) for case in entry.run.cases]
        own = dict.fromkeys(id(entry.run.cases) for entry in entries)
        keys = list(dict.fromkeys(key for plan in own for key in plans[plan]))
        column = {key: place for place, key in enumerate(keys)}
        columns.append({plan: np.array([column[key] for key in plans[plan]]) for plan in own})
        own_states, rtt_ns = _states(entries)
        states.append(own_states)
        shape = len(entries), len(keys)
        of_group.append(
            Costs(
                keys,
                rtt_ns,
                np.full((*shape, max(len(rtt_ns), 1)), np.nan),
                np.zeros(shape, dtype=bool),
            )
        )
        place_of |= {entry: (number, row) for row, entry in enumerate(entries)}
    for entry in contents.load("blocks", place_of):
        number, row = place_of[entry]
        costs, column_of = of_group[number], columns[number][id(entry.run.cases)]
        if id(entry.statuses) not in ok_cases:
            ok_cases[id(entry.statuses)] = np.array([status == "ok" for status in entry.statuses])
        is_ok = ok_cases[id(entry.statuses)]
        assert entry.blocks
        medians_us = _medians_us(entry.blocks, states[number], costs.us.shape[-1], len(is_ok))
        costs.us[row, column_of[is_ok]] = medians_us[is_ok]
        costs.is_measured[row, column_of[is_ok]] = True
    return of_group


def _states(entries: Sequence[Entry]) -> tuple[States, list[float]]:
    """The states of all blocks of these runs, and the round trip of each state in ns: medians,
    interpolated within a bin."""
    pairs = np.concatenate([entry.round_trips for entry in entries])
    bins, place = np.unique(pairs[:, 0], return_inverse=True)
    counts = np.bincount(place.ravel(), weights=pairs[:, 1], minlength=len(bins))
    is_probed, rtt_ns = bins < UNPROBED, list[float]()
    if not is_probed.any():
        # Without probes that agree, all blocks are in one state.
        return States(np.empty(0, dtype=int), -1 if UNPROBED in bins else 0), rtt_ns
    bins, counts = bins[is_probed], counts[is_probed]
    valleys = link_valleys(bins, counts)
    of_bin = np.searchsorted(valleys, bins)
    for state in range(len(valleys) + 1):
        own, of_own = bins[of_bin == state], counts[of_bin == state]
        ends = np.cumsum(of_own)
        middle = int(np.searchsorted(ends, ends[-1] / 2))
        part = 1 - (ends[middle] - ends[-1] / 2) / of_own[middle]
        rtt_ns.append(float(np.exp((own[middle] - 0.5 + part) * BIN)))
    return States(valleys, -1), rtt_ns


def _medians_us(blocks: Blocks, states: States, n_states: int, n_cases: int) -> Floats:
    """The median cost of each case in each state, (cases, states)."""
    medians_us = np.full((n_cases, n_states), np.nan)
    # Comparisons are faster than a search for one or two valleys.
    of_block = np.zeros(len(blocks.bin), dtype=np.int8)
    for valley in states.valleys.tolist():
        of_block += blocks.bin > valley
    of_block[blocks.bin == UNPROBED] = 0
    of_block[blocks.bin == MIXED] = states.of_mixed
    for state in range(n_states):
        is_own = of_block == state
        is_all = bool(is_own.all())  # as with one state: nothing to select
        cost_us = blocks.cost_us if is_all else blocks.cost_us[is_own]
        counts = np.bincount(blocks.case if is_all else blocks.case[is_own], minlength=n_cases)
        cases = np.flatnonzero(counts >= MIN_STATE_BLOCKS)
        first, n = (np.cumsum(counts) - counts)[cases], counts[cases]
        middles_us = (cost_us[first + (n - 1) // 2] + cost_us[first + n // 2]) / 2
        medians_us[cases, state] = np.where(middles_us > 0, middles_us, np.nan)
    return medians_us
