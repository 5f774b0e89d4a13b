"""Peers: anybody's collectives, a Python file each, timed beside ours, for `--peer`.

`file.py` reads a file and what it declares, `case.py` has what its functions get, `algorithm.py`
makes an algorithm of it. Only bench/features/peers.py imports this folder: without both, everything
else works."""

from pathlib import Path

SHIPPED = Path(__file__).parents[2] / "examples" / "peers"


def shipped_names() -> list[str]:
    """The names of the files that come with this program."""
    return sorted(path.stem for path in SHIPPED.glob("*.py"))
