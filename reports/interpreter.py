"""Ends a command, in one sentence, where this Python is too old or lacks the packages.

`reports`, `bench` and `wiretax` ask first. This file must itself run on Python 3.8."""

import os
import sys
from importlib.util import find_spec


def require_packages() -> None:
    """Ends the process with status 2, and rank 0 with a sentence."""
    if sys.version_info < (3, 10):  # noqa: UP036 - a checkout has no pip that would refuse
        major, minor = sys.version_info[:2]
        sentence = f"Wiretax needs Python 3.10 or later, and {sys.executable} is {major}.{minor}"
    elif find_spec("msgspec") is None:
        sentence = (
            f"{sys.executable} lacks the packages of Wiretax: type `. .venv/bin/activate` "
            "(`make setup` makes .venv)"
        )
    else:
        return

    ranks = [os.environ.get(name, "0") for name in ("PMI_RANK", "PMIX_RANK", "SLURM_PROCID")]
    if ranks == ["0", "0", "0"]:
        print(sentence, file=sys.stderr)

    sys.exit(2)
