"""Reads each run once for a command that shows it in several places, as `dashboard` does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path

from reports.store.schema import Result

Read = Callable[[Path | str], Result]
_results: dict[Path, Result] | None = None


@contextmanager
def read_once() -> Iterator[None]:
    """Make functions that are `remembered` read each file once within this context. Processes that
    are forked within the context share the results that were read before."""
    global _results
    _results = {}
    try:
        yield
    finally:
        _results = None


def remembered(read: Read) -> Read:
    """Let `read_once` keep the results of `read`; errors are not kept."""
    @wraps(read)
    def read_or_recall(path: Path | str) -> Result:
        if _results is None:
            return read(path)
        path = Path(path)
        if path not in _results:
            _results[path] = read(path)
        return _results[path]

    return read_or_recall
