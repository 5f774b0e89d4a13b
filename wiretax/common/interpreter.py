"""Ends a command, in one sentence, where this Python is too old or lacks the packages; and starts
modules of ours.

`reports`, `bench` and `wiretax` ask first. This file must itself run on Python 3.8."""

import os
import resource
import sys
from importlib.util import find_spec
from pathlib import Path

PACKAGES = "msgspec", "numpy", "pandas", "scipy", "mpi4py", "psutil", "rich", "jinja2"
LEAST_BYTES = 400 << 20  # below it numpy and its kin end or hang while they are imported


def require_packages() -> None:
    """Ends the process with status 2, and rank 0 with a sentence."""
    lacking = [name for name in PACKAGES if find_spec(name) is None]
    memory_bytes, _ = resource.getrlimit(resource.RLIMIT_AS)
    is_limited = memory_bytes != resource.RLIM_INFINITY
    if sys.version_info < (3, 10):  # noqa: UP036 - a checkout has no pip that would refuse
        major, minor = sys.version_info[:2]
        sentence = f"Wiretax needs Python 3.10 or later, and {sys.executable} is {major}.{minor}"
    elif lacking:
        sentence = (
            f"{sys.executable} lacks the packages of Wiretax, as {lacking[0]}: type "
            "`. .venv/bin/activate` (`make setup` makes .venv)"
        )
    elif is_limited and memory_bytes < LEAST_BYTES:
        sentence = (
            f"`ulimit -v` allows {memory_bytes >> 20} MiB of memory, and Wiretax needs "
            f"{LEAST_BYTES >> 20}"
        )
    else:
        if is_limited:  # the threads of OpenBLAS reserve far more, and it ends the process
            os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        return

    ranks = [os.environ.get(name, "0") for name in ("PMI_RANK", "PMIX_RANK", "SLURM_PROCID")]
    if ranks == ["0", "0", "0"]:
        print(sentence, file=sys.stderr)

    sys.exit(2)


# `bench` and `wiretax` see by "-m" that a command begins.
START = """import sys
if sys.path[0] == "":
    del sys.path[0]
if {root!r} not in sys.path:
    sys.path.insert(0, {root!r})
sys.argv[0] = "-m"
import runpy
runpy.run_module({module!r}, run_name="__main__", alter_sys=True)
"""


def module_command(module: str) -> "list[str]":
    """What starts a module in a process of its own, as `python -m` does, but never one from the
    current folder, which need not be the user's: Python searches it first, and `-P` needs 3.11."""
    root = Path(__file__).resolve().parents[__name__.count(".")]
    return [sys.executable, "-c", START.format(root=str(root), module=module)]
