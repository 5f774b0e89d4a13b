"""Starts real ranks for tests."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import pytest

ROOT = Path(__file__).parent.parent
MPIRUN = Path(sys.executable).parent / "mpirun"

# Ranks that check megabytes in numpy get the same memory again: new pages took a third of the time.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(128 << 20)}

T = TypeVar("T")
FULL = os.environ.get("FULL_COUNT") == "1"  # as `make reliability` sets it
SLOW_TEST = pytest.mark.skipif(not FULL, reason="slow: make reliability")
NEEDS_GIT = pytest.mark.skipif(not shutil.which("git"), reason="system tool absent: git")


def count(full: int) -> int:
    """The number of examples or launches of a test: a sixth of `full`, at least one, or `full` with
    `make reliability`."""
    return full if FULL else max(1, full // 6)


def few(cases: Iterable[T], most: int) -> list[T]:
    """The first `most` cases of a test; all cases with `make reliability`, or FULL_COUNT=1. What
    shows most comes first: a case behind the first `most` is never in `make test`."""
    return list(cases) if FULL else list(cases)[:most]


def end_of(
    *words: object, cwd: Path | str = ROOT, timeout_s: float = 240, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Runs a command line with these variables added, and returns its output as text."""
    return subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env={**os.environ, **environment},
    )


def mpirun(
    ranks: int, *command: str, timeout_s: float = 240, tree: Path | str = ROOT, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Runs `mpirun -n RANKS python COMMAND` from the root of the project, or of a tree with other
    kernels."""
    line = MPIRUN, "-n", ranks, sys.executable, *command
    variables = {**KEEP_MEMORY, "PYTHONPATH": str(tree), **environment}
    return end_of(*line, cwd=tree, timeout_s=timeout_s, **variables)


def printed(ranks: int, *command: str, **how: Any) -> str:
    """What a command prints under `mpirun`; it must succeed."""
    done = mpirun(ranks, *command, **how)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def assert_right(ranks: int, program: str, examples: int | str, *words: str, **how: Any) -> int:
    """Runs `tests/ranks/PROGRAM_ranks.py EXAMPLES WORDS`, which must find all results right; the
    number of examples that it performed, if it says so."""
    said = printed(ranks, "-m", f"tests.ranks.{program}_ranks", str(examples), *words, **how)
    right, _, performed = said.strip().partition(", ")
    assert right.endswith(f"examples right on {ranks} ranks"), said
    return int(performed.split()[0]) if performed else 0


def python(program: str, *launcher: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Runs a Python program from the root of the project, behind the words of a launcher."""
    return end_of(*launcher, sys.executable, "-c", program, timeout_s=120, **environment)
