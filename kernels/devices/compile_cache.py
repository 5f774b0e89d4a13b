"""Finds a kernel's source, compiles it once for all ranks, and keeps what was compiled.

The cache's key covers the source, every header that it includes, the flags, and the compiler's version, so that a stale
binary is never loaded. Ranks that start together on an empty cache are safe: whoever holds the folder's lock compiles,
into a file of another name, which is renamed when it is whole; the others wait and find it.

What was compiled has the digest of its content in its name. What lies in the cache and is not an ordinary file of ours,
which others cannot write, of that content, is compiled anew and not loaded. Between that look and the loading nobody
else comes in: the folder is its owner's alone.
"""

import contextlib
import fcntl
import grp
import hashlib
import os
import pwd
import re
import stat
from collections.abc import Callable
from pathlib import Path

from kernels.devices.device import DeviceError

SOURCES = Path(__file__).parents[1]  # kernels/
ANOTHER = "set XDG_CACHE_HOME to a folder of your own"
UNFOLLOWED = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class CompileError(DeviceError):
    """A kernel does not compile, no compiler was found, or the cache cannot be used; the message is one sentence."""


def source_with_headers(source: Path) -> list[Path]:
    """`source` and every header that it includes, directly or not, in the order in which they are first met."""
    found = [source]
    for path in found:  # grows while it is walked
        for name in re.findall(r'^\s*#include "([^"]+)"', path.read_text(), re.MULTILINE):
            header = path.parent / name
            if header not in found:
                found.append(header)
    return found


def is_private(group: int) -> bool:
    """Whether nobody but this user is in the group: his own, of his name, as Debian and Fedora give each user one.
    With it goes a umask of 002, so that his folders can be written by it."""
    try:
        name, entry = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(group)
    except KeyError:
        return False
    return entry.gr_name == name and {*entry.gr_mem} <= {name}


def can_be_replaced(folder: Path) -> bool:
    """Whether somebody else than root can put something of his in the place of what lies in this folder."""
    about = folder.stat()
    # In a user namespace, as a container's, the machine's root has the number of all who have none.
    roots = {0, os.stat("/proc/sys").st_uid}
    if about.st_uid not in {*roots, os.getuid()}:
        return True
    if about.st_mode & stat.S_ISVTX:
        return False
    by_group = about.st_mode & stat.S_IWGRP and about.st_uid not in roots and not is_private(about.st_gid)
    return bool(by_group or about.st_mode & stat.S_IWOTH)


def cache_folder() -> Path:
    """The owner's compile cache (`$XDG_CACHE_HOME/wiretax`), closed to others, by a way that nobody else can turn.

    Raises CompileError where it cannot be made or belongs to someone else: a library in it is loaded and run.
    """
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wiretax"
    except RuntimeError as error:  # neither HOME nor an entry for this user
        raise CompileError(f"there is no home folder for the compile cache: set HOME, or {ANOTHER}") from error
    try:
        # Path.mkdir gives the mode to the last folder only.
        for missing in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
            missing.mkdir(mode=0o700, exist_ok=True)
        folder = folder.parent.resolve() / folder.name
        about = folder.lstat()
        for parent in folder.parents:
            if can_be_replaced(parent):
                raise CompileError(f"the compile cache {folder} lies in {parent}, where others can replace it: "
                                   f"{ANOTHER}")
        if about.st_uid != os.getuid():
            raise CompileError(f"the compile cache {folder} belongs to another user: {ANOTHER}")
        if about.st_mode & 0o022:  # a link is of mode 0777
            raise CompileError(f"the compile cache {folder} is a link or can be written by others: {ANOTHER}")
        if about.st_mode & 0o077:
            folder.chmod(0o700)
    except OSError as error:
        raise CompileError(f"the compile cache {folder} cannot be made: {error.strerror}; {ANOTHER}") from error
    return folder


def kept(folder: Path, name: str, suffix: str) -> Path | None:
    """What was compiled under this name; None where there is nothing that can be trusted."""
    # A glob takes 20 ms in a folder of 2,400, this 1.
    for path in (folder / file for file in os.listdir(folder) if file.startswith(f"{name}-")):
        with contextlib.suppress(OSError), open(os.open(path, UNFOLLOWED), "rb") as file:
            about = os.fstat(file.fileno())
            is_ours = stat.S_ISREG(about.st_mode) and about.st_uid == os.getuid() and not about.st_mode & 0o022
            if is_ours and path.name == f"{name}-{hashlib.sha256(file.read()).hexdigest()}{suffix}":
                return path
    return None


def compiled(source: Path, flags: list[str], toolchain: str, suffix: str,
             compile_to: Callable[[Path, Path], None]) -> Path:
    """The compiled form of `source`, from the cache or by `compile_to(unfinished, target)`, which makes the one and
    renames it when it is whole, to the other or to its last name; `toolchain` names compiler and machine."""
    key = hashlib.sha256("\0".join([toolchain, *flags]).encode())
    for path in source_with_headers(source):
        key.update(path.name.encode() + b"\0" + path.read_bytes())
    folder, name = cache_folder(), f"{source.stem}-{key.hexdigest()[:24]}"
    if found := kept(folder, name, suffix):
        return found
    lock = os.open(folder, os.O_RDONLY)  # the folder's own, so that no file for it is left by whoever is killed
    target = folder / f"{name}{suffix}.{os.getpid()}"
    unfinished = folder / f"{target.name}.part"
    try:
        # Where folders cannot be locked, as over NFS, each rank compiles for itself.
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
            if found := kept(folder, name, suffix):
                return found
            for useless in (*folder.glob(f"{name}-*{suffix}"), *folder.glob(f"*{suffix}.*")):
                useless.unlink(missing_ok=True)
        compile_to(unfinished, target)
        if found := kept(folder, name, suffix):
            return found
        target.chmod(0o600)  # whatever the umask: what others can write is not loaded
        digest = hashlib.sha256(target.read_bytes()).hexdigest()
        return target.replace(folder / f"{name}-{digest}{suffix}")
    except OSError as error:
        raise CompileError(f"the compile cache {folder} cannot be written: {error.strerror}") from error
    finally:
        unfinished.unlink(missing_ok=True)
        target.unlink(missing_ok=True)
        os.close(lock)
