"""The observations of runs, which every report on many runs groups and joins.

An observation is a case of a run in one state of the link: the median cost of its blocks there. The
states are clustered once, within the run. `folder.read_store` says which runs of a folder count and
in which order; `table` makes one DataFrame of their observations."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from reports.store.case import Key, key_of, label_states, least_blocks, method_of, world_of
from reports.store.schema import CaseHeader, End, Result, Run
from reports.store.stats import link_bins, link_valleys

if TYPE_CHECKING:
    import pandas as pd

# A run from which the hypervisor withheld more than this share of the CPU time is disturbed: its
# cases take longer by as much, which is the order of the changes that reports look for.
MOST_STEAL = 0.05


# An observation: the number of the case; the median round trip of a flag in that state of the link
# in ns, 0 without probes; the number of blocks there; the medians of their cost and of the time of
# the collective alone.
OBSERVED = np.dtype(
    [
        ("case", np.int32),
        ("round_trip_ns", np.float64),
        ("n_blocks", np.int32),
        ("cost_us", np.float64),
        ("time_us", np.float64),
    ]
)


@dataclass(eq=False)
class Entry:
    """A run in a store. `keys` and `statuses` are of its cases, `across_ranks` of all of them,
    `observed` has its observations, (n,) of OBSERVED. `left_out` says why the
    run does not count in reports on many runs, and is empty if it does."""

    path: Path
    run: Run
    keys: tuple[Key, ...]
    end: End | None
    statuses: tuple[str, ...]
    across_ranks: tuple[str, ...]
    n_blocks: int
    observed: NDArray[Any]
    left_out: str = ""

    @property
    def complete(self) -> bool:
        return self.end is not None and self.end.status == "complete"

    @property
    def disturbance(self) -> float:
        """The share of the CPU time that the hypervisor withheld; 0 up to MOST_STEAL."""
        share = (self.end and self.end.steal_share) or 0.0
        return share if share > MOST_STEAL else 0.0

    @property
    def wrong(self) -> list[CaseHeader]:
        """The cases with wrong results."""
        return [
            case
            for case, status in zip(self.run.cases, self.statuses, strict=True)
            if status == "wrong"
        ]


@lru_cache(maxsize=4096)
def plan_of(text: bytes) -> tuple[list[CaseHeader], tuple[Key, ...]]:
    """Planned cases from their JSON, which runs have in common, as one object; and their keys."""
    cases = msgspec.json.decode(text, type=list[CaseHeader])
    return cases, tuple(map(key_of, cases))


def entry_of(result: Result) -> Entry:
    """The entry of a run that was read."""
    cases, keys = plan_of(msgspec.json.encode(result.run.cases))
    return Entry(
        result.path,
        msgspec.structs.replace(result.run, cases=cases),
        keys,
        result.end,
        tuple(case.status for case in result.cases),
        tuple(sorted({case.across_ranks for case in result.cases})),
        len(result.blocks),
        observe(result),
    )


def observe(result: Result) -> NDArray[Any]:
    """The observations of a run, (n,) of OBSERVED: of each case with status ok and each state of
    the link with at least `least_blocks` of its blocks. A block whose two probes disagree is in
    no state; if no probes agree, all blocks are in one."""
    blocks = result.blocks
    of_block, rtt_ns = label_states(blocks)
    states_ns = rtt_ns or [0.0]

    if of_block.max(initial=-1) < 0:
        of_block[:] = 0

    is_ok = np.array([case.status == "ok" for case in result.cases], dtype=bool)
    case = np.array([block.case for block in blocks], dtype=np.int32)
    counted = np.flatnonzero(is_ok[case] & (of_block >= 0)) if len(blocks) else np.zeros(0, int)
    group = case[counted].astype(np.int64) * len(states_ns) + of_block[counted]
    groups, n = np.unique(group, return_counts=True)
    first = np.cumsum(n) - n

    def medians(values: list[float]) -> NDArray[np.float64]:
        """The median of each group."""
        own = np.array(values)[counted]
        ordered = own[np.lexsort((own, group))]
        return np.asarray((ordered[first + (n - 1) // 2] + ordered[first + n // 2]) / 2)

    cost_us = medians([block.cost_us for block in blocks])
    time_us = medians([block.time_us for block in blocks])
    rows = (n >= least_blocks(result.run)) & (cost_us > 0)
    columns = (
        groups // len(states_ns),
        np.array(states_ns)[groups % len(states_ns)],
        n,
        cost_us,
        time_us,
    )
    return np.rec.fromarrays(columns, OBSERVED)[rows]


def table(
    entries: Sequence[Entry], without: Sequence[str] = ()
) -> tuple["pd.DataFrame", list[Key], list[float]]:
    """The observations of these runs, which were measured alike, in one DataFrame:

    - `run`: the place of the run in `entries`;
    - `key`: the place of the case's key in the second value, which leaves out the fields `without`;
    - `state` of the link, which the runs share: its place in the third value, the round trip of
      each state in ns, the fastest first, which is empty without probes;
    - `n_blocks` in that state, the median of their costs `cost_us`, and `time_us`, that of the
      collective alone.

    A run has one row for a key and state."""
    import pandas as pd  # takes 0.3 s

    keys, key_of_cases = _numbered_keys(entries, without)
    runs = [entry.observed for entry in entries]
    observed = np.concatenate([np.empty(0, OBSERVED), *runs])
    state, rtt_ns = shared_states(observed["round_trip_ns"], observed["n_blocks"])
    of_rows = [numbers[own["case"]] for numbers, own in zip(key_of_cases, runs, strict=True)]
    rows = pd.DataFrame(
        {
            "run": np.repeat(np.arange(len(entries)), list(map(len, runs))),
            "key": np.concatenate([np.empty(0, dtype=np.int64), *of_rows]),
            "state": state,
            **{name: observed[name] for name in ("n_blocks", "cost_us", "time_us")},
        }
    )
    # Of two states of a run that are one for all runs, the one with more blocks counts.
    rows = rows.sort_values("n_blocks", kind="stable")
    rows = rows.drop_duplicates(["run", "key", "state"], keep="last").sort_index()
    return rows, keys, rtt_ns


def _numbered_keys(
    entries: Sequence[Entry], without: Sequence[str]
) -> tuple[list[Key], list[NDArray[np.int64]]]:
    """All keys of these runs, and for each run the place among them of each case's key."""
    numbers: dict[Key, int] = {}
    plans: dict[int, NDArray[np.int64]] = {}  # by the identity of a plan, which runs share

    for entry in entries:
        if id(entry.keys) not in plans:
            keys = [key_of(case, without) for case in entry.run.cases] if without else entry.keys
            places = [numbers.setdefault(key, len(numbers)) for key in keys]
            plans[id(entry.keys)] = np.array(places, dtype=np.int64)

    return list(numbers), [plans[id(entry.keys)] for entry in entries]


def shared_states(
    trips_ns: NDArray[np.float64], n_blocks: NDArray[np.float64]
) -> tuple[NDArray[np.int64], list[float]]:
    """The states that runs share, from the round trip of each observation's own state: the state of
    each, and the median round trip of each state in ns. On the runs of docs/experiments/runs no
    block of 28,051 is in another state than by clustering the blocks of all runs together."""
    is_probed = trips_ns > 0
    state = np.zeros(len(trips_ns), dtype=np.int64)

    if not is_probed.any():
        return state, []

    bins = link_bins(np.log(trips_ns[is_probed]))
    different, place = np.unique(bins, return_inverse=True)
    counts = np.bincount(place, weights=n_blocks[is_probed])
    state[is_probed] = np.searchsorted(link_valleys(different, counts), bins)
    return state, [
        float(np.quantile(trips_ns[own], 0.5, weights=n_blocks[own], method="inverted_cdf"))
        for number in range(state.max() + 1)
        for own in [is_probed & (state == number)]
    ]


@dataclass
class Costs:
    """Costs in us of runs, (runs, keys, states), NaN without an observation; and the round trip of
    each state of the link in ns, fastest first."""

    keys: list[Key]
    rtt_ns: list[float]
    us: NDArray[np.float64]


def costs_of(entries: Sequence[Entry]) -> Costs:
    """The observations of these runs, which were measured alike, as arrays."""
    rows, keys, rtt_ns = table(entries)
    shape = len(entries), len(keys), max(len(rtt_ns), 1)
    costs = Costs(keys, rtt_ns, np.full(shape, np.nan))
    costs.us[rows.run, rows.key, rows.state] = rows.cost_us
    return costs


def alike_of(entry: Entry) -> tuple[Any, ...]:
    """What runs that can be compared share: machine, world, benchmark, method and statistic."""
    run = entry.run
    return (
        run.machine_id,
        str(world_of(run)),
        run.benchmark,
        method_of(run),
        entry.across_ranks,
    )
