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

import numpy as np

from bench.harness import session as command
from bench.harness.options import RunOptions
from reports.store.build import Samples
from reports.store.result import ResultError, latest
from reports.store.schema import Block, End, Run
from reports.store.writing import RunFile
from tests.reports.synthetic_run import plan

NAMES = 128
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
    run_id = f"2026-11-20T06-15-00Z-allreduce-{token():0>6}"
    if claimed:
        run_id = command.reserve_run(RunOptions("allreduce", out=str(folder)))
    cases = plan([16384], ["library", "auto"], ["isolated"], [False], (), "float32", 2)
    try:
        file = RunFile.create(
            folder,
            Run(
                run_id=run_id,
                after=latest(folder),
                benchmark="allreduce",
                version="0",
                argv=[],
                seed=seed,
                machine_id="a1b2c3",
                software_id="d4e5f6",
                environment={},
                world={"size": 2},
                cases=cases,
            ),
        )
    except ResultError:
        os._exit(1)
    for turn in range(BLOCKS):
        for case in range(CASES):
            file.append(
                Block(
                    case=case,
                    block=turn,
                    round=turn,
                    n=5,
                    time_us=1.0 + seed,
                    link_rtt_ns=(100.0, 100.0),
                )
            )
    samples: Samples = {case: np.ones((10, 5)) for case in range(CASES)}
    file.finish(samples, End(status="complete", elapsed_s=1.0, measuring_s=1.0))
    if claimed:
        (folder / f"{run_id}.flight").rmdir()


def token(_: int = 3) -> str:
    return f"{random.randrange(NAMES):06x}"


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
        "bench.harness.session", datetime=Stopped, secrets=SimpleNamespace(token_hex=token)
    ):
        for writer in writers:
            writer.start()
    for writer in writers:
        writer.join()
    return sum(writer.exitcode != 0 for writer in writers)


if __name__ == "__main__":
    print(main(Path(sys.argv[1]), int(sys.argv[2]), "unclaimed" not in sys.argv))
