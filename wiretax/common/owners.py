"""Folders that other users may own or write. What this user runs or believes lies where nobody else
can write; what is only written goes into the folder that was opened, whatever takes its name."""

import grp
import os
import pwd
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

REMEDY = "set XDG_CACHE_HOME to a folder of your own"
THEIRS = "another user's link is on the way to it: name the folder that it leads to"


def is_ours(status: os.stat_result) -> bool:
    """Whether a file belongs to this user or to root."""
    # In a user namespace / belongs to nobody, as all that its root cannot own.
    return status.st_uid in (0, os.getuid(), os.stat("/").st_uid)


def private_folder() -> Path:
    """`$XDG_CACHE_HOME/wiretax`, without links, made if it is missing. Raises OSError if another
    user can write to it, or put another folder in its place."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        folder = Path(cache).expanduser() / "wiretax"
        is_link, folder = folder.is_symlink(), folder.resolve()
        for _ in range(2):  # others may make a folder above it meanwhile
            if exposed := exposed_parent(folder.resolve()):
                raise OSError(
                    0, f"other users can replace what is in {exposed}: chmod go-w that folder"
                )
            make_private(folder)
        status = folder.stat()
        if is_link or status.st_uid != os.getuid() or others_write(folder, status):
            raise OSError(0, "it belongs to another user, is a link or others can write it")
        folder.chmod(0o700)
    except (OSError, RuntimeError) as error:  # RuntimeError: this user has no home
        reason = f"{getattr(error, 'strerror', error)}; {REMEDY}"
        raise OSError(0, reason, f"{cache}/wiretax") from error
    return folder


def make_private(folder: Path) -> None:
    """Makes the folder if it is missing, and those above it: for this user alone. With `parents`,
    mkdir would make those by the umask, and with one of 002 another user could write to them."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except FileNotFoundError:
        make_private(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


def others_write(folder: Path, status: os.stat_result) -> bool:
    """Whether the mode of a folder lets somebody write to it who is neither its owner nor root."""
    if not status.st_mode & 0o022:
        return False
    with suppress(OSError):  # this file system has no such lists
        if "system.posix_acl_access" in os.listxattr(folder):
            return True  # the mode has the rights of all whom the list names as those of the group
    return bool(status.st_mode & 0o002) or not is_own_group(status.st_gid)


def is_own_group(gid: int) -> bool:
    """Whether a group is this user's alone, as Linux distributions make one for each user: the
    primary group, with the user's name or number, of which nobody else is a member."""
    try:
        user, group = pwd.getpwuid(os.getuid()), grp.getgrgid(gid)
    except KeyError:
        return False
    members = {*group.gr_mem, *(each.pw_name for each in pwd.getpwall() if each.pw_gid == gid)}
    is_of_user = group.gr_name == user.pw_name or gid == user.pw_uid
    return gid == user.pw_gid and is_of_user and members <= {user.pw_name}


def exposed_parent(path: Path) -> Path | None:
    """The first folder above `path`, which has no links, in which another user can exchange an
    entry; None if there is none. As sshd's StrictModes, but in sticky folders such as /tmp only an
    entry's owner can exchange it, and what lies in a folder that only we can enter is out of
    reach."""
    with suppress(FileNotFoundError):  # this user will make what is missing
        for folder in reversed(path.parents):
            status = folder.stat()
            is_sticky = status.st_mode & stat.S_ISVTX
            if not (is_ours(status) and (is_sticky or not others_write(folder, status))):
                return folder
            if status.st_uid == os.getuid() and not status.st_mode & 0o011:
                break
    return None


def open_folder(path: Path) -> Path:
    """Opens the folder, made if it is missing, until the process ends. Returns a name that leads to
    it whatever takes its place. Follows no link of another user. Raises OSError."""
    with suppress(FileNotFoundError):
        path.stat()  # raises OSError for links that lead to each other, which would never end
    at, words = os.open(".", os.O_PATH), [".", *reversed(path.parts)]  # a file has no "."
    try:
        while words:
            word = words.pop()
            # What /proc has are the kernel's own links, which only it can follow.
            is_in_proc = os.fstat(at).st_dev == os.stat("/proc").st_dev
            flags = os.O_PATH if is_in_proc else os.O_PATH | os.O_NOFOLLOW
            try:
                inside = os.open(word, flags, dir_fd=at)
            except FileNotFoundError:
                with suppress(FileExistsError):
                    os.mkdir(word, dir_fd=at)
                words.append(word)
                continue
            status = os.fstat(inside)
            if not stat.S_ISLNK(status.st_mode):
                at, inside = inside, at
            elif is_ours(status):
                words += reversed(Path(os.readlink("", dir_fd=inside)).parts)
            else:
                raise OSError(0, THEIRS)
            os.close(inside)
    except OSError as error:
        os.close(at)
        error.filename = str(path)
        raise
    return Path(f"/proc/self/fd/{at}")


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
