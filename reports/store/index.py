"""`index`: the runs of a store in columns. Parquet files in a folder beside the runs, each with a
row a run, spare the reports from reading the runs. The runs stay the record: whatever is missing,
torn or older than its run is read again, and without pyarrow all runs are."""

import argparse
import gc
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from reports.store.columns import CELLS, Blocks, Entry, cells_of, entry_of
from reports.store.foreign import printable
from reports.store.manifest import MANIFEST, run_files
from reports.store.parts import (
    BLOCKS,
    CELL,
    FOLDER,
    SHARED,
    SMALL,
    SUFFIX,
    Refused,
    Stamp,
    entries_of,
    has_pyarrow,
    lists_of,
    make_part,
    torn_errors,
    warn,
    with_shared,
)
from reports.store.report_json import write_json
from reports.store.result import ResultError, end_with_parent, read

PART_RUNS = 256  # at most; a part of half as many is not written again
LEAST_RUNS = 200  # a store of fewer has an index only if `reports index` made one
FEW = 64  # runs that one process reads


@dataclass
class Contents:
    """The content of a folder: its runs by name, and so by time; manifests of campaigns; links and
    folders that are left out, and why; files that are no runs; the open parts of the index, and the
    number of files that were read because it lacked them."""

    folder: Path
    entries: list[Entry] = field(default_factory=list)
    manifests: list[Path] = field(default_factory=list)
    problems: list[tuple[Path, str]] = field(default_factory=list)
    refused: Refused = field(default_factory=list)
    parts: list[Any] = field(default_factory=list)
    n_read: int = 0
    _cells: dict[int, Any] = field(default_factory=dict)  # of the last part

    def load(self, column: str, entries: Iterable[Entry]) -> Iterator[Entry]:
        """These entries with their `blocks` or `environment`, part after part; entries of the index
        lose them again. The runs of a torn part are read."""
        by_part: dict[int, list[Entry]] = defaultdict(list)
        for entry in entries:
            by_part[entry.part].append(entry)
        numbers = sorted(by_part)
        with ThreadPoolExecutor(1) as reader:  # reads the next part meanwhile
            ahead = [reader.submit(self._table, column, number) for number in numbers[:1]]
            for place, number in enumerate(numbers, 1):
                table = ahead.pop().result()
                ahead += [reader.submit(self._table, column, after)
                          for after in numbers[place : place + 1]]
                for entry in by_part[number]:
                    former = getattr(entry, column)
                    if former is None:
                        setattr(entry, column, _value(entry, column, table))
                    yield entry
                    setattr(entry, column, former)

    def _table(self, column: str, number: int) -> dict[str, Any] | None:
        # None for a torn part, and for runs that are in no part.
        with suppress(*torn_errors()):
            names = BLOCKS if column == "blocks" else [column]
            return lists_of(self.parts[number], names) if number >= 0 else None
        return None

    def cells(self, entry: Entry) -> dict[str, list[Any]]:
        """The cells of an entry's cases, as `cells_of` has them."""
        with suppress(*torn_errors()):
            if entry.part >= 0:
                part = self.parts[entry.part]
                if entry.part not in self._cells:
                    names = [name for name in part.schema_arrow.names if name.startswith(CELL)]
                    self._cells = {entry.part: part.read(columns=names)}
                row = self._cells[entry.part].slice(entry.row, 1).to_pylist()[0]
                none = [None] * len(entry.statuses)
                return {name: row.get(f"{CELL}{name}") or none for name in CELLS}
        return cells_of(read(entry.path).cases)


def _value(entry: Entry, column: str, table: dict[str, Any] | None) -> Any:
    if table is None:
        return getattr(entry_of(read(entry.path)), column)
    if column == "blocks":
        return Blocks(*(values[offsets[entry.row] : offsets[entry.row + 1]]
                        for offsets, values in table.values()))
    return table[column][entry.row].as_py()


def read_entries(folder: Path, always: bool = False) -> Contents:
    """The runs below `folder`, from its index where that is current. Extends the index, and makes
    one for a large store or if `always`. Raises ResultError if `folder` is not a folder."""
    if not folder.is_dir():
        raise ResultError(f"{folder} is not a folder of results")
    contents, missing = Contents(folder), dict[str, Stamp]()
    for path, problem in run_files(folder):
        if problem:
            contents.problems.append((path, problem))
        elif path.name == MANIFEST:
            contents.manifests.append(path)
        else:
            name = str(path.relative_to(folder))
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
        warn(f"{len(missing)} runs are read one by one: an index needs pyarrow "
              "(python -m pip install pyarrow)")
    current = dict(missing)
    small = [path for path in sorted(place.glob(f"*{SUFFIX}")) if is_indexed
             and _add_part(contents, path, missing) < PART_RUNS // 2]
    contents.n_read = len(missing)
    if missing and is_indexed:
        try:
            place.mkdir(exist_ok=True)
        except OSError as error:
            is_indexed = False
            warn(f"{place} cannot be made: {error.strerror}; {len(missing)} runs are read anew")
    if missing:
        _read_missing(contents, missing, current, small if is_indexed else None)
    contents.entries.sort(key=lambda entry: (entry.path.stem, str(entry.path)))
    return contents


def is_worthwhile(folder: Path) -> bool:
    """Whether an index of this folder exists or would be made."""
    if not has_pyarrow() or not folder.is_dir():
        return False
    files = (path for path, problem in run_files(folder) if not problem)
    return (folder / FOLDER).is_dir() or sum(1 for _ in files) >= LEAST_RUNS


def _read_missing(contents: Contents, missing: dict[str, Stamp], current: dict[str, Stamp],
                  small: Sequence[Path] | None) -> None:
    """Reads the files that the index lacks and adds them to it, in parts: the last one takes the
    runs of `small` parts. Without an index `small` is None."""
    names = sorted(missing, key=lambda name: (os.path.basename(name), name))
    length = max(FEW, min(PART_RUNS, -(-len(names) // 2)))
    chunks = [names[start : start + length] for start in range(0, len(names), length)]
    former: list[Sequence[Path] | None] = [None if small is None else () for _ in chunks]
    former[-1] = small
    stamps = [{name: missing[name] for name in chunk} for chunk in chunks]
    folders = [contents.folder] * len(chunks)
    if len(chunks) == 1:
        made = list(map(make_part, folders, stamps, former, [current]))
    else:
        with ProcessPoolExecutor(min(os.cpu_count() or 1, len(chunks)), get_context("fork"),
                                 initializer=begin_worker) as pool:
            made = list(pool.map(make_part, folders, stamps, former, [current] * len(chunks)))
    for path, entries, refused in made:
        contents.refused += refused
        for name in (str(entry.path.relative_to(contents.folder)) for entry in entries):
            missing.pop(name)
        contents.entries += map(with_shared, entries)
        if path:
            _add_part(contents, path, missing)
    unread = {path for path, _ in contents.refused}
    for name in [name for name in missing if contents.folder / name not in unread]:
        try:  # another process has merged the part, or this file system's names defeat pyarrow
            contents.entries.append(with_shared(entry_of(read(contents.folder / name))))
        except ResultError as error:
            contents.refused.append((contents.folder / name, error))
    if small and made[-1][0]:
        for path in small:
            path.unlink(missing_ok=True)


def begin_worker() -> None:
    """Starts a process that reads runs. Their objects have no cycles, so none are looked for."""
    gc.disable()
    end_with_parent()


def _add_part(contents: Contents, path: Path, missing: dict[str, Stamp]) -> int:
    """Adds the runs of a part whose files are as they were, and removes them from `missing`.
    Returns their number. Deletes a torn part."""
    import pyarrow.parquet as pq

    try:
        part = pq.ParquetFile(path, page_checksum_verification=True, read_dictionary=list(SHARED))
        table = part.read(columns=list(SMALL))
        columns = {name: table[name].combine_chunks() for name in SMALL}
        entries = list(entries_of(contents.folder, len(contents.parts), columns, missing))
    except FileNotFoundError:  # merged by another process
        return 0
    except torn_errors():
        with suppress(OSError):
            path.unlink()
        return 0
    contents.parts.append(part)
    contents.entries += entries
    return len(entries)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", metavar="STORE", type=Path, help="a folder of runs, at any depth")


def index(arguments: argparse.Namespace) -> int:
    """Brings the index up to date. Returns 0. Raises ResultError without a folder or pyarrow."""
    if not has_pyarrow():
        raise ResultError("an index needs pyarrow: python -m pip install pyarrow")
    contents = read_entries(arguments.store, always=True)
    n_runs, place = len(contents.entries), arguments.store / FOLDER
    n_bytes = sum(path.stat().st_size for path in place.glob(f"*{SUFFIX}"))
    if arguments.json:
        write_json("index", runs=n_runs, read=contents.n_read - len(contents.refused),
                   size_bytes=n_bytes)
    else:
        print(f"{printable(str(place))}: {n_runs} runs, {n_bytes / 1e6:.1f} MB; "
              f"{contents.n_read - len(contents.refused)} were read now")
    return 0
