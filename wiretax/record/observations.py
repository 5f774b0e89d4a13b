"""The observations of runs, which every report on many runs groups and joins.

An observation is a case of a run: the medians over its blocks that count, and the percentiles of
all its steps. `folder.read_store` says which runs of a folder count and in which order; `table`
makes one DataFrame of them."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from operator import itemgetter
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from wiretax.record import packed
from wiretax.record.blocks import main_state
from wiretax.record.case import Key, key_of
from wiretax.record.flight_records import read_flight
from wiretax.record.schema import CaseHeader, End, Estimate, Result, Run
from wiretax.record.tails import STEP_FIELDS

MIN_BLOCKS = 5  # of a case, to count
# A run from which the hypervisor withheld more than this share of the CPU time is disturbed: its
# cases take longer by as much, which is the order of the changes that reports look for.
MOST_STEAL = 0.05
QUIET_S = 900  # a run without an end that was not written to for so long was cut off


# An observation: the number of the case, the number of its blocks that count, the medians of their
# cost and of the time of the collective alone, and what the run keeps of its steps, NaN without
# any, to 1 %: float32 is enough.
OBSERVED = np.dtype(
    [
        ("case", np.int32),
        ("n_blocks", np.int32),
        ("cost_us", np.float64),
        ("time_us", np.float64),
        *((name, np.float32) for name in STEP_FIELDS),
    ]
)
Figure = Callable[[NDArray[Any]], NDArray[Any]]  # of observations, (n,)
COST_US: Figure = itemgetter("cost_us")


@dataclass(eq=False)
class Plan:
    """The planned cases of runs, and their keys."""

    cases: list[CaseHeader]
    keys: tuple[Key, ...]


MOST_PLANS = 1000
recent_plans = dict[bytes, Plan]()  # by their cases in JSON, the one that was added first in front


def plan_of(cases: list[CaseHeader]) -> Plan:
    """The plan of these cases, one object for all runs whose cases are equal: a folder has many
    runs of few plans, and a plan takes more memory than the observations of a run."""
    text = msgspec.json.encode(cases)
    if text not in recent_plans:
        if len(recent_plans) == MOST_PLANS:
            del recent_plans[next(iter(recent_plans))]
        recent_plans[text] = Plan(cases, tuple(map(key_of, cases)))
    return recent_plans[text]


@dataclass(eq=False)
class Entry:
    """A run in a store. `statuses` and `right` are of the cases of its `plan`: `right` says which
    were checked and not wrong. `observed` has its observations, (n,) of OBSERVED. `left_out` says
    why the run does not count in reports on many runs, and is empty if it does."""

    path: Path
    run: Run
    plan: Plan
    end: End | None
    statuses: tuple[str, ...]
    right: tuple[bool, ...]
    observed: NDArray[Any]
    left_out: str = ""

    def share_plan(self) -> None:
        """Takes the plan that runs here share, for a run that another process read."""
        self.plan = plan_of(self.plan.cases)
        self.run.cases = self.plan.cases

    @property
    def complete(self) -> bool:
        return self.end is not None and self.end.status == "complete"

    @property
    def running(self) -> bool:
        """Whether it has no end, its flight record names no rank that ended, and it was written to
        in the last QUIET_S, and not into an archive."""
        if packed.archive_of(self.path):
            return False
        has_ended = self.end or read_flight(self.path.with_suffix(".flight")).ended
        return not has_ended and time.time() - self.path.stat().st_mtime < QUIET_S

    @property
    def rtt_ns(self) -> float:
        """A flag's round trip in its state of the link; 0 without probes."""
        return (self.end and self.end.rtt_ns) or 0.0

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
            for case, status in zip(self.plan.cases, self.statuses, strict=True)
            if status == "wrong"
        ]


def observed_of(result: Result) -> NDArray[Any]:
    """The observations of a run, (n,) of OBSERVED: those of each case with status ok, a cost above
    0 and at least MIN_BLOCKS blocks, or one of another harness, which may print one mean of all its
    iterations."""
    least, counted = 1 if result.run.imported_from else MIN_BLOCKS, result.counted
    rows = []
    for case in result.cases:
        costs_us = counted.costs_us.get(case.case, {})
        if case.status == "ok" and len(costs_us) >= least:
            times_us = counted.times_us[case.case]
            medians_us = median(costs_us.values()), median(times_us.values())
            steps = [getattr(case, name) for name in STEP_FIELDS]
            values = [each.value if isinstance(each, Estimate) else each for each in steps]
            rows.append((case.case, len(costs_us), *medians_us, *values))

    observed = np.array(rows, OBSERVED)
    return observed[observed["cost_us"] > 0]


def observed_costs(result: Result, without: Sequence[str] = ()) -> Iterator[tuple[Key, float]]:
    """The key and the cost in us of each observed case of a run. A key leaves out the fields
    `without`: of two cases that have one key then, the one with more blocks comes last, and
    counts."""
    keys = [key_of(case, without) for case in result.run.cases]
    observed = observed_of(result)
    for each in observed[np.argsort(observed["n_blocks"], kind="stable")]:
        yield keys[each["case"]], float(each["cost_us"])


def entry_of(result: Result) -> Entry:
    """The entry of a run that was read."""
    plan = plan_of(result.run.cases)
    return Entry(
        result.path,
        msgspec.structs.replace(result.run, cases=plan.cases),
        plan,
        result.end,
        tuple(case.status for case in result.cases),
        tuple(case.status == "ok" and case.n_wrong == 0 for case in result.cases),
        observed_of(result),
    )


def in_one_state(entries: Sequence[Entry]) -> tuple[list[Entry], list[str]]:
    """The runs in the state of the link that most of these are in, and a sentence on the others."""
    rtt_ns, is_in = main_state([entry.rtt_ns for entry in entries])
    own, notes = list(compress(entries, is_in)), list[str]()
    if others := [entry.rtt_ns for entry in compress(entries, ~is_in)]:
        notes.append(
            f"{len(others)} of {len(entries)} runs are left out: their link was in another state, "
            f"with a flag's round trip of {median(others):.0f} ns instead of {rtt_ns:.0f} ns"
        )

    return own, notes


def table(
    entries: Sequence[Entry], without: Sequence[str] = ()
) -> tuple[pd.DataFrame, dict[Key, CaseHeader]]:
    """The observations of these runs, which were measured alike, in one DataFrame:

    - `run`: the place of the run in `entries`;
    - `case`, its number there, and `key`, the place of its key in the second value;
    - `n_blocks`, the median of their costs `cost_us`, and `time_us`, that of the collective alone;
    - what it keeps of its steps, NaN where the run has none.

    A run has one row for a key. And the cases by their keys, as `keys_of` has them."""
    planned, places = keys_of(entries, without)
    runs = [entry.observed for entry in entries]
    keys_of_rows = [places[entry.plan][entry.observed["case"]] for entry in entries]
    rows = pd.DataFrame(np.concatenate([np.empty(0, OBSERVED), *runs]))
    rows["run"] = np.repeat(np.arange(len(runs)), list(map(len, runs)))
    rows["key"] = np.concatenate([np.empty(0, np.int64), *keys_of_rows])
    # Of two cases that are one without some fields, the one with more blocks counts.
    rows = rows.sort_values("n_blocks", kind="stable")
    return rows.drop_duplicates(["run", "key"], keep="last").sort_index(), planned


def costs_of(
    entries: Sequence[Entry], without: Sequence[str] = (), figure: Figure = COST_US
) -> tuple[NDArray[np.float64], dict[Key, CaseHeader]]:
    """The costs in us of these runs, which were measured alike, or another `figure` of
    their observations, (runs, keys), NaN without one; and the case of each column by its key, as
    `keys_of` has them."""
    planned, places = keys_of(entries, without)
    costs_us = np.full((len(entries), len(planned)), np.nan)
    for of_run, entry in zip(costs_us, entries, strict=True):
        # As in `table`: of two costs for a place, the last one is kept.
        observed = entry.observed[np.argsort(entry.observed["n_blocks"], kind="stable")]
        of_run[places[entry.plan][observed["case"]]] = figure(observed)

    return costs_us, planned


def keys_of(
    entries: Sequence[Entry], without: Sequence[str]
) -> tuple[dict[Key, CaseHeader], dict[Plan, NDArray[np.int64]]]:
    """The cases that these runs planned by their keys, which leave out the fields `without`, each
    as the newest plan has it; and the place of each case of a plan among these keys."""
    planned, places = dict[Key, CaseHeader](), dict[Plan, NDArray[np.int64]]()
    numbers = dict[Key, int]()
    for plan in dict.fromkeys(entry.plan for entry in entries):
        keys = [key_of(case, without) for case in plan.cases]
        planned |= zip(keys, plan.cases, strict=True)
        numbered = [numbers.setdefault(key, len(numbers)) for key in keys]
        places[plan] = np.array(numbered, dtype=np.int64)

    return planned, places


def cards_of(run: Run) -> set[tuple[Any, Any]]:
    """The GPUs that its ranks use, by host and bus id."""
    return {(rank.get("host"), bus_id) for rank in run.ranks if (bus_id := rank.get("pci_bus_id"))}


def world_of(run: Run) -> str:
    """The number of ranks, of hosts (or of ranks on each of several hosts), and what the ranks run
    on: `8 ranks, hosts 1, 8x hip gfx942 AMD Instinct MI300X`, if ranks share cards also how many
    there are."""
    ranks, hosts = run.ranks, run.hosts
    if hosts != 1:
        hosts = sorted(Counter(rank.get("host") for rank in ranks).values()) or hosts

    kinds = Counter(
        " ".join(filter(None, map(rank.get, ("device", "arch", "gpu")))) for rank in ranks
    )
    places = [f"{n}x {kind or 'unknown'}" for kind, n in sorted(kinds.items())]
    n_cards = len(cards_of(run))
    shared = f", sharing {n_cards}" if 0 < n_cards < len(ranks) else ""
    return f"{run.world_size} ranks, hosts {hosts}, {' and '.join(places)}{shared}"


def method_of(run: Run) -> str:
    """How the cases were measured, where not by default: `checks 0, warmup 5`."""
    return ", ".join(f"{name} {value}" for name, value in sorted(run.method.items()))


def alike_of(entry: Entry) -> tuple[Any, ...]:
    """What runs that can be compared share: machine, world, benchmark, and method, which has the
    statistic of another harness."""
    run = entry.run
    return run.machine_id, world_of(run), run.benchmark, method_of(run)
