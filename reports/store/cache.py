"""The cache of a large folder: the observations of its runs in one file of MessagePack."""

import hashlib
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from reports.store import untrusted
from reports.store.observations import OBSERVED, Entry, plan_of
from reports.store.schema import CaseHeader, End, Run
from reports.store.writing import write_whole

DIGEST_BYTES = 32  # of SHA-256, at the head of the file
Stamp = tuple[int, int]  # of a file: its size in bytes, its time of change in ns
Statuses = tuple[tuple[str, ...], tuple[str, ...]]  # of the cases, and `across_ranks`


class Saved(msgspec.Struct, array_like=True):
    """A run. `head`, `cases` and `results` are places in `Content.texts`, since runs share them."""

    path: bytes
    stamp: Stamp
    run_id: str
    end: End | None
    n_blocks: int
    head: int
    cases: int
    results: int
    observed: bytes


class Content(msgspec.Struct, array_like=True):
    """The file: different texts in JSON, and the runs."""

    texts: list[bytes]
    runs: list[Saved]


# Changes with the records and with what makes a case wrong, so that a program never reads another
# version's cache.
RULES = 2
FIELDS = [kind.__struct_fields__ for kind in (Run, CaseHeader, End, Saved)]
FORM = hashlib.sha256(repr((FIELDS, OBSERVED, RULES)).encode()).hexdigest()[:8]


def _file_of(folder: Path) -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    digest = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
    return home / "wiretax" / "stores" / f"{digest}.{FORM}.msgpack"


def write(folder: Path, entries: Sequence[Entry], stamps: dict[Path, Stamp]) -> None:
    """Writes the runs of the folder. Raises ResultError, and OSError where the folder of caches
    cannot be made."""
    places: dict[bytes, int] = {}

    def place_of(value: Any) -> int:
        return places.setdefault(msgspec.json.encode(value), len(places))

    runs = []
    for entry in entries:
        run = entry.run
        head = msgspec.structs.replace(run, run_id="", cases=run.cases[:1])
        runs.append(
            Saved(
                os.fsencode(entry.path.relative_to(folder)),
                stamps[entry.path],
                run.run_id,
                entry.end,
                entry.n_blocks,
                place_of(head),
                place_of(run.cases),
                place_of((entry.statuses, entry.across_ranks)),
                entry.observed.tobytes(),
            )
        )

    path = _file_of(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = msgspec.msgpack.encode(Content([*places], runs))
    write_whole(path, hashlib.sha256(content).digest() + content)


def read(folder: Path, stamps: dict[Path, Stamp]) -> dict[Path, Entry]:
    """The runs of the folder's cache whose files are as they were; none if it is not as it was
    written. It has at most 200 MB, which are 20,000 runs of 200 cases."""
    try:
        file = memoryview(untrusted.read_bytes(_file_of(folder)))
    except (OSError, RuntimeError):  # there is none yet, or this user has no home
        return {}

    if hashlib.sha256(file[DIGEST_BYTES:]).digest() != file[:DIGEST_BYTES]:
        return {}
    content = msgspec.msgpack.decode(file[DIGEST_BYTES:], type=Content)

    entries = dict[Path, Entry]()
    for saved in content.runs:
        path = folder / os.fsdecode(saved.path)
        if stamps.get(path) != saved.stamp:
            continue
        cases, keys = plan_of(content.texts[saved.cases])
        run = msgspec.structs.replace(
            _decoded(content.texts[saved.head], Run),
            run_id=saved.run_id,
            cases=cases,
        )
        statuses, across_ranks = _decoded(content.texts[saved.results], Statuses)
        observed = np.frombuffer(saved.observed, OBSERVED)
        entries[path] = Entry(
            path, run, keys, saved.end, statuses, across_ranks, saved.n_blocks, observed
        )

    return entries


@lru_cache(maxsize=4096)
def _decoded(text: bytes, kind: Any) -> Any:
    return msgspec.json.decode(text, type=kind)
