"""The observations of a folder of runs, which every report on many runs groups and joins.

An observation is a case of a run in one state of the link: the median cost of its blocks there. The
states are clustered once, within the run. `read_store` reads the runs of a folder and says which of
them count and in which order; `table` makes one DataFrame of their observations."""

import gc
import hashlib
import os
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from reports.store import untrusted
from reports.store.case import MIN_STATE_BLOCKS, Key, key_of, round_trip_ns, world_of
from reports.store.manifest import MANIFEST, run_files
from reports.store.result import (
    MOST_LINE_BYTES,
    NOT_JSON,
    ResultError,
    end_with_parent,
    places,
    read,
    time_of,
)
from reports.store.schema import CaseHeader, End, Result, Run
from reports.store.stats import link_bins, link_states, link_valleys
from reports.store.writing import write_whole

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

CACHED_RUNS = 200  # a folder of fewer runs is read anew each time
CHUNK_RUNS = 64  # that one process reads at a time
COPY, WRONG, INCOMPLETE = "a run once more", "with wrong results", "incomplete"
SLOWED, TIMELESS = "slowed on purpose", "without a time in its run_id"
# A run from which the hypervisor withheld more than this share of the CPU time is disturbed: its
# cases take longer by as much, which is the order of the changes that reports look for.
MOST_STEAL = 0.05
Stamp = tuple[int, int]  # of a file: its size in bytes, its time of change in ns


class Observed(NamedTuple):
    """The observations of one run, an array each: the number of the case; the median round trip of
    a flag in that state of the link in ns, 0 without probes; the number of blocks; their cost."""

    case: NDArray[np.int32]
    round_trip_ns: NDArray[np.float64]
    n_blocks: NDArray[np.int32]
    cost_us: NDArray[np.float64]


@dataclass(eq=False)
class Entry:
    """A run in a store. `keys` and `statuses` are of its cases, `across_ranks` of all of them.
    `run.environment` is empty (`environment_of` reads it). `left_out` says why the run does not
    count in reports on many runs, and is empty if it does."""

    path: Path
    run: Run
    keys: tuple[Key, ...]
    end: End | None
    statuses: tuple[str, ...]
    across_ranks: tuple[str, ...]
    n_blocks: int
    observed: Observed
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


@dataclass
class Contents:
    """The content of a folder: its runs in order of time; manifests of campaigns; links and folders
    that are left out, and why; files that are no runs; how many files were read, not cached."""

    folder: Path
    entries: list[Entry] = field(default_factory=list)
    manifests: list[Path] = field(default_factory=list)
    problems: list[tuple[Path, str]] = field(default_factory=list)
    refused: list[tuple[Path, ResultError]] = field(default_factory=list)
    n_read: int = 0


def read_store(folder: Path) -> Contents:
    """The runs below `folder`. Links are not followed. Raises ResultError if it is no folder."""
    if not folder.is_dir():
        raise ResultError(f"{folder} is not a folder of results")
    store, stamps = Contents(folder), dict[Path, Stamp]()
    for path, problem in run_files(folder):
        if problem:
            store.problems.append((path, problem))
        elif path.name == MANIFEST:
            store.manifests.append(path)
        else:
            try:
                status = path.stat()
                stamps[path] = status.st_size, status.st_mtime_ns
            except FileNotFoundError:  # deleted since it was listed
                continue
            except OSError:
                stamps[path] = -1, -1  # `read` says why
    is_cached = len(stamps) >= CACHED_RUNS and _has_pyarrow()
    cache = _cache_file(folder)
    known = _read_cache(cache, folder, stamps) if is_cached else {}
    missing = sorted(stamps.keys() - known.keys(), key=lambda path: (path.name, path))
    store.n_read = len(missing)
    for entry in _read_all(missing):
        if isinstance(entry, Entry):
            known[entry.path] = entry
        else:
            store.refused.append(entry)
    if is_cached and len(store.refused) < len(missing):
        with suppress(ResultError, OSError):  # a cache spares time, and nothing else
            cache.parent.mkdir(parents=True, exist_ok=True)
            _write_cache(cache, folder, list(known.values()), stamps)
    store.entries = in_order(known.values())
    return store


def in_order(entries: Iterable[Entry]) -> list[Entry]:
    """The runs in order of time, each with the reason why it does not count. Of copies of a run the
    one with the most blocks counts, if possible a complete one."""
    by_id: dict[str, list[Entry]] = {}
    for entry in sorted(entries, key=lambda entry: str(entry.path)):
        by_id.setdefault(entry.run.run_id, []).append(entry)
    ordered = list[Entry]()
    for run_id in places(copies[0].run for copies in by_id.values()):
        best, *copies = sorted(
            by_id[run_id],
            key=lambda entry: (not entry.complete, -entry.n_blocks, entry.path.stem != run_id),
        )
        for entry in (best, *copies):
            problems = {
                COPY: entry is not best,
                WRONG: "wrong" in entry.statuses,
                INCOMPLETE: not entry.complete,
                SLOWED: entry.run.world.get("slowed_percent"),
                TIMELESS: time_of(run_id) is None,
            }
            entry.left_out = next((why for why, applies in problems.items() if applies), "")
            ordered.append(entry)
    return ordered


def _read_all(paths: Sequence[Path]) -> list[Entry | tuple[Path, ResultError]]:
    """The runs of these files, in their order, or why they are none."""
    chunks = [paths[at : at + CHUNK_RUNS] for at in range(0, len(paths), CHUNK_RUNS)]
    if len(chunks) < 2:
        return _read_chunk(paths)
    workers = min(os.cpu_count() or 1, len(chunks))
    with ProcessPoolExecutor(workers, get_context("fork"), initializer=_begin_worker) as pool:
        return [entry for chunk in pool.map(_read_chunk, chunks) for entry in chunk]


def _begin_worker() -> None:
    """Starts a process that reads runs. Their objects have no cycles, so none are looked for."""
    gc.disable()
    end_with_parent()


def _read_chunk(paths: Sequence[Path]) -> list[Entry | tuple[Path, ResultError]]:
    read_runs = list[Entry | tuple[Path, ResultError]]()
    for path in paths:
        try:
            entry = entry_of(read(path))
        except ResultError as error:
            read_runs.append((path, error))
        else:
            read_runs.append(entry)
    return read_runs


@lru_cache(maxsize=4096)
def _plan(text: bytes) -> tuple[list[CaseHeader], tuple[Key, ...]]:
    """Planned cases from their JSON, which runs have in common, as one object; and their keys."""
    cases = msgspec.json.decode(text, type=list[CaseHeader])
    return cases, tuple(map(key_of, cases))


def entry_of(result: Result) -> Entry:
    """The entry of a run that was read."""
    cases, keys = _plan(msgspec.json.encode(result.run.cases))
    return Entry(
        result.path,
        msgspec.structs.replace(result.run, environment={}, cases=cases),
        keys,
        result.end,
        tuple(case.status for case in result.cases),
        tuple(sorted({case.across_ranks for case in result.cases})),
        len(result.blocks),
        observe(result),
    )


def environment_of(entry: Entry) -> dict[str, Any]:
    """The recorded facts of a run, from the first line of its file, which takes 1 ms; all of it
    takes 20. Raises ResultError if that cannot be read any more."""
    try:
        with untrusted.open_file(entry.path) as file:
            head = msgspec.json.decode(file.readline(MOST_LINE_BYTES), type=_Facts)
    except (OSError, *NOT_JSON) as error:
        raise ResultError(f"{entry.path} cannot be read any more: {error}") from error
    facts: dict[str, Any] = untrusted.printable_in(head.environment)
    return facts


class _Facts(msgspec.Struct):
    environment: dict[str, Any]


def observe(result: Result) -> Observed:
    """The observations of a run: of each case with status ok and each state of the link with at
    least MIN_STATE_BLOCKS of its blocks. A block whose two probes disagree is in no state; if no
    probes agree, all blocks are in one."""
    blocks = result.blocks
    trips_ns = np.array([round_trip_ns(block) for block in blocks], dtype=float)  # None: NaN
    is_probed, of_block = trips_ns > 0, np.where(trips_ns == 0, 0, -1)
    if is_probed.any():
        of_block[is_probed] = link_states(np.log(trips_ns[is_probed]))
    elif not (trips_ns == 0).any():
        of_block[:] = 0
    states_ns = [
        float(np.median(own)) if len(own := trips_ns[is_probed & (of_block == state)]) else 0.0
        for state in range(of_block.max(initial=0) + 1)
    ]
    is_ok = np.array([case.status == "ok" for case in result.cases], dtype=bool)
    case = np.array([block.case for block in blocks], dtype=np.int32)
    cost_us = np.array([block.cost_us for block in blocks])
    counts = is_ok[case] & (of_block >= 0) if len(blocks) else np.zeros(0, dtype=bool)
    order = np.flatnonzero(counts)[np.lexsort((cost_us[counts], of_block[counts], case[counts]))]
    group = case[order].astype(np.int64) * len(states_ns) + of_block[order]
    groups, first, n = np.unique(group, return_index=True, return_counts=True)
    middle_us = (cost_us[order[first + (n - 1) // 2]] + cost_us[order[first + n // 2]]) / 2
    rows = (n >= MIN_STATE_BLOCKS) & (middle_us > 0)
    return Observed(
        (groups[rows] // len(states_ns)).astype(np.int32),
        np.array(states_ns)[groups[rows] % len(states_ns)],
        n[rows].astype(np.int32),
        middle_us[rows],
    )


def table(
    entries: Sequence[Entry], without: Sequence[str] = ()
) -> tuple["pd.DataFrame", list[Key], list[float]]:
    """The observations of these runs, which were measured alike: a row for each, with `run`, the
    place of the run in `entries`; `key`, the place of its key in the second value; `state` of the
    link, 0 the fastest, which the runs share; `n_blocks`; `cost_us`. The third value has the round
    trip of each state in ns, and is empty without probes. `without` are fields of a case that its
    key leaves out."""
    import pandas as pd  # takes 0.3 s

    numbers: dict[Key, int] = {}
    plans: dict[int, NDArray[np.int64]] = {}  # the key of each case, by the identity of a plan
    for entry in entries:
        if id(entry.keys) not in plans:
            keys = [key_of(case, without) for case in entry.run.cases] if without else entry.keys
            plans[id(entry.keys)] = np.array(
                [numbers.setdefault(key, len(numbers)) for key in keys]
            )
    observed = [entry.observed for entry in entries]
    names = ("round_trip_ns", "n_blocks", "cost_us")
    trips_ns, n_blocks, cost_us = (
        np.concatenate([np.empty(0), *(getattr(own, name) for own in observed)]) for name in names
    )
    state, rtt_ns = shared_states(trips_ns, n_blocks)
    of_runs = [plans[id(entry.keys)][entry.observed.case] for entry in entries]
    rows = pd.DataFrame(
        {
            "run": np.repeat(np.arange(len(entries)), [len(own.case) for own in observed]),
            "key": np.concatenate([np.empty(0, dtype=np.int64), *of_runs]),
            "state": state,
            "n_blocks": n_blocks,
            "cost_us": cost_us,
        }
    )
    return rows, list(numbers), rtt_ns


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
        _weighted_median(trips_ns[own], n_blocks[own])
        for number in range(state.max() + 1)
        for own in [is_probed & (state == number)]
    ]


def _weighted_median(values: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    order = np.argsort(values)
    ends = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(ends, ends[-1] / 2)])


@dataclass
class Costs:
    """Costs in us of runs, (runs, keys, states), NaN without an observation; the round trip of each
    state of the link in ns, fastest first; and whether a run has a case, (runs, keys)."""

    keys: list[Key]
    rtt_ns: list[float]
    us: NDArray[np.float64]
    is_measured: NDArray[np.bool_]


def costs_of(entries: Sequence[Entry]) -> Costs:
    """The observations of these runs, which were measured alike, as arrays."""
    rows, keys, rtt_ns = table(entries)
    shape = len(entries), len(keys), max(len(rtt_ns), 1)
    costs = Costs(keys, rtt_ns, np.full(shape, np.nan), np.zeros(shape[:2], dtype=bool))
    # Of two states of a run that are one for all runs, the one with more blocks counts.
    order = np.argsort(rows.n_blocks.to_numpy(), kind="stable")
    run, key, state, cost_us = (
        rows[name].to_numpy()[order] for name in ("run", "key", "state", "cost_us")
    )
    costs.us[run, key, state] = cost_us
    number = {key: place for place, key in enumerate(keys)}
    plans: dict[int, NDArray[np.int64]] = {}
    for row, entry in enumerate(entries):
        if id(entry.keys) not in plans:
            plans[id(entry.keys)] = np.array([number[key] for key in entry.keys])
        is_ok = np.array([status == "ok" for status in entry.statuses])
        costs.is_measured[row, plans[id(entry.keys)][is_ok]] = True
    return costs


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


# -- the cache: the observations of a large folder in one Parquet file, a row for each


def _cache_file(folder: Path) -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    digest = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
    return home / "wiretax" / "stores" / f"{digest}.v1.parquet"


def _has_pyarrow() -> bool:
    if find_spec("pyarrow") is None:
        print(
            "reports: the runs are read one by one: their cache needs pyarrow "
            "(python -m pip install pyarrow)",
            file=sys.stderr,
        )
        return False
    return True


def _write_cache(
    path: Path, folder: Path, entries: Sequence[Entry], stamps: dict[Path, Stamp]
) -> None:
    """Writes the observations of these runs of the folder; a run without any has a row of case -1.
    The head of a run is JSON. Raises ResultError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    encode = msgspec.json.encode
    lengths = [max(len(entry.observed.case), 1) for entry in entries]
    run = np.repeat(np.arange(len(entries), dtype=np.int32), lengths)

    def repeated(values: Sequence[bytes]) -> "pa.Array":
        number = {value: place for place, value in enumerate(dict.fromkeys(values))}
        of_run = np.array([number[value] for value in values], dtype=np.int32)
        return pa.DictionaryArray.from_arrays(of_run[run], pa.array(list(number), pa.binary()))

    def own(place: int, blank: float) -> NDArray[Any]:
        blanks = np.array([blank])
        return np.concatenate(
            [entry.observed[place] if len(entry.observed.case) else blanks for entry in entries]
        )

    heads = [
        msgspec.structs.replace(entry.run, run_id="", after=[], cases=entry.run.cases[:1])
        for entry in entries
    ]
    columns = {
        "path": repeated([os.fsencode(entry.path.relative_to(folder)) for entry in entries]),
        "stamp": repeated([encode(stamps[entry.path]) for entry in entries]),
        "run": repeated([encode((entry.run.run_id, entry.run.after)) for entry in entries]),
        "head": repeated(list(map(encode, heads))),
        "cases": repeated([encode(entry.run.cases) for entry in entries]),
        "results": repeated([encode((each.statuses, each.across_ranks)) for each in entries]),
        "end": repeated([encode((entry.end, entry.n_blocks)) for entry in entries]),
        "case": own(0, -1).astype(np.int32),
        "round_trip_ns": own(1, 0.0),
        "n_blocks": own(2, 0).astype(np.int32),
        "cost_us": own(3, 0.0),
    }
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, compression="zstd", row_group_size=len(run))
    write_whole(path, sink.getvalue().to_pybytes())


def _read_cache(path: Path, folder: Path, stamps: dict[Path, Stamp]) -> dict[Path, Entry]:
    """The runs of the folder's cache whose files are as they were; none if it cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = "path", "stamp", "run", "head", "cases", "results", "end"
    try:
        rows = pq.ParquetFile(path, read_dictionary=list(texts)).read().combine_chunks()
    except (OSError, pa.ArrowException):  # there is none yet, or the disk was full
        return {}
    columns = {name: rows[name].combine_chunks() for name in rows.column_names}
    of_path = columns["path"].indices.to_numpy()
    starts = np.flatnonzero(np.diff(of_path, prepend=-1))
    ends = [*starts[1:].tolist(), len(of_path)]
    of_run = {
        name: [values[number] for number in columns[name].indices.to_numpy()[starts].tolist()]
        for name in texts
        for values in [columns[name].dictionary.to_pylist()]
    }
    arrays = [columns[name].to_numpy() for name in Observed._fields]
    decode, entries = msgspec.json.decode, dict[Path, Entry]()
    for number, (first, end) in enumerate(zip(starts.tolist(), ends, strict=True)):
        file = folder / os.fsdecode(of_run["path"][number])
        if stamps.get(file) != decode(of_run["stamp"][number], type=Stamp):
            continue
        if arrays[0][first] < 0:
            end = first
        run_id, after = decode(of_run["run"][number])
        statuses, across_ranks = _results(of_run["results"][number])
        cases, keys = _plan(of_run["cases"][number])
        last, n_blocks = decode(of_run["end"][number], type=tuple[End | None, int])
        run = msgspec.structs.replace(
            _head(of_run["head"][number]),
            run_id=run_id,
            after=after,
            cases=cases,
        )
        observed = Observed(*(array[first:end] for array in arrays))
        entries[file] = Entry(file, run, keys, last, statuses, across_ranks, n_blocks, observed)
    return entries


@lru_cache(maxsize=4096)
def _head(text: bytes) -> Run:
    return msgspec.json.decode(text, type=Run)


@lru_cache(maxsize=4096)
def _results(text: bytes) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return msgspec.json.decode(text, type=tuple[tuple[str, ...], tuple[str, ...]])
