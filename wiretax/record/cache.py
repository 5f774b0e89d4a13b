"""The cache of a large folder: the observations of its runs in one file of MessagePack."""

import hashlib
import hmac
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from wiretax.common import untrusted
from wiretax.common.owners import private_folder
from wiretax.record.observations import OBSERVED, Entry, plan_of
from wiretax.record.schema import End, Run
from wiretax.record.writing import write_whole

DIGEST_BYTES = 32  # of SHA-256, at the head of the file
# The code that makes a cache, so that no other code reads it.
CODE = b"".join(map(untrusted.read_bytes, sorted(Path(__file__).parent.glob("*.py"))))
Stamp = tuple[int, int]  # of a file: its size in bytes, its time of change in ns
Statuses = tuple[tuple[str, ...], tuple[bool, ...]]  # `statuses` and `right`


class Saved(msgspec.Struct, array_like=True):
    """A run. `head`, `cases` and `results` are places among the texts, which runs share."""

    path: bytes
    stamp: Stamp
    run_id: str
    end: End | None
    head: int
    cases: int
    results: int
    observed: bytes


Content = tuple[list[bytes], list[Saved]]  # the file: different texts in JSON, and the runs


def _file_of(folder: Path) -> Path:
    digest = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
    return private_folder() / f"{digest}.msgpack"


def write(folder: Path, entries: Sequence[Entry], stamps: dict[Path, Stamp]) -> None:
    """Writes the runs of the folder. Raises ResultError, and OSError without a folder of caches
    that only this user can write."""
    places: dict[bytes, int] = {}

    def place_of(value: Any) -> int:
        return places.setdefault(msgspec.json.encode(value), len(places))

    runs = []
    for entry in entries:
        run = entry.run
        head = msgspec.structs.replace(run, run_id="", cases=[])
        runs.append(
            Saved(
                os.fsencode(entry.path.relative_to(folder)),
                stamps[entry.path],
                run.run_id,
                entry.end,
                place_of(head),
                place_of(run.cases),
                place_of((entry.statuses, entry.right)),
                entry.observed.tobytes(),
            )
        )

    content = msgspec.msgpack.encode(([*places], runs))
    write_whole(_file_of(folder), hmac.digest(CODE, content, "sha256") + content)


def read(folder: Path, stamps: dict[Path, Stamp]) -> dict[Path, Entry]:
    """The runs of the folder's cache whose files are as they were; none if it is not as this code
    wrote it. It has at most 200 MB, which are 20,000 runs of 200 cases."""
    entries = dict[Path, Entry]()
    try:
        file = memoryview(untrusted.read_bytes(_file_of(folder), follow=False))
        digest, content = file[:DIGEST_BYTES], file[DIGEST_BYTES:]
        if hmac.digest(CODE, content, "sha256") != digest:
            return {}

        texts, runs = msgspec.msgpack.decode(content, type=Content)
        for saved in runs:
            path = folder / os.fsdecode(saved.path)
            if stamps.get(path) == saved.stamp:
                cases, keys = plan_of(texts[saved.cases])
                head = _decoded(texts[saved.head], Run)
                run = msgspec.structs.replace(head, run_id=saved.run_id, cases=cases)
                statuses, right = _decoded(texts[saved.results], Statuses)
                observed = np.frombuffer(saved.observed, OBSERVED)
                entries[path] = Entry(path, run, keys, saved.end, statuses, right, observed)
    except (OSError, RecursionError):  # there is none yet, or a stranger's run is nested too deeply
        return {}

    return entries


@lru_cache(maxsize=4096)
def _decoded(text: bytes, kind: Any) -> Any:
    return msgspec.json.decode(text, type=kind)
