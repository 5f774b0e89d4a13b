"""The cache of a large folder: the observations of its runs in one Parquet file, a row for each."""

import hashlib
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import msgspec
import numpy as np

from reports.store.observations import Entry, Observed, plan_of
from reports.store.schema import CaseHeader, End, Run
from reports.store.writing import write_whole

Stamp = tuple[int, int]  # of a file: its size in bytes, its time of change in ns
# Changes with the records, so that a program never reads another version's cache.
FIELDS = [kind.__struct_fields__ for kind in (Run, CaseHeader, End)]
FORM = hashlib.sha256(repr((FIELDS, Observed._fields)).encode()).hexdigest()[:8]


def _file_of(folder: Path) -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    digest = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
    return home / "wiretax" / "stores" / f"{digest}.{FORM}.parquet"


def write(folder: Path, entries: Sequence[Entry], stamps: dict[Path, Stamp]) -> None:
    """Writes the runs of the folder: facts as JSON, observations as lists. Raises ResultError, and
    OSError where the folder of caches cannot be made."""
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
    path = _file_of(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, sink.getvalue().to_pybytes())


def read(folder: Path, stamps: dict[Path, Stamp]) -> dict[Path, Entry]:
    """The runs of the folder's cache whose files are as they were; none if it cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    shared = "head", "cases", "results"  # equal in many runs: one object for each text

    try:
        rows = (
            pq.ParquetFile(_file_of(folder), read_dictionary=list(shared)).read().combine_chunks()
        )
    # There is none yet, the disk was full, this user has no home, or another program wrote it.
    except (OSError, RuntimeError, KeyError, pa.ArrowException):
        return {}

    columns = {name: rows[name].combine_chunks() for name in rows.column_names}
    texts = {name: columns[name].dictionary.to_pylist() for name in shared}
    of_run = {name: columns[name].indices.to_pylist() for name in shared}
    observed = [columns[name].values.to_numpy() for name in Observed._fields]
    ends = columns["case"].offsets.to_pylist()
    paths, saved, own = (columns[name].to_pylist() for name in ("path", "stamp", "own"))
    decode, entries = msgspec.json.decode, dict[Path, Entry]()

    for number, path_text in enumerate(paths):
        run_file = folder / os.fsdecode(path_text)
        if stamps.get(run_file) != decode(saved[number], type=Stamp):
            continue
        head, cases_text, results = (texts[name][of_run[name][number]] for name in shared)
        run_id, after, end, n_blocks = decode(
            own[number], type=tuple[str, list[str], End | None, int]
        )
        cases, keys = plan_of(cases_text)
        run = msgspec.structs.replace(_head(head), run_id=run_id, after=after, cases=cases)
        own_part = slice(ends[number], ends[number + 1])
        entries[run_file] = Entry(
            run_file,
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
