"""The runs of a folder: which of them count in reports on many runs, and in which order."""

import gc
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import msgspec

from wiretax.common.grouped import grouped
from wiretax.record import cache, packed
from wiretax.record.cache import Stamp
from wiretax.record.manifest import MANIFEST, death_of, run_files
from wiretax.record.observations import Entry, entry_of
from wiretax.record.result import (
    FUTURE,
    ResultError,
    by_time,
    end_with_parent,
    is_future,
    read,
    time_of,
)

CACHED_RUNS = 200  # a folder of fewer runs is read anew each time
CHUNK_RUNS = 64  # that one process reads at a time
Found = Entry | str  # a run, or why a file holds none
COPY, WRONG, INCOMPLETE = "a run once more", "with wrong results", "incomplete"
TIMELESS = "without a time in its run_id"


class Contents(msgspec.Struct):
    """The content of a folder: its runs in order of time; the folders of campaigns; links, folders
    and files that are left out, and why, in few words and each in a sentence."""

    folder: Path
    entries: list[Entry] = []
    campaigns: list[Path] = []
    left_out: list[tuple[Path, str]] = []
    complaints: list[str] = []


def read_store(folder: Path) -> Contents:
    """The runs below `folder`, which may be an archive. Links are not followed. Raises ResultError
    if it is no folder."""
    if not packed.is_folder(folder):
        raise ResultError(f"{folder} is not a folder of results")

    store, stamps = Contents(folder), dict[Path, Stamp]()
    for path, problem in run_files(folder):
        if problem:
            store.left_out.append((path, problem))
            store.complaints.append(f"{path} is {problem}")
        elif path.name == MANIFEST:
            store.campaigns.append(path.parent)
            with suppress(ResultError):  # `compare` says what is wrong with a manifest
                if death := death_of(path):
                    store.left_out.append((path.parent, f"a campaign that {death}"))
        else:
            try:
                status = path.stat()
                stamps[path] = status.st_size, status.st_mtime_ns
            except FileNotFoundError:  # deleted since it was listed
                continue
            except OSError:
                stamps[path] = -1, -1  # `read` says why

    for archive in packed.archives_in(folder) if not stamps else []:
        store.left_out.append((archive, "an archive, to name by itself"))
        store.complaints.append(f"{archive} is an archive: name it by itself")

    is_cached = len(stamps) >= CACHED_RUNS
    known = cache.read(folder, stamps) if is_cached else {}
    missing = sorted(stamps.keys() - known.keys())

    for path, found in zip(missing, _read_all(missing), strict=True):
        if isinstance(found, Entry):
            found.share_plan()
            known[path] = found
        else:
            store.left_out.append((path, "not a run that can be read"))
            store.complaints.append(found)

    if is_cached and not known.keys().isdisjoint(missing):
        with suppress(ResultError, OSError):  # a cache spares time, and nothing else
            cache.write(folder, list(known.values()), stamps)

    store.entries = in_order(known.values())
    return store


def in_order(entries: Iterable[Entry]) -> list[Entry]:
    """The runs in order of time, each with the reason why it does not count. Of copies of a run the
    one with the most blocks that count does, if possible a complete one."""
    ordered, by_id = list[Entry](), grouped(entries, lambda entry: entry.run.run_id)
    for run_id in sorted(by_id, key=by_time):
        own = sorted(by_id[run_id], key=_rank_of_copy)
        for entry in own:
            entry.left_out = COPY if entry is not own[0] else _problem_of(entry)
            ordered.append(entry)

    return ordered


def _rank_of_copy(entry: Entry) -> tuple[Any, ...]:
    """The key that sorts the copies of a run: first the one that counts."""
    return (
        not entry.complete,
        -entry.observed["n_blocks"].sum(),
        entry.path.stem != entry.run.run_id,  # the original is named by its run_id
        str(entry.path),
    )


def _problem_of(entry: Entry) -> str:
    """Why a run that is no copy does not count, or "" if it does."""
    if "wrong" in entry.statuses:
        return WRONG
    if is_future(entry.run.run_id):
        return FUTURE
    if not entry.complete:
        return INCOMPLETE
    if time_of(entry.run.run_id) is None:
        return TIMELESS
    return ""


def _read_all(paths: Sequence[Path]) -> list[Found]:
    """The runs of these files, in their order, or why they are none."""
    if len(paths) <= CHUNK_RUNS:
        return list(map(_read_one, paths))

    workers = min(os.cpu_count() or 1, 1 + len(paths) // CHUNK_RUNS)
    with ProcessPoolExecutor(workers, get_context("fork"), initializer=_begin_worker) as pool:
        try:
            return list(pool.map(_read_one, paths, chunksize=CHUNK_RUNS))
        except RecursionError:  # a stranger's run is nested too deeply for a pipe
            return list(map(_read_one, paths))


def _begin_worker() -> None:
    """Starts a process that reads runs. Their objects have no cycles, so none are looked for."""
    gc.disable()
    end_with_parent()


def _read_one(path: Path) -> Found:
    try:
        return entry_of(read(path))
    except ResultError as error:
        return str(error)
