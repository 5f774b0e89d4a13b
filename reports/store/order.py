"""The order of runs. A run_id starts with the time, but a wrong clock jumps when it is corrected.

So each run also names the `latest` runs of its folder at its start, and comes after them. With
correct clocks this is the order of the times, even for copied runs.
"""

import re
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from reports.store import foreign
from reports.store.schema import Run

HEAD_BYTES = 16384  # of a run's file: `after` is near the beginning
MOST_NAMES = 64


def time_of(run_id: str) -> datetime | None:
    """The UTC start time in a run_id, if it has one."""
    try:
        return datetime.strptime(run_id[:20], "%Y-%m-%dT%H-%M-%SZ")
    except ValueError:
        return None


def _by_clock(run_id: str) -> tuple[bool, str]:
    """The key that sorts runs by time; runs without a time come first, never last."""
    return time_of(run_id) is not None, run_id


def places(runs: Iterable[Run]) -> dict[str, int]:
    """The index of each run_id in the order of these runs, oldest first: after the runs that it
    names, otherwise by time. Breaks a circle of names, which no clock produces, at one run."""
    after = {run.run_id: run.after for run in runs}
    order, seen = dict[str, int](), set[str]()
    for last in sorted(after, key=_by_clock):
        stack = [] if last in seen else [last]
        while stack:
            run_id = stack[-1]
            seen.add(run_id)
            unseen = [name for name in after[run_id] if name in after and name not in seen]
            if unseen:
                stack.append(unseen[0])
            else:
                order[stack.pop()] = len(order)
    return order


def latest(folder: Path) -> list[str]:
    """The runs in `folder` that no other run names: one, or several that ran at the same time. If
    no run names others, because a former version wrote them, the last by time."""
    naming, silent, names = set[str](), set[str](), set[str]()  # the heads may need 160 MB
    for path in folder.glob("[0-9]*.jsonl"):
        with suppress(OSError), foreign.open_file(path) as file:
            after = re.search(rb'"after":\[(.*?)\]', file.read(HEAD_BYTES))
            (naming if after else silent).add(path.stem)
            quoted = re.findall(rb'"([^"]*)"', after[1]) if after else []
            names.update(name.decode(errors="replace") for name in quoted)
    return sorted(naming - names)[-MOST_NAMES:] if naming else sorted(silent)[-1:]
