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
    store.entries = _in_order(known.values())
    return store


def _in_order(entries: Iterable[Entry]) -> list[Entry]:
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
    """The observations of these runs, which were measured alike, in one DataFrame:

    - `run`: the place of the run in `entries`;
    - `key`: the place of the case's key in the second value, which leaves out the fields `without`;
    - `state` of the link, which the runs share: its place in the third value, the round trip of
      each state in ns, the fastest first, which is empty without probes;
    - `n_blocks` in that state, and `cost_us`, the median of their costs.

    A run has one row for a key and state."""
    import pandas as pd  # takes 0.3 s

    keys, key_of_cases = _numbered_keys(entries, without)
    observed = [entry.observed for entry in entries]
    trips_ns, n_blocks, cost_us = (
        np.concatenate([np.empty(0), *(getattr(own, name) for own in observed)])
        for name in ("round_trip_ns", "n_blocks", "cost_us")
    )
    state, rtt_ns = shared_states(trips_ns, n_blocks)
    of_rows = [
        key_of_case[own.case] for key_of_case, own in zip(key_of_cases, observed, strict=True)
    ]
    rows = pd.DataFrame(
        {
            "run": np.repeat(np.arange(len(entries)), [len(own.case) for own in observed]),
            "key": np.concatenate([np.empty(0, dtype=np.int64), *of_rows]),
            "state": state,
            "n_blocks": n_blocks,
            "cost_us": cost_us,
        }
    )
    cell = (rows.run * len(keys) + rows.key) * max(len(rtt_ns), 1) + rows.state
    if not cell.is_unique:
        # Of two states of a run that are one for all runs, the one with more blocks counts.
        rows["cell"] = cell
        rows = rows.sort_values("n_blocks", kind="stable").drop_duplicates("cell", keep="last")
        rows = rows.drop(columns="cell").sort_index()
    return rows, keys, rtt_ns


def _numbered_keys(
    entries: Sequence[Entry], without: Sequence[str] = ()
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
    costs.us[rows.run, rows.key, rows.state] = rows.cost_us
    _, key_of_cases = _numbered_keys(entries)
    for run, (entry, key_of_case) in enumerate(zip(entries, key_of_cases, strict=True)):
        is_ok = [status == "ok" for status in entry.statuses]
        costs.is_measured[run, key_of_case[is_ok]] = True
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


# -- the cache: a large folder's observations in one Parquet file, a row for each run


def _cache_file(folder: Path) -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    digest = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
    return home / "wiretax" / "stores" / f"{digest}.v2.parquet"


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
    """Writes the runs of the folder: facts as JSON, observations as lists. Raises ResultError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    encode = msgspec.json.encode
    facts = [
        {
            "path": os.fsencode(entry.path.relative_to(folder)),
            "stamp": encode(stamps[entry.path]),
            "own": encode((entry.run.run_id, entry.run.after, entry.end, entry.n_blocks)),
            "head": encode(
                msgspec.structs.replace(entry.run, run_id="", after=[], cases=entry.run.cases[:1])
            ),
            "cases": encode(entry.run.cases),
            "results": encode((entry.statuses, entry.across_ranks)),
        }
        for entry in entries
    ]
    columns = {name: pa.array([own[name] for own in facts], pa.binary()) for name in facts[0]}
    ends = np.cumsum([0, *(len(entry.observed.case) for entry in entries)])
    for place, name in enumerate(Observed._fields):
        values = pa.array(np.concatenate([entry.observed[place] for entry in entries]))
        columns[name] = pa.LargeListArray.from_arrays(ends, values)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, compression="zstd", row_group_size=len(entries))
    write_whole(path, sink.getvalue().to_pybytes())


def _read_cache(path: Path, folder: Path, stamps: dict[Path, Stamp]) -> dict[Path, Entry]:
    """The runs of the folder's cache whose files are as they were; none if it cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    shared = "head", "cases", "results"  # equal in many runs: one object for each text
    try:
        rows = pq.ParquetFile(path, read_dictionary=list(shared)).read().combine_chunks()
    except (OSError, pa.ArrowException):  # there is none yet, or the disk was full
        return {}
    columns = {name: rows[name].combine_chunks() for name in rows.column_names}
    texts = {name: columns[name].dictionary.to_pylist() for name in shared}
    of_run = {name: columns[name].indices.to_pylist() for name in shared}
    observed = [columns[name].values.to_numpy() for name in Observed._fields]
    ends = columns["case"].offsets.to_pylist()
    paths, saved, own = (columns[name].to_pylist() for name in ("path", "stamp", "own"))
    decode, entries = msgspec.json.decode, dict[Path, Entry]()
    for number, path_text in enumerate(paths):
        file = folder / os.fsdecode(path_text)
        if stamps.get(file) != decode(saved[number], type=Stamp):
            continue
        head, cases_text, results = (texts[name][of_run[name][number]] for name in shared)
        run_id, after, end, n_blocks = decode(
            own[number], type=tuple[str, list[str], End | None, int]
        )
        cases, keys = _plan(cases_text)
        run = msgspec.structs.replace(_head(head), run_id=run_id, after=after, cases=cases)
        own_part = slice(ends[number], ends[number + 1])
        entries[file] = Entry(
            file,
            run,
            keys,
            end,
            *_results(results),
            n_blocks,
            Observed(*(array[own_part] for array in observed)),
        )
    return entries


@lru_cache(maxsize=4096)
def _head(text: bytes) -> Run:
    return msgspec.json.decode(text, type=Run)


@lru_cache(maxsize=4096)
def _results(text: bytes) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return msgspec.json.decode(text, type=tuple[tuple[str, ...], tuple[str, ...]])
