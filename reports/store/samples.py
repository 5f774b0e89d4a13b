"""The iterations of a case: a float32 array in a file of the run's samples folder.

The name of the array comes from the run's file, which may come from anywhere. So the name must be
plain, the file must be a regular file in the run's own folder, and its header must match its size.
"""

import os
import re
from typing import Any

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
    The array is mapped into memory, so only the rows that are used are read. None if the case has
    no samples. Raises ResultError for an invalid file, SamplesGone for a missing one."""
    name, folder = case.samples, result.path.with_suffix(".samples")
    if name is None:
        return None
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
        shape = (int(head[1]), COLUMNS) if head else (0, COLUMNS)
        if not head or os.fstat(file.fileno()).st_size != HEAD_BYTES + 4 * shape[0] * COLUMNS:
            raise ResultError(f"{place}: {name} is not a complete array of samples")
        return np.memmap(file, np.float32, "r", HEAD_BYTES, shape)
