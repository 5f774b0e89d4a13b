"""What somebody else wrote, a file or a string in one, is hostile until it has come through here.

A string may move a terminal's cursor, be a formula to a spreadsheet, or an image to a Markdown page; a file may be a
pipe that never ends. HTML and XML are escaped by what writes them, jinja2 and ElementTree.
"""

from __future__ import annotations

import html
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

MOST_BYTES = 200_000_000  # a run stays under 50 MB, a log of a job with all that NCCL says under 100
# The control characters of ASCII and Latin-1, those that separate lines, and those that turn the direction of writing.
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")


def open_file(path: Path, follow: bool = True, most_bytes: int = MOST_BYTES) -> BinaryIO:
    """An ordinary file, open to be read. Raises OSError where it cannot be opened, is something else, too big,
    or, unless `follow`, a link."""
    flags = os.O_RDONLY | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    file = open(os.open(path, flags), "rb")  # noqa: SIM115 - the caller's
    about = os.fstat(file.fileno())
    if stat.S_ISREG(about.st_mode) and about.st_size <= most_bytes:
        return file
    file.close()
    raise OSError(0, f"its {about.st_size / 1e6:.0f} MB are more than the {most_bytes / 1e6:.0f} MB that are read"
                      if stat.S_ISREG(about.st_mode) else "it is not an ordinary file", str(path))


def read_bytes(path: Path, follow: bool = True, most_bytes: int = MOST_BYTES) -> bytes:
    """The content of such a file. Raises OSError likewise."""
    with open_file(path, follow, most_bytes) as file:
        return file.read()


def printable(text: str) -> str:
    """`text` in one line that does nothing to a terminal: `?` for each character that would."""
    return UNPRINTABLE.sub("?", text)


def printable_in(value: Any) -> Any:
    """`value` as JSON gave it, with each string in it printable."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {printable(name): printable_in(item) for name, item in value.items()}
    return [printable_in(item) for item in value] if isinstance(value, list) else value


def spreadsheet_cell(value: Any) -> Any:
    """`value`; text that a spreadsheet would take for a formula begins with an apostrophe (OWASP, CSV injection)."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def markdown_text(text: str) -> str:
    """`text` as itself in a cell of a Markdown table: no markup, no link, no picture."""
    return re.sub(r"([\\|*`~\[\]!])", r"\\\1", html.escape(text, quote=False)).replace("\n", " ")
