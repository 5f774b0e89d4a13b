"""Finds a kernel's source, compiles it once for all ranks, and keeps what was compiled.

The cache's key covers the source, every header that it includes, the flags, and the compiler's version, so that a stale
binary is never loaded. Ranks that start together on an empty cache are safe: whoever holds the folder's lock compiles,
into a file of another name, which is renamed when it is whole; the others wait and find it.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

from kernels.device import DeviceError

SOURCES = Path(__file__).parent


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


def cache_folder() -> Path:
    """The owner's compile cache (`$XDG_CACHE_HOME/wiretax`), closed to others.

    Raises CompileError where it cannot be made or belongs to someone else: a library in it is loaded and run.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wiretax"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except OSError as error:
        raise CompileError(f"the compile cache {folder} cannot be made: {error.strerror}") from error
    if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o022:
        raise CompileError(f"the compile cache {folder} can be written by others; it must be yours alone")
    return folder


def compiled(source: Path, flags: list[str], toolchain: str, suffix: str,
             compile_to: Callable[[Path, Path], None]) -> Path:
    """The compiled form of `source`, from the cache or by `compile_to(unfinished, target)`, which makes the one and
    renames it when it is whole; `toolchain` names compiler and machine."""
    key = hashlib.sha256("\0".join([toolchain, *flags]).encode())
    for path in source_with_headers(source):
        key.update(path.name.encode() + b"\0" + path.read_bytes())
    target = cache_folder() / f"{source.stem}-{key.hexdigest()[:24]}{suffix}"
    if target.exists():
        return target
    lock = os.open(target.parent, os.O_RDONLY)  # the folder's own, so that no file for it is left by whoever is killed
    try:
        # Where folders cannot be locked, as over NFS, each rank compiles for itself.
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
            for abandoned in target.parent.glob(f"*{suffix}.*") if not target.exists() else ():
                abandoned.unlink(missing_ok=True)
        if not target.exists():
            unfinished = target.with_name(f"{target.name}.{os.getpid()}")
            try:
                compile_to(unfinished, target)
            finally:
                unfinished.unlink(missing_ok=True)
    finally:
        os.close(lock)
    return target
