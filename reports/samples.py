"""The iterations behind a case: a float32 array beside the run's file, one a case.

The name of the array stands in the run's file, which may come from anywhere. So it has to be a plain name, of an
ordinary file that lies in the run's own folder, and what its head promises has to be what the file's size allows.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reports import foreign
from reports.result import MAX_SAMPLES_BYTES, ResultError
from reports.schema import Case, Result

COLUMNS = 5


def read_samples(result: Result, case: Case) -> NDArray[Any] | None:
    """Shape (rows, 5): block, rank, time_us, consume_us, arrival_skew_us; NaN where there is none. None where the case
    has no samples, or their file is gone. Raises ResultError for a file that is not what it should be."""
    if case.samples is None:
        return None
    folder = result.path.with_suffix(".samples")
    where = f"{result.path}, case {case.case}"
    if case.samples in ("", ".", "..") or "/" in case.samples or "\0" in case.samples:
        raise ResultError(f"{where}: {case.samples!r} is not the plain name of a file of samples")
    if folder.is_symlink():
        raise ResultError(f"{where}: {folder.name} is a link, which is not followed")
    try:
        content = foreign.read_bytes(folder / case.samples, follow=False, most_bytes=2 * MAX_SAMPLES_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ResultError(f"{where}: the samples {case.samples} cannot be read: {error.strerror}") from error
    try:
        file = io.BytesIO(content)
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("another version of the format")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        if dtype != np.float32 or fortran or len(shape) != 2 or shape[1] != COLUMNS:
            raise ValueError(f"{dtype} of shape {shape}")
        if (expected := file.tell() + dtype.itemsize * shape[0] * COLUMNS) != len(content):
            raise ValueError(f"{len(content)} bytes where its head promises {expected}")
    except (ValueError, EOFError) as error:
        raise ResultError(f"{where}: {case.samples} is not an array of samples ({error})") from error
    return np.frombuffer(content, dtype, offset=file.tell()).reshape(shape)
