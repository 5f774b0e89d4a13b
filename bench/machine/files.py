"""Reads files of /proc and /sys, for every module of this folder."""

import os
import re
from pathlib import Path

ROOT = Path("/")  # tests put a recorded machine here


def read(path: str | Path) -> str:
    """The content of a file below ROOT, stripped; empty if this kernel or container hides it, or if
    it is no text."""
    try:
        return (ROOT / path).read_text().strip()
    except (OSError, ValueError):
        return ""


def is_hidden(path: str | Path) -> bool:
    """Whether this file is there, but shows nothing."""
    return os.path.lexists(ROOT / path) and not read(path)


def whole(text: str) -> int | None:
    """A count as the kernel writes it; None for other text, and for what no counter reaches."""
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None
