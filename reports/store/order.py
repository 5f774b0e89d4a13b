"""Which run came first. A run_id begins with the time, but a clock that was wrong is put right, and then jumps back.

So each run also names those that were the `latest` in its folder when it began, whatever their times, and stands behind
them. Where the clocks are right that is the order of the times, wherever runs are copied to.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from reports.store import foreign
from reports.store.schema import Run

HEAD_BYTES = 16384  # of a run: `after` stands near its beginning
MOST_NAMED = 64


def time_of(run_id: str) -> datetime | None:
    """When a run began, UTC, as its name has it; None where it has none."""
    try:
        return datetime.strptime(run_id[:20], "%Y-%m-%dT%H-%M-%SZ")
    except ValueError:
        return None


def _by_clock(run_id: str) -> tuple[bool, str]:
    """Sorts runs. One without a time is before all others: it must not pass for the newest."""
    return time_of(run_id) is not None, run_id


def places(runs: Iterable[Run]) -> dict[str, int]:
    """Where each run stands among these, by run_id, in order, the oldest at 0: behind those that it came after, else by
    time. Of runs that came after each other, as no clock makes them, one is the first."""
    after = {run.run_id: run.after for run in runs}
    found, seen = dict[str, int](), set[str]()
    for last in sorted(after, key=_by_clock):
        due = [last] * (last not in seen)
        while due:
            seen.add(run_id := due[-1])
            former = next((name for name in after[run_id] if name in after and name not in seen), None)
            if former is None:
                found[due.pop()] = len(found)
            else:
                due.append(former)
    return found


def latest(folder: Path) -> list[str]:
    """The runs in `folder` that none of the others came after: one, or those that went on at the same time. Of runs
    that do not say what they came after, the last by time."""
    said, silent, named = set[str](), set[str](), set[str]()  # names only: of 10,000 runs the heads are 160 MB
    for path in folder.glob("[0-9]*.jsonl"):
        with suppress(OSError), foreign.open_file(path) as file:
            found = re.search(rb'"after":\[(.*?)\]', file.read(HEAD_BYTES))
            (said if found else silent).add(path.stem)
            names = re.findall(rb'"([^"]*)"', found[1]) if found else []
            named.update(name.decode(errors="replace") for name in names)
    return sorted(said - named)[-MOST_NAMED:] if said else sorted(silent)[-1:]
