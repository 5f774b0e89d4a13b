"""Writes the file of a run while it measures, and whole files at once.

A run's file receives the head, each block before the next is measured, then the cases, with their
samples in a folder beside the file, and the end.
"""

import contextlib
import io
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
from numpy.typing import NDArray

from reports.store.build import Samples, build_cases
from reports.store.result import ENDED_EARLY, ResultError
from reports.store.samples import COLUMNS, MAX_SAMPLES_BYTES
from reports.store.schema import Block, Case, End, LinkBlock, Result, Run

MAX_SAMPLED_ITERATIONS = 20_000


def to_line(record: msgspec.Struct) -> bytes:
    """One line of a file. Raises ValueError for a number that is not finite, which JSON lacks."""
    fields = msgspec.to_builtins(record, enc_hook=np.generic.item)
    return json.dumps(fields, allow_nan=False, separators=(",", ":")).encode() + b"\n"


@contextlib.contextmanager
def _write_errors(path: Path) -> Iterator[None]:
    """Turns an OSError into a ResultError that names the file."""
    try:
        yield
    except OSError as error:
        raise ResultError(f"{path} cannot be written: {error.strerror}") from error


def _is_stream(path: Path) -> bool:
    """Whether `path` is a device or a pipe, such as /dev/stdout, which no file can replace."""
    return path.parent == Path("/dev") or (path.exists() and not path.is_file())


def _target(path: Path) -> Path:
    """The target of a link, otherwise the path as written: behind /proc/PID/root lies another
    folder than its text names."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def write_named(path: Path, content: bytes) -> None:
    """Writes a file that the user named: through links, into a pipe or a device, otherwise as
    `write_whole`. If the user may write the file but not its folder, overwrites it in place, which
    a crash can interrupt. Raises ResultError if the file cannot be written."""
    with _write_errors(path):
        if _is_stream(path):
            path.write_bytes(content)
            return
        try:
            write_whole(_target(path), content)
        except ResultError as error:
            if not (isinstance(error.__cause__, PermissionError) and path.is_file()):
                raise
            path.write_bytes(content)


def check_named(path: Path) -> None:
    """Raises OSError if `write_named` could not write `path`; creates nothing."""
    if _is_stream(path) or path.exists():
        path.open("ab").close()
    else:
        tempfile.TemporaryFile(dir=_target(path).parent).close()


def write_whole(path: Path, content: bytes) -> None:
    """Replaces the file at once. Keeps the mode of a former file of this user. Replaces also a link
    or a pipe, which another user may have put into a shared folder. Raises ResultError if the file
    cannot be written."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    with _write_errors(path):
        try:
            part.unlink(missing_ok=True)
            with part.open("xb") as file:  # never through a link
                with contextlib.suppress(FileNotFoundError):
                    former = path.lstat()
                    if stat.S_ISREG(former.st_mode) and former.st_uid == os.getuid():
                        os.fchmod(file.fileno(), former.st_mode & 0o777)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


@dataclass
class RunFile:
    """The open file of a run. Every line is on disk when `append` returns."""

    path: Path
    run: Run
    file: BinaryIO
    blocks: list[Block] = field(default_factory=list)
    link_blocks: list[LinkBlock] = field(default_factory=list)

    @classmethod
    def create(cls, folder: Path, run: Run) -> "RunFile":
        """Creates `folder` if missing, and `<run_id>.jsonl` in it, which appears with its complete
        head. Raises ResultError if the file exists or cannot be written."""
        path = Path(folder) / f"{run.run_id}.jsonl"
        part = path.with_name(f"{path.name}.part")
        with _write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            created = cls(path, run, part.open("xb"))
            try:
                created._write(run)
                # Another writer of this name holds `.part` until `.jsonl` exists: one is refused.
                if path.exists():
                    raise ResultError(f"{path} cannot be written: File exists")
                part.rename(path)
            finally:
                part.unlink(missing_ok=True)
        _sync_folder(path.parent)
        return created

    def append(self, record: Block | LinkBlock) -> None:
        """Adds the line of a block. Raises ValueError for a number that is not finite, ResultError
        if the disk is full."""
        self._write(record)
        if isinstance(record, Block):
            self.blocks.append(record)
        else:
            self.link_blocks.append(record)

    def finish(self, samples: Samples, end: End, keep_samples: bool = True) -> Result:
        """Builds the cases, writes their samples (if `keep_samples`), their lines and the end, with
        its number of wrong elements. Returns the run as `read` does.

        `samples[case]` has shape (rows, 5): block, rank, time_us, consume_us, arrival_skew_us.
        """
        reason = "time ran out" if end.status == "complete" else ENDED_EARLY
        cases = build_cases(self.run, self.blocks, self.link_blocks, samples, reason)
        if keep_samples:
            self._write_samples(cases, samples)
        counts = [case.n_wrong for case in cases if case.n_wrong is not None]
        end.n_wrong = sum(counts) if counts else None
        for record in (*cases, end):
            self._write(record)
        self.file.close()
        return Result(self.path, self.run, cases, self.blocks, self.link_blocks, end)

    def _write(self, record: msgspec.Struct) -> None:
        line = to_line(record)
        with _write_errors(self.path):
            self.file.write(line)
            self.file.flush()
            os.fsync(self.file.fileno())

    def _write_samples(self, cases: list[Case], samples: Samples) -> None:
        """Writes one array for each case into a new folder. A link that another user has put there
        is an error."""
        iteration_bytes = self.run.world["size"] * COLUMNS * np.dtype(np.float32).itemsize
        limit = MAX_SAMPLES_BYTES // (max(len(cases), 1) * iteration_bytes)
        folder = self.path.with_suffix(".samples")
        for case in cases:
            rows = samples.get(case.case, np.empty((0, COLUMNS)))
            rows = whole_blocks(rows, min(MAX_SAMPLED_ITERATIONS, limit))
            if not len(rows):
                continue
            if not any(other.samples for other in cases):
                with _write_errors(folder):
                    folder.mkdir()
            content = io.BytesIO()
            np.save(content, rows.astype(np.float32))
            case.samples = f"case-{case.case:04d}.npy"
            write_whole(folder / case.samples, content.getvalue())


def _sync_folder(folder: Path) -> None:
    """Makes the names in a folder survive a power cut. Unreadable folders and some network file
    systems refuse this."""
    with contextlib.suppress(OSError):
        listing = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(listing)
        finally:
            os.close(listing)


def whole_blocks(samples: NDArray[Any], limit: int) -> NDArray[Any]:
    """The rows of as many blocks, spread evenly over the run, as fit into `limit` iterations of
    each rank."""
    blocks, n_rows = np.unique(samples[:, 0], return_counts=True)
    ranks = len(np.unique(samples[:, 1]))
    for n_blocks in range(len(blocks), 0, -1):
        chosen = np.linspace(0, len(blocks) - 1, n_blocks).round().astype(int)
        if n_rows[chosen].sum() <= limit * ranks:
            return samples[np.isin(samples[:, 0], blocks[chosen])]
    return samples[:0]
