"""The parts of the `index` of a store: Parquet files with a row for each run."""

import os
import secrets
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from reports.store.columns import Entry, cells_of, entry_of
from reports.store.foreign import printable, printable_in
from reports.store.manifest import INDEX
from reports.store.result import ResultError, read
from reports.store.schema import CaseHeader, End, Run
from reports.store.writing import write_whole

if TYPE_CHECKING:
    import pyarrow as pa

FOLDER, SUFFIX = INDEX, ".v1.parquet"
SHARED = ("head", "cases", "statuses", "across_ranks")  # columns that are equal in many runs
SMALL = ("path", "size_bytes", "mtime_ns", "run_id", "after", "end", "round_trips", *SHARED)
BLOCKS = ("case", "bin", "cost_us")
CELL = "cell_"  # starts the name of a column of cases, as `export` has them
Stamp = tuple[int, int]  # of a file: its size in bytes, its time of change in ns
Refused = list[tuple[Path, ResultError]]


def make_part(folder: Path, stamps: dict[str, Stamp], former: Sequence[Path] | None,
               current: dict[str, Stamp]) -> tuple[Path | None, list[Entry], Refused]:
    """Reads these files and writes them as a part of the index, with the current runs of `former`
    parts. Returns its path; otherwise, without an index or if it cannot be written, the entries."""
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
    try:
        tables = [_table_of(folder, entries, cells, stamps)]
    except torn_errors() as error:  # a number that no column holds
        warn(f"{len(entries)} runs cannot be kept in an index: {error}")
        return None, entries, refused
    for path in former:
        with suppress(*torn_errors()):
            tables.append(_current_rows(path, current))
    path = folder / FOLDER / f"{secrets.token_hex(8)}{SUFFIX}"
    try:
        write_part(path, tables)
    except ResultError as error:
        warn(str(error))
        return None, entries, refused
    return path, [], refused


def _table_of(folder: Path, entries: Sequence[Entry], cells: Sequence[dict[str, list[Any]]],
              stamps: dict[str, Stamp]) -> "pa.Table":
    """A row for each run."""
    import pyarrow as pa

    names = [str(entry.path.relative_to(folder)) for entry in entries]
    encode = msgspec.json.encode
    heads = [{name: getattr(entry.run, name) for name in Run.__struct_fields__
              if name not in ("run_id", "after", "environment", "cases")} for entry in entries]
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
        "round_trips": _list_array([entry.round_trips.ravel() for entry in entries])}
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


def _current_rows(path: Path, current: dict[str, Stamp]) -> "pa.Table":
    import pyarrow.parquet as pq

    table = pq.ParquetFile(path, page_checksum_verification=True).read()
    columns = (table[name].to_pylist() for name in ("path", "size_bytes", "mtime_ns"))
    return table.take([row for row, (name, *stamp) in enumerate(zip(*columns, strict=True))
                       if current.get(os.fsdecode(name)) == tuple(stamp)])


def write_part(path: Path, tables: Sequence["pa.Table"]) -> None:
    """Writes a part of the index at once. Raises ResultError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(pa.concat_tables(tables, promote_options="default"), sink, compression="zstd",
                   write_page_checksum=True)
    write_whole(path, sink.getvalue().to_pybytes())


def lists_of(part: Any, names: Sequence[str]) -> dict[str, Any]:
    """Columns of a part: of lists as the offsets and values of all runs."""
    table = part.read(columns=list(names), use_threads=False)
    columns = {name: table[name].combine_chunks() for name in names}
    return {name: (np.from_dlpack(array.offsets), np.from_dlpack(array.values))
            if hasattr(array, "offsets") else array for name, array in columns.items()}


def entries_of(folder: Path, part: int, columns: dict[str, Any],
               missing: dict[str, Stamp]) -> Iterator[Entry]:
    """The runs of a part whose files are as they were; removes them from `missing`."""
    # pyarrow's own `to_numpy` imports pandas, which takes 0.3 s.
    ends = np.from_dlpack(columns["round_trips"].offsets).tolist()
    round_trips = np.from_dlpack(columns["round_trips"].values).reshape(-1, 2)
    shared = {}
    for name in SHARED:
        values = [_decode(name, value) for value in columns[name].dictionary.to_pylist()]
        shared[name] = [values[place] for place in columns[name].indices.to_pylist()]
    rows = zip(*(columns[name].to_pylist() for name in SMALL[:6]), strict=True)
    for row, (name, size_bytes, mtime_ns, run_id, after, end) in enumerate(rows):
        name = os.fsdecode(name)
        if missing.get(name) != (size_bytes, mtime_ns):
            continue
        run = Run(run_id=printable(run_id), after=msgspec.json.decode(after), environment={},
                  cases=shared["cases"][row], **shared["head"][row])
        yield Entry(folder / name, run, msgspec.json.decode(end, type=End | None),
                    shared["statuses"][row], shared["across_ranks"][row],
                    round_trips[ends[row] // 2 : ends[row + 1] // 2],
                    part=part, row=row)
        del missing[name]


@lru_cache(maxsize=4096)
def _decode(name: str, value: bytes) -> Any:
    """A value that runs have in common, as one object."""
    types = {"head": dict[str, Any], "cases": list[CaseHeader]}
    # The index may be from anywhere, as runs may.
    return msgspec.convert(printable_in(msgspec.json.decode(value)),
                           types.get(name, tuple[str, ...]))


def with_shared(entry: Entry) -> Entry:
    """The entry, with what runs have in common as one object."""
    encode = msgspec.json.encode
    entry.run.cases = _decode("cases", encode(entry.run.cases))
    entry.statuses = _decode("statuses", encode(entry.statuses))
    return entry


def has_pyarrow() -> bool:
    return find_spec("pyarrow") is not None


def torn_errors() -> tuple[type[Exception], ...]:
    """What pyarrow and msgspec raise for a torn or changed file."""
    if not has_pyarrow():
        return (OSError,)
    import pyarrow as pa

    return (OSError, KeyError, IndexError, ValueError, TypeError, AttributeError, OverflowError,
            msgspec.MsgspecError, pa.ArrowException)


def warn(sentence: str) -> None:
    print(f"reports: {printable(sentence)}", file=sys.stderr)
