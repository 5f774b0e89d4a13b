"""Writes the file of a run while it measures, with samples beside it, and whole files at once."""

import contextlib
import fcntl
import io
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np

from wiretax.common.owners import is_ours, opened, shown
from wiretax.record.blocks import count_blocks, describe_link
from wiretax.record.result import ENDED_EARLY, ResultError
from wiretax.record.schema import Block, End, LinkBlock, Result, Run, Winner
from wiretax.record.summarise import TIME_RAN_OUT, build_cases
from wiretax.record.traced import TracedSteps


def sync_names(folder: Path) -> None:
    """The names in the folder survive a power cut; unreadable folders and some file systems refuse
    this."""
    with contextlib.suppress(OSError):
        listing = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(listing)
        finally:
            os.close(listing)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps another process out that does the same in this folder, such as another rank of the
    launch. Some file systems have no locks. Raises OSError without the folder."""
    inside = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(inside, fcntl.LOCK_EX)
        yield
    finally:
        os.close(inside)


def to_line(record: msgspec.Struct) -> bytes:
    """One line of a file. Raises ValueError for a number that is not finite, which JSON lacks."""
    fields = msgspec.to_builtins(record, enc_hook=np.generic.item)
    return json.dumps(fields, allow_nan=False, separators=(",", ":")).encode() + b"\n"


@contextlib.contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Raises ResultError that names `path` instead of OSError."""
    try:
        yield
    except OSError as error:
        is_file = os.path.isfile(path.parent)  # a Path raises for a name that is too long
        reason = f"{path.parent} is a file, not a folder" if is_file else error.strerror
        raise ResultError(f"{shown(str(path))} cannot be written: {reason}") from error


def _target(path: Path) -> Path | None:
    """The file to replace: a link's target, otherwise `path`, whose text names another folder
    behind /proc/PID/root, also if that is a link or a pipe of another user. None for a device, a
    pipe or a folder without write permission."""
    with contextlib.suppress(OSError):
        status = path.lstat()
        if not (is_ours(status) or stat.S_ISREG(status.st_mode)):
            return path
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    is_special = path.parent == Path("/dev") or (path.exists() and not path.is_file())
    return None if is_special or not os.access(target.parent, os.W_OK) else target


def write_named(path: Path, content: bytes) -> None:
    """Writes a file that the user named: through links, as `write_whole`, or in place if it cannot
    be replaced. Raises ResultError."""
    with write_errors(path):
        if target := _target(path):
            write_whole(target, content)
        else:
            path.write_bytes(content)


def check_named(path: Path) -> None:
    """Raises OSError if `write_named` could not write `path`; creates nothing."""
    if target := _target(path):
        tempfile.TemporaryFile(dir=target.parent).close()
    else:
        path.open("ab").close()


def write_whole(path: Path, content: bytes) -> None:
    """Replaces the file at once, with the mode of a former file of this user; also a link or a
    pipe, which another user may have put into a shared folder. Makes the folder if it is missing.
    Raises ResultError."""
    with write_errors(path), opened(path.parent) as folder:
        path, part = folder / path.name, folder / f"{path.name}.{os.getpid()}.part"
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


class RunFile(msgspec.Struct):
    """The open file of a run. Every line is on disk when `append` returns."""

    path: Path
    run: Run
    file: BinaryIO
    blocks: list[Block] = []
    link_blocks: list[LinkBlock] = []

    @classmethod
    def create(cls, folder: Path, run: Run) -> "RunFile":
        """Creates `folder` if missing, and `<run_id>.jsonl` in it, which appears with its complete
        head. Raises ResultError if the file exists or cannot be written."""
        path = folder / f"{run.run_id}.jsonl"

        with write_errors(path), opened(path.parent) as inside:
            part = inside / f"{path.name}.part"
            created = cls(path, run, part.open("xb"))
            try:
                created.append(run)
                # Another writer of this name holds `.part` until `.jsonl` exists: one is refused.
                if (inside / path.name).exists():
                    raise ResultError(f"{path} cannot be written: File exists")
                part.rename(inside / path.name)
            finally:
                part.unlink(missing_ok=True)

            sync_names(inside)

        return created

    def append(self, record: msgspec.Struct) -> None:
        """Adds a line. Raises ValueError for a number that is not finite, otherwise ResultError."""
        line = to_line(record)
        with write_errors(self.path):
            self.file.write(line)
            self.file.flush()
            os.fsync(self.file.fileno())

        if isinstance(record, Block):
            self.blocks.append(record)
        elif isinstance(record, LinkBlock):
            self.link_blocks.append(record)

    def finish(
        self,
        samples: Mapping[str, Any],
        end: End,
        find_winners: Callable[[Result], Sequence[Winner]] = lambda result: (),
        traced: Sequence[TracedSteps] = (),
    ) -> Result:
        """Builds the cases; writes `samples`, arrays by case as docs/results.md describes them, if
        there are any, into `<run_id>.npz`, and `traced`, cases, winners and end. Returns the run as
        `read` does. Raises ResultError."""
        reason = TIME_RAN_OUT if end.status == "complete" else ENDED_EARLY
        counted = count_blocks(self.run, self.blocks)
        cases = build_cases(self.run, counted, self.blocks, self.link_blocks, reason)

        if samples:
            content = io.BytesIO()
            np.savez(content, **samples)
            write_whole(self.path.with_suffix(".npz"), content.getvalue())

        counts = [case.n_wrong for case in cases if case.n_wrong is not None]
        end.n_wrong = sum(counts) if counts else None
        describe_link(end, counted)

        result = Result(self.path, self.run, cases, counted, self.blocks, self.link_blocks, end)
        result.winners, result.traced = [*find_winners(result)], [*traced]
        for record in (*result.traced, *cases, *result.winners, end):
            self.append(record)

        self.file.close()
        return result
