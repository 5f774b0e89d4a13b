"""The runs of a folder: which of them count in reports on many runs, and in which order."""

import gc
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

from reports.store.manifest import MANIFEST, run_files
from reports.store.observations import Entry, entry_of
from reports.store.result import ResultError, by_time, end_with_parent, read, time_of

CHUNK_RUNS = 64  # that one process reads at a time
Found = Entry | tuple[Path, ResultError]  # a run, or a file and why it holds none
COPY, WRONG, INCOMPLETE = "a run once more", "with wrong results", "incomplete"
SLOWED, TIMELESS = "slowed on purpose", "without a time in its run_id"


@dataclass
class Contents:
    """The content of a folder: its runs in order of time; manifests of campaigns; links and folders
    that are left out, and why; files that are no runs."""

    folder: Path
    entries: list[Entry] = field(default_factory=list)
    manifests: list[Path] = field(default_factory=list)
    problems: list[tuple[Path, str]] = field(default_factory=list)
    refused: list[tuple[Path, ResultError]] = field(default_factory=list)

    @property
    def left_out(self) -> list[tuple[Path, str]]:
        """Links, folders and files that hold no run, and why."""
        return [*self.problems, *((path, "not a run that can be read") for path, _ in self.refused)]


def read_store(folder: Path) -> Contents:
    """The runs below `folder`. Links are not followed. Raises ResultError if it is no folder."""
    if not folder.is_dir():
        raise ResultError(f"{folder} is not a folder of results")

    store, paths = Contents(folder), list[Path]()
    for path, problem in run_files(folder):
        if problem:
            store.problems.append((path, problem))
        elif path.name == MANIFEST:
            store.manifests.append(path)
        else:
            paths.append(path)

    found = _read_all(paths)
    store.refused = [entry for entry in found if not isinstance(entry, Entry)]
    store.entries = in_order(entry for entry in found if isinstance(entry, Entry))
    return store


def in_order(entries: Iterable[Entry]) -> list[Entry]:
    """The runs in order of time, each with the reason why it does not count. Of copies of a run the
    one with the most blocks counts, if possible a complete one."""
    by_id: dict[str, list[Entry]] = {}
    for entry in sorted(entries, key=lambda entry: str(entry.path)):
        by_id.setdefault(entry.run.run_id, []).append(entry)

    ordered = list[Entry]()
    for run_id in sorted(by_id, key=by_time):
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


def _read_all(paths: Sequence[Path]) -> list[Found]:
    """The runs of these files, in their order, or why they are none."""
    if len(paths) <= CHUNK_RUNS:
        return list(map(_read, paths))

    with ProcessPoolExecutor(
        os.cpu_count(), get_context("fork"), initializer=_begin_worker
    ) as pool:
        return list(pool.map(_read, paths, chunksize=CHUNK_RUNS))


def _begin_worker() -> None:
    """Starts a process that reads runs. Their objects have no cycles, so none are looked for."""
    gc.disable()
    end_with_parent()


def _read(path: Path) -> Found:
    try:
        return entry_of(read(path))
    except ResultError as error:
        return path, error
