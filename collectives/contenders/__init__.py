"""Contenders: anybody's collectives, a Python file each, timed beside ours, for `--contender`.

`file.py` reads a file and what it declares, `interface.py` has what its functions get,
`algorithm.py` makes an algorithm of it. Only bench/features/contenders.py imports this folder:
without both, everything else works."""

from pathlib import Path

SHIPPED = Path(__file__).parents[2] / "examples" / "contenders"
FORMERLY_SHIPPED = SHIPPED.with_name("peers")


def shipped_names() -> list[str]:
    """The names of the files that come with this program."""
    return sorted(path.stem for path in SHIPPED.glob("*.py"))
