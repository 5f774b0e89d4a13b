"""Reads files of /proc and /sys, for every module of this folder."""

from pathlib import Path

ROOT = Path("/")  # tests put a recorded machine here


def read(path: str | Path) -> str:
    """The content of a file below ROOT, stripped; empty if this kernel or container hides it."""
    try:
        return (ROOT / path).read_text(errors="replace").strip()
    except OSError:
        return ""
