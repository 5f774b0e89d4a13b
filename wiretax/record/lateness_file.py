"""How late each rank comes at the calls of an engine, as text: the header `rank0_us,rank1_us,...`
and a line for each call, in order. `breakdown` writes it from traces, `bench.decode` repeats it."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wiretax.common.untrusted import printable
from wiretax.record.result import ResultError, content_of
from wiretax.record.writing import write_named

Lateness = NDArray[np.float64]  # us, (calls, ranks)
MOST_LATE_US = 100_000  # here and of --arrival-skew
MOST_BYTES = 50_000_000
MOST_SHOWN = 40  # letters of a line


def header(ranks: int) -> str:
    return ",".join(f"rank{rank}_us" for rank in range(ranks))


def read_lateness(path: Path) -> Lateness:
    """Raises ResultError for a file that is no such text."""
    first, *lines = content_of(path, MOST_BYTES).decode(errors="replace").splitlines() or [""]
    ranks = first.count(",") + 1
    if first.replace(" ", "") != header(ranks):
        raise ResultError(f"{path}, line 1: the header is not rank0_us,rank1_us,...")
    if not lines:
        raise ResultError(f"{path} has no call below its header")
    return np.array([row(path, number, line, ranks) for number, line in enumerate(lines, 2)])


def row(path: Path, number: int, line: str, ranks: int) -> list[float]:
    """The us of one line."""
    try:
        late_us = [*map(float, line.split(","))]
    except ValueError:
        late_us = []
    if len(late_us) != ranks or not all(0 <= us <= MOST_LATE_US for us in late_us):  # nor NaN
        wanted = f"{ranks} figures of 0 to {MOST_LATE_US} us"
        raise ResultError(
            f"{path}, line {number}: {printable(line[:MOST_SHOWN])!r} is not {wanted}"
        )
    return late_us


def write_lateness(path: Path, late_us: Lateness) -> int:
    """Writes at most MOST_LATE_US, and returns at how many calls a rank was later. Raises
    ResultError if the file cannot be written."""
    rows = [",".join(f"{us:.3f}" for us in call) for call in late_us.clip(max=MOST_LATE_US)]
    write_named(path, "\n".join([header(late_us.shape[1]), *rows, ""]).encode())
    return int((late_us > MOST_LATE_US).any(axis=1).sum())
