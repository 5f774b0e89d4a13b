"""Archives of surveys: a folder of runs as one file, which strangers send.

`bench.survey` writes them. A reader unpacks nothing but regular files, into a folder of its own,
and believes no size or name in them; docs/results.md has the form of `survey.json`."""

import hashlib
import os
import shutil
import signal
import tarfile
import tempfile
import threading
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import Annotated, BinaryIO, Literal

import msgspec

from wiretax.common.untrusted import UNPRINTABLE, printable, printable_in
from wiretax.record.result import NOT_JSON, ResultError, content_of

SCHEMA = 1
CONTENTS = "survey.json"
SUFFIXES = ".tar.gz", ".tgz"
MOST_PACKED_BYTES, MOST_BYTES, MOST_FILES = 25_000_000, 250_000_000, 2_000
MOST_DEPTH, MOST_NAME = 6, 255
MOST_CONTENTS_BYTES = 2_000_000  # a line for each of 2,000 files takes 200 bytes
PIECE_BYTES = 1 << 14  # deflate makes at most 1,032 bytes of each: 17 MB at once
ENDINGS = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
KINDS = {".jsonl", ".json", ".toml", ".txt", ".html", ".png", ".svg"}

Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class StepRecord(msgspec.Struct, kw_only=True):
    """A launch of a survey; `run` is its file below the archive's folder, or None."""

    name: str
    launch: Annotated[int, msgspec.Meta(ge=1)]
    command: str
    status: Literal["done", "incomplete", "wrong", "failed", "interrupted", "not run"]
    sentence: str
    elapsed_s: Annotated[float, msgspec.Meta(ge=0, lt=1e9)]
    run: Annotated[str, msgspec.Meta(pattern=r"\.jsonl$")] | None = None


class Contents(msgspec.Struct, kw_only=True):
    """`survey.json`. `made` is the time in UTC, ISO 8601; `status` the exit status; `vendor` of the
    GPUs, cuda or hip, "" on CPUs; `files` have their SHA-256."""

    schema: Annotated[int, msgspec.Meta(ge=1, le=SCHEMA)] = SCHEMA
    made: str
    version: str
    command: str
    status: int
    vendor: str
    ranks: Annotated[int, msgspec.Meta(ge=1)]
    shares_gpus: bool
    steps: list[StepRecord]
    files: dict[str, Sha256]


def is_archive(path: Path) -> bool:
    return path.name.endswith(SUFFIXES)


def digest(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal digits. Raises ResultError."""
    return hashlib.sha256(content_of(path)).hexdigest()


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """The folder in an archive, as long as the block runs. Raises ResultError if the archive is
    damaged or too large, or holds anything else than regular files of one folder."""
    packed = content_of(path, MOST_PACKED_BYTES)
    with ExitStack() as temporary:
        try:
            room = temporary.enter_context(tempfile.TemporaryDirectory(prefix="wiretax-"))
            temporary.enter_context(_removed_by_signals(room))
            with tempfile.TemporaryFile() as tar:
                _inflate(path, packed, tar)
                top = _write_members(path, tar, Path(room))
        except OSError as error:  # a full disk, or none that can be written to
            raise ResultError(f"{path} cannot be unpacked: {error.strerror}") from error
        yield Path(room, top)


@contextmanager
def _removed_by_signals(room: str) -> Iterator[None]:
    """Removes the folder before one of ENDINGS ends the process, as it ends reports at once."""

    def end(number: int, _: object) -> None:
        shutil.rmtree(room, ignore_errors=True)
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    is_main = threading.current_thread() is threading.main_thread()
    taken = [each for each in ENDINGS if is_main and signal.getsignal(each) == signal.SIG_DFL]
    for number in taken:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def read_contents(folder: Path) -> Contents:
    """`survey.json` of an unpacked archive, with its texts printable: every file has its hash, no
    other is there, and each step's run is one of them. Raises ResultError."""
    if not (folder / CONTENTS).is_file():
        raise ResultError(f"it has no {CONTENTS}: bench.survey did not write it")
    try:
        raw = msgspec.json.decode(content_of(folder / CONTENTS, MOST_CONTENTS_BYTES))
        contents = msgspec.convert(printable_in(raw), Contents)
    except NOT_JSON as error:
        raise ResultError(f"{CONTENTS} is damaged: {printable(str(error))}") from error
    found = {
        file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()
    }
    found.pop(CONTENTS)
    if unlike := sorted(found.keys() ^ contents.files.keys()):
        raise ResultError(f"{CONTENTS} and the archive do not have the same files: {unlike[0]}")
    for name, file in found.items():
        if digest(file) != contents.files[name]:
            raise ResultError(f"{name} was changed: its SHA-256 is not that of {CONTENTS}")
    for step in contents.steps:
        if step.run is not None and step.run not in found:
            raise ResultError(f"{CONTENTS} names a run that is not in the archive: {step.run}")
    return contents


def _inflate(path: Path, packed: bytes, tar: BinaryIO) -> None:
    """Writes the tar file, and stops once it is larger than what is read."""
    inflater = zlib.decompressobj(wbits=31)  # gzip's header; GzipFile reads a million empty members
    try:
        for start in range(0, len(packed), PIECE_BYTES):
            tar.write(inflater.decompress(packed[start : start + PIECE_BYTES]))
            if tar.tell() > MOST_BYTES:
                most = f"{MOST_BYTES / 1e6:.0f} MB"
                raise ResultError(f"{path} unpacks to more than the {most} that are read")
            if inflater.unused_data:
                raise ResultError(f"{path} is no archive: something follows its end")
    except zlib.error as error:
        raise ResultError(f"{path} is no archive: {printable(str(error))}") from error
    if not inflater.eof:
        raise ResultError(f"{path} is no archive: its end is missing")
    tar.seek(0)


def _members(path: Path, tar: BinaryIO) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """The headers of a tar file as they stand, and what follows each. `tarfile` would believe
    extensions: sparse files of terabytes, and chains of headers, one call deeper each."""
    number = 0
    while any(block := tar.read(tarfile.BLOCKSIZE)):
        try:
            member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.TarError as error:
            raise ResultError(f"{path} is no archive: {printable(str(error))}") from error
        data = tar.read(member.size) if 0 <= member.size <= MOST_BYTES else b""
        if len(data) != member.size:
            raise ResultError(f"{path} is no archive: a file ends early")
        tar.seek(-member.size % tarfile.BLOCKSIZE, os.SEEK_CUR)
        if member.type != tarfile.XHDTYPE:  # an exact time, which pax stores: nothing is taken
            yield member, data
        if (number := number + 1) > 2 * MOST_FILES:
            raise ResultError(f"{path} has more than the {MOST_FILES:,} files that are read")


def _write_members(path: Path, tar: BinaryIO, room: Path) -> str:
    """Writes the files below `room`, and returns the name of their one folder."""
    tops, seen = set[str](), set[str]()
    for member, data in _members(path, tar):
        name, place = member.name, PurePosixPath(member.name)
        reason = ""
        if len(seen) == MOST_FILES:
            raise ResultError(f"{path} has more than the {MOST_FILES:,} files that are read")
        if member.type != tarfile.REGTYPE:
            reason = "is no regular file"
        elif place.is_absolute() or ".." in place.parts or not 2 <= len(place.parts) <= MOST_DEPTH:
            reason = "lies outside the archive's folder"
        elif len(name) > MOST_NAME or UNPRINTABLE.search(name) or str(place) != name:
            reason = "has a name that no survey gives"
        elif place.suffix not in KINDS:
            reason = "is of no kind that a survey writes"
        elif name.casefold() in seen:  # one file on a disk that does not tell them apart
            reason = "is there twice"
        if reason:
            raise ResultError(f"{path}: {printable(name)[:80]} {reason}")
        seen.add(name.casefold())
        tops.add(place.parts[0])
        target = room / place
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        except OSError as error:  # a file where another name wants a folder
            raise ResultError(f"{path}: {printable(name)[:80]}: {error.strerror}") from error
    if len(tops) != 1:
        raise ResultError(f"{path} holds {len(tops)} folders: an archive of a survey holds one")
    return tops.pop()
