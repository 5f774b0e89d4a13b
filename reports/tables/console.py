"""Text for a terminal, or for a file: colour only where standard output is a terminal and NO_COLOR is unset."""

from __future__ import annotations

import io
import os
import sys

from rich.console import Console


def plain_console(width: int) -> Console:
    """A console that keeps what is printed to it, without marks of its own."""
    return Console(file=io.StringIO(), width=width, highlight=False, markup=False, emoji=False,
                   force_terminal=sys.stdout.isatty() and not os.environ.get("NO_COLOR"))


def printed(console: Console) -> str:
    """What was printed, without blanks at the ends of lines; ends with a newline."""
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"
