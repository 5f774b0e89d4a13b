"""Archives of surveys: a folder of runs as one file, which strangers send.

`bench.survey` writes them. A reader takes nothing but regular files, into memory alone, and
believes no size or name in them; docs/results.md has the form of `survey.json`."""

import hashlib
import io
import os
import tarfile
import zlib
from collections.abc import Container, Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

import msgspec

from wiretax.common.untrusted import UNPRINTABLE, printable, printable_in
from wiretax.record.result import NOT_JSON, ResultError, content_of

SCHEMA = 1
CONTENTS = "survey.json"
SUFFIXES = ".tar.gz", ".tgz"
MOST_PACKED_BYTES, MOST_BYTES, MOST_FILES = 25_000_000, 250_000_000, 2_000
MOST_DEPTH, MOST_NAME = 6, 255
MOST_CONTENTS_BYTES = 2_000_000  # a line for each of 2,000 files takes 200 bytes
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
    GPUs, cuda or hip, "" on CPUs; `remarks` are on the machine; `files` have their SHA-256."""

    schema: Annotated[int, msgspec.Meta(ge=1, le=SCHEMA)] = SCHEMA
    made: str
    version: str
    command: str
    status: int
    vendor: str
    ranks: Annotated[int, msgspec.Meta(ge=1)]
    shares_gpus: bool
    steps: list[StepRecord]
    remarks: list[str] = []
    files: dict[str, Sha256]


def is_archive(path: Path) -> bool:
    return path.name.endswith(SUFFIXES)


def digest(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal digits. Raises ResultError."""
    return hashlib.sha256(content_of(path)).hexdigest()


def unpacked(path: Path) -> dict[str, bytes]:
    """The files of an archive, by their names in its one folder. Raises ResultError if the archive
    is damaged or too large, or holds anything else than regular files of one folder.

    Headers of tar are read as they stand: `tarfile` would believe extensions, such as sparse files
    of terabytes, and chains of headers, one call deeper each."""
    tar, files = io.BytesIO(_inflated(path)), dict[str, bytes]()
    while any(block := tar.read(tarfile.BLOCKSIZE)):
        try:
            member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.TarError as error:
            raise ResultError(f"{path} is no archive: {printable(str(error))}") from error
        if reason := _reason_against(member, files):
            raise ResultError(f"{path}: {printable(member.name)[:80]} {reason}")
        data = tar.read(max(member.size, 0))
        if len(data) != member.size:
            raise ResultError(f"{path} is no archive: a file ends early")
        tar.seek(-member.size % tarfile.BLOCKSIZE, os.SEEK_CUR)
        files[member.name] = data
        if len(files) > MOST_FILES:
            raise ResultError(f"{path} has more than the {MOST_FILES:,} files that are read")

    folders = {name.partition("/")[0] for name in files}
    if len(folders) != 1:
        raise ResultError(f"{path} holds {len(folders)} folders: an archive of a survey holds one")
    return {name.partition("/")[2]: data for name, data in files.items()}


def _inflated(path: Path) -> bytes:
    """The tar file, of which no more is inflated than is read."""
    packed = content_of(path, MOST_PACKED_BYTES)
    if not is_archive(path):
        raise ResultError(f"{path} is no archive: its name ends in none of {', '.join(SUFFIXES)}")
    inflater = zlib.decompressobj(wbits=31)  # gzip's header; GzipFile reads a million empty members
    try:
        tar = inflater.decompress(packed, MOST_BYTES + 1)
    except zlib.error as error:
        raise ResultError(f"{path} is no archive: {printable(str(error))}") from error
    if len(tar) > MOST_BYTES:
        raise ResultError(
            f"{path} unpacks to more than the {MOST_BYTES / 1e6:.0f} MB that are read"
        )
    if not inflater.eof:
        raise ResultError(f"{path} is no archive: its end is missing")
    if inflater.unused_data:
        raise ResultError(f"{path} is no archive: something follows its end")
    return tar


def _reason_against(member: tarfile.TarInfo, known: Container[str]) -> str:
    """Why no survey wrote this file beside the `known` ones; empty if it may have."""
    name, place = member.name, PurePosixPath(member.name)
    if member.type != tarfile.REGTYPE:
        return "is no regular file"
    if place.is_absolute() or ".." in place.parts or not 2 <= len(place.parts) <= MOST_DEPTH:
        return "lies outside the archive's folder"
    if len(name) > MOST_NAME or UNPRINTABLE.search(name) or str(place) != name:
        return "has a name that no survey gives"
    if place.suffix not in KINDS:
        return "is of no kind that a survey writes"
    return "is there twice" if name in known else ""


def read_contents(files: Mapping[str, bytes]) -> Contents:
    """`survey.json` of an archive's files, with its texts printable: every file has its hash, no
    other is there, and each step's run is one of them. Raises ResultError."""
    if CONTENTS not in files:
        raise ResultError(f"it has no {CONTENTS}: bench.survey did not write it")
    if len(files[CONTENTS]) > MOST_CONTENTS_BYTES:
        raise ResultError(
            f"{CONTENTS} has more than the {MOST_CONTENTS_BYTES:,} bytes that are read"
        )
    try:
        raw = msgspec.json.decode(files[CONTENTS])
        contents = msgspec.convert(printable_in(raw), Contents)
    except NOT_JSON as error:
        raise ResultError(f"{CONTENTS} is damaged: {printable(str(error))}") from error
    if unlike := sorted((files.keys() - {CONTENTS}) ^ contents.files.keys()):
        raise ResultError(f"{CONTENTS} and the archive do not have the same files: {unlike[0]}")
    for name, sha256 in contents.files.items():
        if hashlib.sha256(files[name]).hexdigest() != sha256:
            raise ResultError(f"{name} was changed: its SHA-256 is not that of {CONTENTS}")
    for step in contents.steps:
        if step.run is not None and step.run not in contents.files:
            raise ResultError(f"{CONTENTS} names a run that is not in the archive: {step.run}")
    return contents
