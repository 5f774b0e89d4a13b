"""What reports on many runs need of each run: its head, the results of its cases in short, and its
blocks as columns. They come from the run's file, or from the `index` beside the runs."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import msgspec.inspect
import numpy as np
from numpy.typing import NDArray

from reports.store.case import round_trip_ns
from reports.store.schema import Case, CaseHeader, End, Range, Result, Run, Summary
from reports.store.stats import link_bins

# A run from which the hypervisor withheld more than this share of the CPU time is disturbed: its
# cases take longer by as much, which is the order of the changes that reports look for.
MOST_STEAL = 0.05
# In place of a bin: without a probe of the link, and with probes that disagree.
UNPROBED, MIXED = 32_000, 32_001
# The parts of each field of a case that is a summary.
PARTS = {
    field.name: kind.__struct_fields__
    for field in msgspec.structs.fields(Case)
    for kind in (Summary, Range)
    if field.type == kind | None
}
CELLS = [
    cell
    for name in Case.__struct_fields__  # the names of a case's cells
    for cell in ([f"{name}_{part}" for part in PARTS[name]] if name in PARTS else [name])
]
KINDS = {field.name: field.type for field in msgspec.structs.fields(Case)}
OTHER_KINDS = (
    msgspec.inspect.StrType,
    msgspec.inspect.AnyType,
    msgspec.inspect.DictType,
    msgspec.inspect.ListType,
)
Integers = NDArray[np.integer[Any]]


class Blocks(NamedTuple):
    """The blocks of a run by case and cost: the case, the bin of the round trip, the cost in us."""

    case: Integers
    bin: Integers
    cost_us: NDArray[np.float64]


@dataclass(eq=False)
class Entry:
    """A run in a store. `statuses` are of its cases, `across_ranks` sorted values of all cases.
    `run.environment` is empty: `environment` is its JSON. `round_trips` are pairs of a bin and its
    number of blocks. `blocks` and `environment` are None while only the index has them, in `row` of
    its part of that number."""

    path: Path
    run: Run
    end: End | None
    statuses: tuple[str, ...]
    across_ranks: tuple[str, ...]
    round_trips: Integers
    environment: bytes | None = None
    blocks: Blocks | None = None
    part: int = -1
    row: int = -1

    @property
    def complete(self) -> bool:
        return self.end is not None and self.end.status == "complete"

    @property
    def is_slowed(self) -> bool:
        """Whether the run was slowed on purpose, by `--slowed-percent`."""
        return bool(self.run.world.get("slowed_percent"))

    @property
    def disturbance(self) -> float:
        """The share of the CPU time that the hypervisor withheld; 0 up to MOST_STEAL."""
        share = (self.end and self.end.steal_share) or 0.0
        return share if share > MOST_STEAL else 0.0

    @property
    def n_blocks(self) -> int:
        return int(self.round_trips[:, 1].sum())

    @property
    def wrong(self) -> list[CaseHeader]:
        """The cases with wrong results."""
        return [
            case
            for case, status in zip(self.run.cases, self.statuses, strict=True)
            if status == "wrong"
        ]


def is_number(cell: str) -> bool:
    """Whether the cells of this name are numbers."""
    if cell not in Case.__struct_fields__:  # a part of a summary
        return True
    kind = msgspec.inspect.type_info(KINDS[cell])
    kinds = kind.types if isinstance(kind, msgspec.inspect.UnionType) else (kind,)
    return not any(isinstance(each, OTHER_KINDS) for each in kinds)


def entry_of(result: Result) -> Entry:
    """The entry of a run that was read."""
    run, blocks = result.run, result.blocks
    trips_ns = [round_trip_ns(block) for block in blocks]
    bins = np.array([MIXED if trip is None else UNPROBED for trip in trips_ns], dtype=np.int16)
    probed = [place for place, trip in enumerate(trips_ns) if trip]
    bins[probed] = link_bins(np.log([trip for trip in trips_ns if trip]))
    case = np.array([block.case for block in blocks], dtype=np.int32)
    cost_us = np.array([block.cost_us for block in blocks], dtype=float)
    order = np.lexsort((cost_us, case))
    counts = np.array(sorted(Counter(bins.tolist()).items()), dtype=np.int32)
    return Entry(
        result.path,
        msgspec.structs.replace(run, environment={}),
        result.end,
        tuple(case.status for case in result.cases),
        tuple(sorted({case.across_ranks for case in result.cases})),
        counts.reshape(-1, 2),
        msgspec.json.encode(run.environment),
        Blocks(case[order], bins[order], cost_us[order]),
    )


def cells_of(cases: Sequence[msgspec.Struct]) -> dict[str, list[Any]]:
    """The fields of the cases as columns of flat cells: a part of a summary is named
    `time_us_median`; lists and objects are JSON."""
    columns: dict[str, list[Any]] = {}
    for name in cases[0].__struct_fields__ if cases else ():
        values = [getattr(case, name) for case in cases]
        kinds = {type(value) for value in values}
        if name in PARTS and kinds == {type(None)}:
            columns |= {f"{name}_{part}": values for part in PARTS[name]}
        elif name in PARTS:
            columns |= {
                f"{name}_{part}": [getattr(value, part, None) for value in values]
                for part in PARTS[name]
            }
        else:
            columns[name] = list(map(as_cell, values)) if kinds & {list, dict} else values
    return columns


def as_cell(value: Any) -> Any:
    """Lists and objects as JSON, which can be a key; None for an empty list."""
    if not isinstance(value, list | dict):
        return value
    return json.dumps(value, default=msgspec.to_builtins, sort_keys=True) if value != [] else None
