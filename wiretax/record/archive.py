"""Archives of surveys: a folder of runs as one file, which strangers send.

`bench.survey` writes them. A reader unpacks nothing but regular files, into a folder of its own,
and believes no size or name in them; docs/results.md has the form of `survey.json`."""

import gzip
import hashlib
import io
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Annotated, BinaryIO, Literal

import msgspec

from wiretax.common.untrusted import UNPRINTABLE, printable
from wiretax.record.result import ResultError, content_of

SCHEMA = 1
CONTENTS = "survey.json"
SUFFIXES = ".tar.gz", ".tgz"
MOST_PACKED_BYTES, MOST_BYTES, MOST_FILES = 25_000_000, 250_000_000, 2_000
MOST_DEPTH, MOST_NAME = 6, 255
KINDS = {".jsonl", ".json", ".toml", ".txt", ".html", ".png", ".svg"}

Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class StepRecord(msgspec.Struct, kw_only=True):
    """A launch of a survey; `run` is its file below the archive's folder, or None."""

    name: str
    launch: Annotated[int, msgspec.Meta(ge=1)]
    command: str
    status: Literal["done", "incomplete", "wrong", "failed", "interrupted", "not run"]
    sentence: str
    elapsed_s: float
    run: str | None = None


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
    with tempfile.TemporaryDirectory(prefix="wiretax-") as room, tempfile.TemporaryFile() as tar:
        _inflate(path, packed, tar)
        try:
            with tarfile.TarFile(fileobj=tar) as archive:
                top = _write_members(path, archive, Path(room))
        except tarfile.TarError as error:
            raise ResultError(f"{path} is no archive: {printable(str(error))}") from error
        yield Path(room, top)


def read_contents(folder: Path) -> Contents:
    """`survey.json` of an unpacked archive, of which every file has its hash and no other is there.
    Raises ResultError."""
    path = folder / CONTENTS
    if not path.is_file():
        raise ResultError(f"it has no {CONTENTS}: bench.survey did not write it")
    try:
        contents = msgspec.json.decode(content_of(path), type=Contents)
    except msgspec.DecodeError as error:
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
    return contents


def _inflate(path: Path, packed: bytes, tar: BinaryIO) -> None:
    """Writes the tar file, and stops once it is larger than what is read."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(packed)) as file:
            while piece := file.read(1 << 20):
                tar.write(piece)
                if tar.tell() > MOST_BYTES:
                    most = f"{MOST_BYTES / 1e6:.0f} MB"
                    raise ResultError(f"{path} unpacks to more than the {most} that are read")
    except (OSError, EOFError, zlib.error) as error:
        raise ResultError(f"{path} is no archive: {printable(str(error))}") from error
    tar.seek(0)


def _write_members(path: Path, archive: tarfile.TarFile, room: Path) -> str:
    """Writes the files below `room`, and returns the name of their one folder."""
    tops, seen = set[str](), set[str]()
    for number, member in enumerate(archive):
        name, place = member.name, PurePosixPath(member.name)
        reason = ""
        if number >= MOST_FILES:
            raise ResultError(f"{path} has more than the {MOST_FILES:,} files that are read")
        if len(name) > MOST_NAME or UNPRINTABLE.search(name):
            reason = "has a name that no survey gives"
        elif place.is_absolute() or ".." in place.parts or not 2 <= len(place.parts) <= MOST_DEPTH:
            reason = "lies outside the archive's folder"
        elif not member.isreg():
            reason = "is no regular file"
        elif place.suffix not in KINDS:
            reason = "is of no kind that a survey writes"
        elif name in seen:
            reason = "is there twice"
        if reason:
            raise ResultError(f"{path}: {printable(name)[:80]} {reason}")
        seen.add(name)
        tops.add(place.parts[0])
        source = archive.extractfile(member)
        assert source
        target = room / place
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read())
        except OSError as error:  # a file where another name wants a folder
            raise ResultError(f"{path}: {printable(name)[:80]}: {error.strerror}") from error
    if len(tops) != 1:
        raise ResultError(f"{path} holds {len(tops)} folders: an archive of a survey holds one")
    return tops.pop()
