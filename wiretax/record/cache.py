"""The cache of a large folder: the observations of its runs in one file of MessagePack."""

import hashlib
import hmac
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from wiretax.common import untrusted
from wiretax.common.owners import private_folder
from wiretax.record.observations import OBSERVED, Entry, plan_of
from wiretax.record.schema import CaseHeader, End, Run
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
                place_of(entry.plan.cases),
                place_of((entry.statuses, entry.right)),
                entry.observed.tobytes(),
            )
        )

    content = msgspec.msgpack.encode(([*places], runs))
    write_whole(_file_of(folder), hmac.digest(CODE, content, "sha256") + content)


def read(folder: Path, stamps: dict[Path, Stamp]) -> dict[Path, Entry]:
    """The runs of the folder's cache whose files are as they were; none if it is not as this code
    wrote it. It has at most 200 MB, which are 16,000 runs of 200 cases."""
    entries = dict[Path, Entry]()
    try:
        file = memoryview(untrusted.read_bytes(_file_of(folder), follow=False))
        digest, content = file[:DIGEST_BYTES], file[DIGEST_BYTES:]
        if hmac.digest(CODE, content, "sha256") != digest:
            return {}

        texts, runs = msgspec.msgpack.decode(content, type=Content)
        fresh = {
            path: saved
            for saved in runs
            if stamps.get(path := folder / os.fsdecode(saved.path)) == saved.stamp
        }
        heads = _decoded(texts, {saved.head for saved in fresh.values()}, Run)
        results = _decoded(texts, {saved.results for saved in fresh.values()}, Statuses)
        cases = _decoded(texts, {saved.cases for saved in fresh.values()}, list[CaseHeader])
        plans = {place: plan_of(planned) for place, planned in cases.items()}
        for path, saved in fresh.items():
            plan = plans[saved.cases]
            head = heads[saved.head]
            run = msgspec.structs.replace(head, run_id=saved.run_id, cases=plan.cases)
            statuses, right = results[saved.results]
            observed = np.frombuffer(saved.observed, OBSERVED)
            entries[path] = Entry(path, run, plan, saved.end, statuses, right, observed)
    except (OSError, RecursionError):  # there is none yet, or a stranger's run is nested too deeply
        return {}

    return entries


def _decoded(texts: Sequence[bytes], places: Iterable[int], kind: Any) -> dict[int, Any]:
    """The values of the texts at these places, each of which many runs share."""
    return {place: msgspec.json.decode(texts[place], type=kind) for place in places}
