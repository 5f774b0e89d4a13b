"""The parts of the `index` of a store: Parquet files with a row for each run."""

import errno
import os
import secrets
import stat
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from reports.store.columns import (
    CELLS,
    MIXED,
    UNPROBED,
    Blocks,
    Entry,
    Integers,
    cells_of,
    entry_of,
    is_number,
)
from reports.store.manifest import INDEX
from reports.store.result import ResultError, read
from reports.store.schema import CaseHeader, End, Result, Run
from reports.store.stats import MOST_BIN
from reports.store.untrusted import printable, printable_in
from reports.store.writing import write_whole

if TYPE_CHECKING:
    import pyarrow as pa

FOLDER, SUFFIX = INDEX, ".v1.parquet"
SHARED = ("head", "cases", "statuses", "across_ranks")  # columns that are equal in many runs
SMALL = ("path", "size_bytes", "mtime_ns", "run_id", "after", "end", "round_trips", *SHARED)
BLOCKS = {"case": np.int32, "bin": np.int16, "cost_us": np.float64}
CELL = "cell_"  # starts the name of a column of cases, as `export` has them
# Of a part: 256 runs of at most 55 MB have fewer blocks. A small file may claim any number.
MOST_ROWS, MOST_VALUES = 10_000, 100_000_000
MOST_COST_US = 1e15  # as the schema of a block has it
AFTER, END = msgspec.json.Decoder(list[str]), msgspec.json.Decoder(End | None)
Stamp = tuple[int, int]  # of a file: its size in bytes, its time of change in ns
Refused = list[tuple[Path, ResultError]]
Rows = Sequence[tuple[Path, Sequence[int]]]  # of parts


def make_part(
    folder: Path, stamps: dict[str, Stamp], former: Rows | None
) -> tuple[Path | None, list[Entry], Refused]:
    """Reads these files and writes them as a part of the index, with these rows of `former` parts.
    Returns its path; otherwise, without an index or if it cannot be written, the entries."""
    entries, cells, refused = list[Entry](), list[dict[str, list[Any]]](), Refused()
    for name in stamps:
        try:
            result = read(folder / name)
        except ResultError as error:
            refused.append((folder / name, error))
            continue
        entries.append(entry_of(result))
        if former is not None:
            cells.append(cells_of(result.cases))
    if former is None or not entries:
        return None, entries, refused
    path = folder / FOLDER / f"{secrets.token_hex(8)}{SUFFIX}"
    try:
        table = _table_of(folder, entries, cells, stamps)
        try:
            write_part(
                path,
                [
                    table,
                    *(open_part(of_part).read().take(rows) for of_part, rows in former if rows),
                ],
            )
        except torn_errors():  # one is torn or has other types: its runs are read the next time
            write_part(path, [table])
    except torn_errors() as error:  # a number that no column holds
        warn(f"{len(entries)} runs cannot be kept in an index: {error}")
    except ResultError as error:
        warn(str(error))
    else:
        return path, [], refused
    return None, entries, refused


def _table_of(
    folder: Path,
    entries: Sequence[Entry],
    cells: Sequence[dict[str, list[Any]]],
    stamps: dict[str, Stamp],
) -> "pa.Table":
    """A row for each run."""
    import pyarrow as pa

    names = [str(entry.path.relative_to(folder)) for entry in entries]
    encode = msgspec.json.encode
    heads = [
        {
            name: getattr(entry.run, name)
            for name in Run.__struct_fields__
            if name not in ("run_id", "after", "environment", "cases")
        }
        for entry in entries
    ]
    columns: dict[str, Any] = {
        "path": pa.array([os.fsencode(name) for name in names], pa.binary()),
        "size_bytes": [stamps[name][0] for name in names],
        "mtime_ns": [stamps[name][1] for name in names],
        "run_id": [entry.run.run_id for entry in entries],
        "after": [encode(entry.run.after) for entry in entries],
        "end": [encode(entry.end) for entry in entries],
        "head": list(map(encode, heads)),
        "cases": [encode(entry.run.cases) for entry in entries],
        "statuses": [encode(entry.statuses) for entry in entries],
        "across_ranks": [encode(entry.across_ranks) for entry in entries],
        "environment": [entry.environment for entry in entries],
        "round_trips": _list_array([entry.round_trips.ravel() for entry in entries]),
    }
    for place, name in enumerate(BLOCKS):
        columns[name] = _list_array([entry.blocks[place] for entry in entries if entry.blocks])
    for name in cells[0]:
        lists = [of_run[name] for of_run in cells]
        if any(values.count(None) < len(values) for values in lists):
            columns[f"{CELL}{name}"] = lists
    return pa.table(columns)


def _list_array(arrays: Sequence[Any]) -> Any:
    import pyarrow as pa

    ends = np.cumsum([0, *map(len, arrays)], dtype=np.int32)
    return pa.ListArray.from_arrays(ends, np.concatenate(arrays))


def write_part(path: Path, tables: Sequence["pa.Table"]) -> None:
    """Writes a part of the index at once. Raises ResultError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(
        pa.concat_tables(tables, promote_options="default"),
        sink,
        compression="zstd",
        write_page_checksum=True,
    )
    write_whole(path, sink.getvalue().to_pybytes())


def open_part(path: Path, dictionaries: Sequence[str] = ()) -> Any:
    """The part in this file. Raises one of `torn_errors`, also for a pipe and a link."""
    import pyarrow.parquet as pq

    if not stat.S_ISREG(path.lstat().st_mode):
        raise OSError(errno.EINVAL, "not an ordinary file", str(path))
    part = pq.ParquetFile(path, page_checksum_verification=True, read_dictionary=list(dictionaries))
    rows, groups = part.metadata.num_rows, part.metadata.num_row_groups
    if groups != 1 or rows > MOST_ROWS:
        raise ValueError(f"{rows} rows in {groups} groups")
    group = part.metadata.row_group(0)
    if any(group.column(number).num_values > MOST_VALUES for number in range(group.num_columns)):
        raise ValueError("more values than runs can have")
    return part


def blocks_of(path: Path, entries: Sequence[Entry]) -> list[Blocks]:
    """The blocks of these entries of a part. Raises one of `torn_errors`."""
    # Several threads take more time here: the caller reads while its main thread computes.
    table = open_part(path).read(columns=list(BLOCKS), use_threads=False)
    lists = [table[name].combine_chunks() for name in BLOCKS]
    # pyarrow's own `to_numpy` imports pandas, which takes 0.3 s.
    ends, *others = (np.from_dlpack(each.offsets) for each in lists)
    case, bins, cost_us = (
        np.from_dlpack(each.values).astype(kind, copy=False)
        for each, kind in zip(lists, BLOCKS.values(), strict=True)
    )
    if (
        not all(np.array_equal(ends, other) for other in others)
        or not (np.abs(cost_us) < MOST_COST_US).all()
    ):
        raise ValueError("blocks that no run has")
    blocks, bounds = list[Blocks](), ends.tolist()
    for entry in entries:
        own = slice(bounds[entry.row], bounds[entry.row + 1])
        # A negative number is a large one without its sign.
        if case[own].view(np.uint32).max(initial=0) >= len(entry.statuses):
            raise ValueError("blocks of cases that were not planned")
        blocks.append(Blocks(case[own], bins[own], cost_us[own]))
    return blocks


def environments_of(path: Path, entries: Sequence[Entry]) -> list[bytes]:
    """The environments of these entries of a part. Raises one of `torn_errors`."""
    values = open_part(path).read(columns=["environment"])["environment"].to_pylist()
    of_entries = [values[entry.row] for entry in entries]
    for value in of_entries:
        msgspec.json.decode(value, type=dict)
    return of_entries


def cells_of_part(path: Path) -> "pa.Table":
    """The columns of cases of a part. Raises one of `torn_errors`."""
    import pyarrow as pa

    part = open_part(path)
    columns = {
        name: part.schema_arrow.field(f"{CELL}{name}").type.value_type
        for name in CELLS
        if f"{CELL}{name}" in part.schema_arrow.names
    }
    if any(pa.types.is_string(kind) for name, kind in columns.items() if is_number(name)):
        raise ValueError("text in place of numbers")
    return part.read(columns=[f"{CELL}{name}" for name in columns])


def entries_of(
    path: Path, number: int, paths: dict[str, Path], missing: dict[str, Stamp]
) -> dict[str, Entry]:
    """The `missing` runs of a part, the `number`-th that is read, by the names of their files;
    `paths` have these too. Raises one of `torn_errors`."""
    with open_part(path, SHARED) as part:
        table = part.read(columns=list(SMALL))
    columns = {name: table[name].combine_chunks() for name in SMALL}
    ends = np.from_dlpack(columns["round_trips"].offsets)
    round_trips: Integers = (
        np.from_dlpack(columns["round_trips"].values).astype(np.int32, copy=False).reshape(-1, 2)
    )
    bins, counts = round_trips.T
    is_bin = ((bins >= -MOST_BIN) & (bins <= MOST_BIN)) | (bins == UNPROBED) | (bins == MIXED)
    if (ends % 2).any() or not is_bin.all() or not (counts > 0).all():
        raise ValueError("round trips that no run has")
    ends = (ends // 2).tolist()
    shared = {name: columns[name].dictionary.to_pylist() for name in SHARED}
    places = zip(*(columns[name].indices.to_pylist() for name in SHARED), strict=True)
    rows = zip(places, *(columns[name].to_pylist() for name in SMALL[:6]), strict=True)
    heads: dict[tuple[int, ...], tuple[Run, tuple[str, ...], tuple[str, ...]]] = {}
    entries: dict[str, Entry] = {}
    for row, (place, name, size_bytes, mtime_ns, run_id, after, end) in enumerate(rows):
        name = os.fsdecode(name)
        if missing.get(name) != (size_bytes, mtime_ns):
            continue
        if place not in heads:
            heads[place] = _head(
                *(shared[column][at] for column, at in zip(SHARED, place, strict=True))
            )
        head, statuses, across_ranks = heads[place]
        run = msgspec.structs.replace(head, run_id=printable(run_id), after=AFTER.decode(after))
        entries[name] = Entry(
            paths[name],
            run,
            _end(end),
            statuses,
            across_ranks,
            round_trips[ends[row] : ends[row + 1]],
            part=number,
            row=row,
        )
    return entries


def _end(value: bytes) -> End | None:
    end: End | None = END.decode(value)
    if end:
        end.status, end.reason = printable(end.status), end.reason and printable(end.reason)
    return end


@lru_cache(maxsize=4096)
def _head(
    head: bytes, cases: bytes, statuses: bytes, across_ranks: bytes
) -> tuple[Run, tuple[str, ...], tuple[str, ...]]:
    """A run without what it shares with no other; the statuses of its cases, and `across_ranks`."""
    # The index may be from anywhere, as runs may.
    own = printable_in(msgspec.json.decode(head, type=dict))
    planned, of_cases = _decode("cases", cases), _decode("statuses", statuses)
    run = msgspec.convert({**own, "run_id": "", "environment": {}, "cases": planned}, Run)
    run.cases = planned  # the same list in all runs
    if len(planned) != len(of_cases):
        raise ValueError("a status that belongs to no case")
    Result(Path(), run, [], [], [], None, None).check_open_parts()
    return run, of_cases, _decode("across_ranks", across_ranks)


@lru_cache(maxsize=4096)
def _decode(name: str, value: bytes) -> Any:
    """A value that runs have in common, as one object."""
    return msgspec.convert(
        printable_in(msgspec.json.decode(value)),
        list[CaseHeader] if name == "cases" else tuple[str, ...],
    )


def with_shared(entry: Entry) -> Entry:
    """The entry, with what runs have in common as one object."""
    encode = msgspec.json.encode
    entry.run.cases = _decode("cases", encode(entry.run.cases))
    entry.statuses = _decode("statuses", encode(entry.statuses))
    return entry


def discard(path: Path, error: Exception) -> None:
    """Deletes a part that this error proves to be damaged. Errors of the system, such as too many
    open files, have a number; pyarrow's own have none."""
    is_damaged = getattr(error, "errno", None) is None and not isinstance(error, MemoryError)
    if is_damaged:
        with suppress(OSError):
            path.unlink()


def has_pyarrow() -> bool:
    return find_spec("pyarrow") is not None


def torn_errors() -> tuple[type[Exception], ...]:
    """What pyarrow and msgspec raise for a torn or changed file."""
    if not has_pyarrow():
        return (OSError,)
    import pyarrow as pa

    return (
        OSError,
        KeyError,
        IndexError,
        ValueError,
        TypeError,
        AttributeError,
        OverflowError,
        msgspec.MsgspecError,
        pa.ArrowException,
    )


def warn(sentence: str) -> None:
    print(f"reports: {printable(sentence)}", file=sys.stderr)
