"""Lets many processes write runs into one folder at once.

`python -m tests.ranks.store_writers FOLDER PROCESSES [unclaimed]`

Their clock stands still and they draw names from a small set, so that many processes draw the same
name. With `unclaimed`, no process reserves its name before it writes. Prints the number of lost
runs.
"""

import multiprocessing
import os
import random
import sys
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import msgspec

from bench.harness import session as command
from bench.harness.options import RunOptions
from tests.reports.synthetic_run import write_run
from wiretax.record.result import ResultError

NAMES = 48
BLOCKS = 10
CASES = 2


class Stopped(datetime):
    """A clock that stands still."""

    @classmethod
    def now(cls, tz: Any = None) -> "Stopped":
        return cls(2026, 11, 20, 6, 15, tzinfo=tz)


def write(folder: Path, seed: int, together: Any, claimed: bool) -> None:
    """Write one run as a command does."""
    random.seed(seed)
    together.wait()
    run_id = f"2026-11-20T06-15-00Z-allreduce-{number(NAMES):06x}"
    if claimed:
        run_id = command.reserve_run(RunOptions("allreduce", out=str(folder)))
    try:
        write_run(
            folder,
            run_id=run_id,
            seed=seed,
            sizes=[16384],
            algorithms=["library", "auto"],
            modes=["isolated"],
            n_blocks=BLOCKS,
            keeps_samples=True,
            change=lambda block: msgspec.structs.replace(block, time_us=1.0 + seed),
        )
    except ResultError:
        os._exit(1)
    if claimed:
        (folder / f"{run_id}.flight").rmdir()


def number(_: int) -> int:
    return random.randrange(NAMES)


def main(folder: Path, processes: int, claimed: bool) -> int:
    """The number of processes that could not write their run."""
    folder.mkdir(parents=True, exist_ok=True)
    forked = multiprocessing.get_context("fork")
    together = forked.Barrier(processes)
    writers = [
        forked.Process(target=write, args=(folder, seed, together, claimed))
        for seed in range(processes)
    ]
    with mock.patch.multiple(
        "bench.harness.session", datetime=Stopped, secrets=SimpleNamespace(randbelow=number)
    ):
        for writer in writers:
            writer.start()
    for writer in writers:
        writer.join()
    return sum(writer.exitcode != 0 for writer in writers)


if __name__ == "__main__":
    print(main(Path(sys.argv[1]), int(sys.argv[2]), "unclaimed" not in sys.argv))
