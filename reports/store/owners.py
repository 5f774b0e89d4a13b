"""Folders that other users may own or write. What this user runs or believes lies where nobody else
can write; what is only written goes into the folder that was opened, whatever takes its name."""

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

REMEDY = "set XDG_CACHE_HOME to a folder of your own"
FOLDER = os.O_PATH | os.O_DIRECTORY
MOST_STEPS = 5000  # a path has at most 2048 folders; links that lead to each other never end


def is_ours(status: os.stat_result) -> bool:
    """Whether a file belongs to this user or to root."""
    # In a user namespace / belongs to nobody, as all that its root cannot own.
    return status.st_uid in (0, os.getuid(), os.stat("/").st_uid)


def private_folder() -> Path:
    """`$XDG_CACHE_HOME/wiretax`, without links, made if it is missing. Raises OSError if another
    user can write to it, or put another folder in its place."""
    folder = Path("~/.cache/wiretax")
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wiretax"
        is_link, folder = folder.is_symlink(), folder.resolve()
        exposed = exposed_parent(folder)  # where it is, nothing is made
        if not exposed:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            exposed = exposed_parent(folder.resolve(strict=True))  # one that others made meanwhile
        if exposed:
            raise PermissionError(
                0, f"other users can replace what is in {exposed}: chmod go-w that folder"
            )
        status = folder.stat()
        if is_link or status.st_uid != os.getuid() or status.st_mode & 0o022:
            raise PermissionError(0, "it belongs to another user, is a link or others can write it")
        folder.chmod(0o700)
    except (OSError, RuntimeError) as error:  # RuntimeError: this user has no home
        reason = getattr(error, "strerror", error)
        raise OSError(0, f"{reason}; {REMEDY}", str(folder)) from error
    return folder


def exposed_parent(path: Path) -> Path | None:
    """The first folder above `path`, which has no links, in which another user can exchange an
    entry; None if there is none. As sshd's StrictModes, but in sticky folders such as /tmp only an
    entry's owner can exchange it, and what lies in a folder that only we can enter is out of
    reach."""
    with suppress(FileNotFoundError):  # this user will make what is missing
        for folder in reversed(path.parents):
            status = folder.stat()
            is_shared = status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX
            if is_shared or not is_ours(status):
                return folder
            if status.st_uid == os.getuid() and not status.st_mode & 0o011:
                break
    return None


def open_folder(path: Path) -> Path:
    """Opens the folder, made if it is missing, until the process ends. Returns a name that leads to
    it whatever takes its place. Follows no link of another user. Raises OSError."""
    at, words = os.open(".", FOLDER), [*reversed(path.parts)]
    try:
        for _ in range(MOST_STEPS):
            if not words:
                return Path(f"/proc/self/fd/{at}")
            above, word = at, words.pop()
            try:
                at = _enter(word, above)
                os.close(above)
            except NotADirectoryError:
                words += reversed(_target_of(word, above).parts)
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    except OSError as error:
        os.close(at)
        raise OSError(error.errno, error.strerror, str(path)) from error


def _enter(word: str, above: int) -> int:
    """The handle of the folder in the open folder `above`, made if it is missing. Raises
    NotADirectoryError for a link, unless it is the kernel's own."""
    is_in_proc = os.fstat(above).st_dev == os.stat("/proc").st_dev
    flags = FOLDER if is_in_proc else FOLDER | os.O_NOFOLLOW
    with suppress(FileNotFoundError):
        return os.open(word, flags, dir_fd=above)
    with suppress(FileExistsError):
        os.mkdir(word, dir_fd=above)
    return os.open(word, flags, dir_fd=above)


def _target_of(word: str, above: int) -> Path:
    """Where a link leads. Raises OSError if it belongs to another user or is none."""
    link = os.open(word, os.O_PATH | os.O_NOFOLLOW, dir_fd=above)
    try:
        status = os.fstat(link)
        if not stat.S_ISLNK(status.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not is_ours(status):
            raise PermissionError(
                errno.EPERM,
                "another user's link is on the way to it: name the folder that it leads to",
            )
        return Path(os.readlink("", dir_fd=link))
    finally:
        os.close(link)


def shown(text: str) -> str:
    """The text with the paths of folders in place of the names of `open_folder`."""
    return re.sub(r"/proc/self/fd/\d+", lambda found: os.path.realpath(found[0]), text)


@contextmanager
def opened(path: Path) -> Iterator[Path]:
    """`open_folder`, until the end of the block."""
    folder = open_folder(path)
    try:
        yield folder
    finally:
        os.close(int(folder.name))
