"""Files inside the archive of a survey, by paths such as `survey.tar.gz/results/link/RUN.jsonl`:
readers of runs take them as they take files."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path

from wiretax.record.archive import is_archive, read_contents, unpacked
from wiretax.record.result import ResultError


def archive_of(path: Path) -> Path | None:
    """The archive that the path names or leads into; None without one."""
    return next(
        (each for each in (path, *path.parents) if is_archive(each) and each.is_file()), None
    )


def archives_in(folder: Path) -> list[Path]:
    """The archives in a folder, which no report on its runs reads; none of a path that is none."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if is_archive(path))


def is_folder(path: Path) -> bool:
    """Whether files can lie below the path: a folder, an archive, or a folder in one. Raises
    ResultError for a damaged archive."""
    return path.is_dir() or any(file != path for file in files_below(path))


def files_below(path: Path) -> list[Path]:
    """The files of an archive at or below a path, in the order of their names; none where the path
    leads into no archive. Raises ResultError for a damaged one."""
    archive = archive_of(path)
    if not archive:
        return []
    files = (archive / name for name in sorted(_files_of(archive)))
    return [file for file in files if path in (file, *file.parents)]


def files_named(pattern: Path) -> list[Path]:
    """The files of an archive that a path or a glob such as `survey.tar.gz/results/*/*.jsonl`
    names. Raises ResultError."""
    archive = archive_of(pattern)
    if not archive:
        return []
    parts = pattern.parts
    return [
        file
        for file in files_below(archive)
        if len(file.parts) == len(parts) and all(map(fnmatchcase, file.parts, parts))
    ]


def content_in(path: Path) -> bytes | None:
    """The content of a file in an archive; None where the path leads into none. Raises ResultError
    for a damaged one, and without such a file."""
    archive = archive_of(path)
    if not archive:
        return None
    name = path.relative_to(archive).as_posix()
    try:
        return _files_of(archive)[name]
    except KeyError:
        raise ResultError(f"{archive} has no file {name}") from None


def _files_of(archive: Path) -> Mapping[str, bytes]:
    status = archive.stat()
    return _read(archive, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=2)  # a comparison has two sides, and other reports one archive after the other
def _read(archive: Path, *_: int) -> Mapping[str, bytes]:
    """The files by their names below the folder in the archive, which are as `survey.json` says."""
    files = unpacked(archive)
    try:
        read_contents(files)
    except ResultError as error:
        raise ResultError(f"{archive}: {error}") from error
    return files
