"""Run by mpirun: `progress_ranks.py FOLDER OPTION ...` is `bench.allreduce` that writes a line of
progress after every block, and counts lines inside and outside of timed work.

Rank 0 writes `{"inside": n, "outside": n}` to FOLDER/counts.json.
"""

import json
import sys
from collections import Counter
from pathlib import Path

from bench.features import FEATURES
from bench.harness import progress, timing
from bench.harness.command import main
from bench.harness.session import Session
from collectives.communicator import launched_rank

write, perform = progress.Progress.write, timing.perform
place, counts = ["outside"], Counter[str]()


def counted(shown: progress.Progress, text: str) -> None:
    counts[place[-1]] += 1
    write(shown, text)


def inside(function):
    def wrapper(*arguments):
        place.append("inside")
        try:
            return function(*arguments)
        finally:
            place.pop()

    return wrapper


progress.LINE_S = 0.0
progress.Progress.write = counted  # type: ignore[assignment, method-assign]
timing.perform = inside(perform)
Session.round_trip_ns = inside(Session.round_trip_ns)  # type: ignore[method-assign]
folder, sys.argv[1:] = sys.argv[1], sys.argv[2:]
try:
    main("allreduce", "all_reduce", "", FEATURES)
finally:
    if launched_rank() == 0:
        (Path(folder) / "counts.json").write_text(json.dumps(counts))
