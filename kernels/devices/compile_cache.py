"""Compiles a kernel file once for all ranks and runs, to `$XDG_CACHE_HOME/wiretax`. A binary's name
has its SHA-256 digest: a file that does not match is compiled anew and never loaded."""

import fcntl
import hashlib
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from kernels.devices.device import CONSTANTS, Arguments, DeviceError, Macros
from kernels.devices.layout import SOURCES, layout_checks
from wiretax.common.owners import REMEDY, private_folder

LEAST_FREE_BYTES = 4 << 20  # a compiler that finds less complains of anything but the disk

listeners: list[Callable[[str], None]] = []  # get the name of a file that is about to be compiled
waits_s: list[float] = []  # how long the main thread has waited for compilers, each time


class CompileError(DeviceError):
    """A kernel does not compile, or the compiler or the cache is unusable; one sentence."""


class Busy(Exception):
    """Another process, or thread, compiles the file."""


def first_complaint(compiler_log: str) -> str:
    """The first error in a compiler's output, at most 200 characters."""
    lines = compiler_log.strip().splitlines()
    return next((line for line in lines if "error" in line), lines[0])[:200]


def source_with_headers(source: Path) -> list[Path]:
    """`source` and all headers that it includes, directly or not, by first inclusion. The compiler
    complains of one that is nowhere."""
    paths = [source]
    for path in paths:  # the loop also visits the headers that it appends
        for name in re.findall(r'^\s*#include "([^"]+)"', path.read_text(), re.MULTILINE):
            for header in path.parent / name, SOURCES / name:  # a kernel from outside includes ours
                if header.is_file() and header not in paths:
                    paths.append(header)
    return paths


def checks_of(sources: Sequence[Path]) -> str:
    """C++ text to follow a kernel file: it compares with Python's the constants and structures that
    these files, the kernel's and its headers, declare."""
    files, lines = {path.resolve() for path in sources}, list[str]()
    if Arguments.file in files:  # sync.h
        lines = [
            f'static_assert({name} == {value}, "{name} is {value} in Python and not in C++");'
            for name, value in CONSTANTS.items()
        ]
    return "\n" + "\n".join([*lines, layout_checks(files)])


def cache_folder() -> Path:
    """The cache's folder, as `private_folder` has it. Raises CompileError."""
    try:
        return private_folder()
    except OSError as error:
        raise CompileError(f"the compile cache {error.filename}: {error.strerror}") from error


def cached_file(folder: Path, name: str) -> Path | None:
    """The intact binary of this name; None if the cache does not hold it."""
    for entry in os.listdir(folder):  # 1 ms in a folder of 2,400 files; Path.glob takes 20 ms
        if entry.startswith(f"{name}-"):
            path = folder / entry
            if entry == f"{name}-{hashlib.sha256(path.read_bytes()).hexdigest()}":
                return path
    return None


@contextmanager
def waiting() -> Iterator[None]:
    """Adds the time inside to `waits_s`, if it is the main thread's."""
    started_s = time.monotonic()
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            waits_s.append(time.monotonic() - started_s)


def compile_once(
    source: Path,
    inputs: Sequence[str],
    macros: Macros,
    build: Callable[[Path, list[str], str], object],
    wait: bool = True,
) -> Path:
    """The binary of `source`, from the cache or written by `build(path, options, checks)`, where
    `options` define the macros and `checks` is C++ text that follows the source. `inputs`: flags,
    compiler, CPU. Raises CompileError if `build` does or if the cache cannot be used, and without
    `wait` Busy where somebody else compiles it."""
    options = [f"-D{name}={macros[name]}" for name in sorted(macros)]
    paths = source_with_headers(source)
    names, texts = [path.name for path in paths], [path.read_text() for path in paths]
    checks = checks_of(paths)
    key = hashlib.sha256("\0".join([*inputs, *options, checks, *names, *texts]).encode())
    folder, name = cache_folder(), f"{source.stem}-{key.hexdigest()[:24]}"
    if binary := cached_file(folder, name):
        return binary
    try:
        with locked(folder / f"{name}.lock", wait):
            for listener in listeners:
                listener(source.name)
            return cached_file(folder, name) or built(folder, name, build, options, checks)
    except CompileError as error:
        if shutil.disk_usage(folder).free >= LEAST_FREE_BYTES:
            raise
        raise CompileError(f"the disk of the compile cache {folder} is full: {REMEDY}") from error
    except OSError as error:
        raise CompileError(f"the compile cache cannot be used: {error}; {REMEDY}") from error


def built(
    folder: Path,
    name: str,
    build: Callable[[Path, list[str], str], object],
    options: list[str],
    checks: str,
) -> Path:
    """The new binary of this name."""
    unfinished = folder / f"{secrets.token_hex(8)}.part"
    try:
        build(unfinished, options, checks)
        digest = hashlib.sha256(unfinished.read_bytes()).hexdigest()
        return unfinished.replace(folder / f"{name}-{digest}")
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def locked(path: Path, wait: bool) -> Iterator[None]:
    """Holds the lock of a file to compile, each its own: processes compile others meanwhile. Who
    gets a lock whose file is removed already finds the binary, or compiles it a second time."""
    lock = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        with waiting():
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError as error:
                raise Busy from error
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
    finally:
        os.close(lock)
