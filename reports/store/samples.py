"""The iterations of a case: a float32 array in a file of the run's samples folder.

The name of the array comes from the run's file, which may come from anywhere. So the name must be
plain, the file must be a regular file in the run's own folder, and its header must match its size.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from reports.store import foreign
from reports.store.result import ResultError
from reports.store.schema import Case, Result

MAX_SAMPLES_BYTES = 40_000_000
COLUMNS = 5
HEAD_BYTES = 128
# As np.save writes it. numpy's own reader evaluates the header, and its errors are undocumented.
HEAD = re.compile(rb"\x93NUMPY\x01\x00v\x00\{'descr': '<f4', 'fortran_order': False, "
                  rb"'shape': \((\d{1,9}), 5\), \} *\n")


class SamplesGone(ResultError):
    """The samples were deleted to save space; the figures of the run are in its file."""


def read_samples(result: Result, case: Case) -> NDArray[Any] | None:
    """Shape (rows, 5): block, rank, time_us, consume_us, arrival_skew_us; NaN for missing values.
    None if the case has no samples, or if they are gone. Raises ResultError for an invalid file."""
    if case.samples is None:
        return None
    try:
        with _open_samples(result, case) as (file, n_rows):
            return np.fromfile(file, np.float32).reshape(n_rows, COLUMNS)
    except SamplesGone:
        return None


def check_samples(result: Result, case: Case) -> None:
    """Raises ResultError for an invalid file, SamplesGone for a missing one. Reads only the file's
    header."""
    if case.samples is not None:
        with _open_samples(result, case):
            pass


@contextmanager
def _open_samples(result: Result, case: Case) -> Iterator[tuple[BinaryIO, int]]:
    """The file, positioned at its numbers, and its number of rows."""
    folder, name = result.path.with_suffix(".samples"), case.samples or ""
    place = f"{result.path}, case {case.case}"
    if name in ("", ".", "..") or "/" in name:
        raise ResultError(f"{place}: {name!r} is not the plain name of a file of samples")
    if folder.is_symlink():
        raise ResultError(f"{place}: {folder.name} is a link, which is not followed")
    try:
        file = foreign.open_file(folder / name, follow=False, most_bytes=2 * MAX_SAMPLES_BYTES)
    except OSError as error:
        kind = SamplesGone if isinstance(error, FileNotFoundError) else ResultError
        raise kind(f"{place}: the samples {name} cannot be read: {error.strerror}") from error
    with file:
        head = HEAD.fullmatch(file.read(HEAD_BYTES))
        n_rows = int(head[1]) if head else 0
        if not head or os.fstat(file.fileno()).st_size != HEAD_BYTES + n_rows * COLUMNS * 4:
            raise ResultError(f"{place}: {name} is not a complete array of samples")
        yield file, n_rows
