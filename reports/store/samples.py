"""The iterations behind a case: a float32 array beside the run's file, one a case.

The name of the array stands in the run's file, which may come from anywhere. So it has to be a plain name, of an
ordinary file that lies in the run's own folder, and what its head promises has to be what the file's size allows.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from reports.store import foreign
from reports.store.result import MAX_SAMPLES_BYTES, ResultError
from reports.store.schema import Case, Result

COLUMNS = 5
HEAD_BYTES = 128
# As np.save writes it. What numpy reads it with evaluates it, and fails in ways that are nowhere listed.
HEAD = re.compile(rb"\x93NUMPY\x01\x00v\x00\{'descr': '<f4', 'fortran_order': False, 'shape': \((\d{1,9}), 5\), \} *\n")


class SamplesGone(ResultError):
    """They were deleted, to save space: the run's figures stand in its file."""


def read_samples(result: Result, case: Case) -> NDArray[Any] | None:
    """Shape (rows, 5): block, rank, time_us, consume_us, arrival_skew_us; NaN where there is none. None where the case
    has no samples, or they are gone. Raises ResultError for a file that is not what it should be."""
    if case.samples is None:
        return None
    try:
        with _opened(result, case) as (file, shape):
            return np.fromfile(file, np.float32).reshape(shape)
    except SamplesGone:
        return None


def check_samples(result: Result, case: Case) -> None:
    """Raises ResultError likewise, and where the samples are gone; reads the file's head alone."""
    if case.samples is not None:
        with _opened(result, case):
            pass


@contextmanager
def _opened(result: Result, case: Case) -> Iterator[tuple[BinaryIO, tuple[int, int]]]:
    """The file, where its numbers begin, and their shape."""
    folder, name = result.path.with_suffix(".samples"), case.samples or ""
    where = f"{result.path}, case {case.case}"
    if name in ("", ".", "..") or "/" in name:
        raise ResultError(f"{where}: {name!r} is not the plain name of a file of samples")
    if folder.is_symlink():
        raise ResultError(f"{where}: {folder.name} is a link, which is not followed")
    try:
        file = foreign.open_file(folder / name, follow=False, most_bytes=2 * MAX_SAMPLES_BYTES)
    except OSError as error:
        kind = SamplesGone if isinstance(error, FileNotFoundError) else ResultError
        raise kind(f"{where}: the samples {name} cannot be read: {error.strerror}") from error
    with file:
        found = HEAD.fullmatch(file.read(HEAD_BYTES))
        if not found or os.fstat(file.fileno()).st_size != HEAD_BYTES + int(found[1]) * COLUMNS * 4:
            raise ResultError(f"{where}: {name} is not an array of samples, or is not whole")
        yield file, (int(found[1]), COLUMNS)
