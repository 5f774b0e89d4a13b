"""`index`: the runs of a store in columns. Parquet files in a folder beside the runs, each with a
row a run, spare the reports from reading the runs. The runs stay the record: whatever is missing,
torn or older than its run is read again, and without pyarrow all runs are."""

import argparse
import gc
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from reports.store.columns import CELLS, Entry, cells_of, entry_of
from reports.store.manifest import MANIFEST, run_files
from reports.store.parts import (
    CELL,
    FOLDER,
    SUFFIX,
    Refused,
    Rows,
    Stamp,
    blocks_of,
    cells_of_part,
    discard,
    entries_of,
    environments_of,
    has_pyarrow,
    make_part,
    torn_errors,
    warn,
    with_shared,
)
from reports.store.report_json import write_json
from reports.store.result import ResultError, end_with_parent, read
from reports.store.untrusted import printable

PART_RUNS = 256  # at most; a part of half as many is not written again
LEAST_RUNS = 200  # a store of fewer has an index only if `reports index` made one
FEW = 64  # runs that one process reads
MOST_CELLS = 8  # parts whose cells are kept: racks that were added one after the other overlap


@dataclass
class Contents:
    """The content of a folder: its runs by name, and so by time; manifests of campaigns; links and
    folders that are left out, and why; files that are no runs; the parts of the index, and the
    number of files that were read because it lacked them."""

    folder: Path
    entries: list[Entry] = field(default_factory=list)
    manifests: list[Path] = field(default_factory=list)
    problems: list[tuple[Path, str]] = field(default_factory=list)
    refused: Refused = field(default_factory=list)
    parts: list[Path] = field(default_factory=list)
    n_read: int = 0
    _cells: dict[int, Any] = field(default_factory=dict)  # of the parts that were used last

    def load(self, column: str, entries: Iterable[Entry]) -> Iterator[Entry]:
        """These entries with their `blocks` or `environment`, part after part; entries of the index
        lose them again. The runs of a torn part are read."""
        by_part: dict[int, list[Entry]] = defaultdict(list)
        for entry in entries:
            by_part[entry.part].append(entry)
        groups = [by_part[number] for number in sorted(by_part)]
        with ThreadPoolExecutor(1) as reader:  # reads the next part meanwhile
            ahead = [reader.submit(self._values, column, group) for group in groups[:1]]
            for place, group in enumerate(groups, 1):
                values = ahead.pop().result()
                ahead += [
                    reader.submit(self._values, column, after)
                    for after in groups[place : place + 1]
                ]
                for number, entry in enumerate(group):
                    former = getattr(entry, column)
                    if former is None:
                        value = (
                            values[number]
                            if values
                            else getattr(entry_of(read(entry.path)), column)
                        )
                        setattr(entry, column, value)
                    yield entry
                    setattr(entry, column, former)

    def _values(self, column: str, group: Sequence[Entry]) -> Sequence[Any] | None:
        # Of entries of one part. None for a torn part, and for runs that are in no part.
        if group[0].part < 0:
            return None
        path = self.parts[group[0].part]
        try:
            return (blocks_of if column == "blocks" else environments_of)(path, group)
        except torn_errors() as error:
            discard(path, error)
        return None

    def cells(self, entry: Entry) -> dict[str, list[Any]]:
        """The cells of an entry's cases, as `cells_of` has them."""
        if entry.part >= 0:
            path, n_cases = self.parts[entry.part], len(entry.statuses)
            try:
                table = self._cells.pop(entry.part, None)
                table = cells_of_part(path) if table is None else table
                self._cells[entry.part] = table  # the last of them
                if len(self._cells) > MOST_CELLS:
                    del self._cells[next(iter(self._cells))]
                row = table.slice(entry.row, 1).to_pylist()[0]
                lists = {name: row.get(f"{CELL}{name}") or [None] * n_cases for name in CELLS}
                if any(len(values) != n_cases for values in lists.values()):
                    raise ValueError("cells that belong to no case")
                return lists
            except torn_errors() as error:
                discard(path, error)
        return cells_of(read(entry.path).cases)


def read_entries(folder: Path, always: bool = False) -> Contents:
    """The runs below `folder`, from its index where that is current. Extends the index, and makes
    one for a large store or if `always`. Raises ResultError if `folder` is not a folder."""
    if not folder.is_dir():
        raise ResultError(f"{folder} is not a folder of results")
    contents, missing, paths = Contents(folder), dict[str, Stamp](), dict[str, Path]()
    for path, problem in run_files(folder):
        if problem:
            contents.problems.append((path, problem))
        elif path.name == MANIFEST:
            contents.manifests.append(path)
        else:
            name = str(path.relative_to(folder))
            paths[name] = path
            try:
                status = path.stat()
                missing[name] = status.st_size, status.st_mtime_ns
            except FileNotFoundError:  # deleted since it was listed
                continue
            except OSError:
                missing[name] = -1, -1  # `read` says why
    place, is_large = folder / FOLDER, len(missing) >= LEAST_RUNS
    is_indexed = has_pyarrow() and (always or is_large or place.is_dir())
    if is_large and not has_pyarrow():
        warn(
            f"{len(missing)} runs are read one by one: an index needs pyarrow "
            "(python -m pip install pyarrow)"
        )
    small: Rows | None = None
    if is_indexed:
        rows_of = {
            path: _add_part(contents, path, paths, missing)
            for path in sorted(place.glob(f"*{SUFFIX}"))
        }
        # Rows that an earlier part has too are not written again.
        small = [
            (path, rows)
            for path, rows in rows_of.items()
            if rows is not None and len(rows) < PART_RUNS // 2
        ]
    contents.n_read = len(missing)
    if missing and is_indexed:
        try:
            place.mkdir(exist_ok=True)
        except OSError as error:
            small = None
            warn(f"{place} cannot be made: {error.strerror}; {len(missing)} runs are read anew")
    if missing:
        _read_missing(contents, paths, missing, small)
    contents.entries.sort(key=lambda entry: (entry.path.stem, str(entry.path)))
    return contents


def is_worthwhile(folder: Path) -> bool:
    """Whether an index of this folder exists or would be made."""
    if not has_pyarrow() or not folder.is_dir():
        return False
    files = (path for path, problem in run_files(folder) if not problem)
    return (folder / FOLDER).is_dir() or sum(1 for _ in files) >= LEAST_RUNS


def _read_missing(
    contents: Contents, paths: dict[str, Path], missing: dict[str, Stamp], small: Rows | None
) -> None:
    """Reads the files that the index lacks and adds them to it, in parts: the last one takes the
    rows of `small` parts. Without an index `small` is None."""
    names = sorted(missing, key=lambda name: (os.path.basename(name), name))
    length = max(FEW, min(PART_RUNS, -(-len(names) // 2)))
    chunks = [names[start : start + length] for start in range(0, len(names), length)]
    former: list[Rows | None] = [None if small is None else () for _ in chunks]
    former[-1] = small
    stamps = [{name: missing[name] for name in chunk} for chunk in chunks]
    folders = [contents.folder] * len(chunks)
    if len(chunks) == 1:
        made = list(map(make_part, folders, stamps, former))
    else:
        with ProcessPoolExecutor(
            min(os.cpu_count() or 1, len(chunks)), get_context("fork"), initializer=begin_worker
        ) as pool:
            made = list(pool.map(make_part, folders, stamps, former))
    for path, entries, refused in made:
        contents.refused += refused
        for name in (str(entry.path.relative_to(contents.folder)) for entry in entries):
            missing.pop(name)
        contents.entries += map(with_shared, entries)
        if path:
            _add_part(contents, path, paths, missing)
    unread = {path for path, _ in contents.refused}
    for name in [name for name in missing if paths[name] not in unread]:
        try:  # another process has merged the part, or this file system's names defeat pyarrow
            contents.entries.append(with_shared(entry_of(read(paths[name]))))
        except ResultError as error:
            contents.refused.append((paths[name], error))
    if small and made[-1][0]:
        for path, _ in small:
            path.unlink(missing_ok=True)


def begin_worker() -> None:
    """Starts a process that reads runs. Their objects have no cycles, so none are looked for."""
    gc.disable()
    end_with_parent()


def _add_part(
    contents: Contents, path: Path, paths: dict[str, Path], missing: dict[str, Stamp]
) -> list[int] | None:
    """Adds the runs of a part whose files are as they were, and removes them from `missing`.
    Returns their rows, or None for a part that cannot be read. Deletes a damaged part."""
    try:
        entries = entries_of(path, len(contents.parts), paths, missing)
    except torn_errors() as error:  # also if another process has merged it
        discard(path, error)
        return None
    contents.parts.append(path)
    contents.entries += entries.values()
    for name in entries:
        del missing[name]
    return [entry.row for entry in entries.values()]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", metavar="STORE", type=Path, help="a folder of runs, at any depth")


def index(arguments: argparse.Namespace) -> int:
    """Brings the index up to date. Returns 0. Raises ResultError if there is none then."""
    if not has_pyarrow():
        raise ResultError("an index needs pyarrow: python -m pip install pyarrow")
    contents = read_entries(arguments.store, always=True)
    n_runs, place = len(contents.entries), arguments.store / FOLDER
    n_bytes = sum(path.stat().st_size for path in place.glob(f"*{SUFFIX}"))
    if not n_bytes:
        raise ResultError(f"{arguments.store} has no index: none of its {n_runs} runs can be kept")
    if arguments.json:
        write_json(
            "index", runs=n_runs, read=contents.n_read - len(contents.refused), size_bytes=n_bytes
        )
    else:
        print(
            f"{printable(str(place))}: {n_runs} runs, {n_bytes / 1e6:.1f} MB; "
            f"{contents.n_read - len(contents.refused)} were read now"
        )
    return 0
