"""Makes files and strings from others safe to use: a string may move a terminal's cursor, or be a
formula to a spreadsheet or an image to a Markdown page; a file may be a pipe that never ends."""

import html
import os
import re
import stat
from pathlib import Path
from typing import Any, BinaryIO

MOST_BYTES = 200_000_000  # a run stays below 50 MB, a log with NCCL's debug output below 100 MB
MOST_LETTERS = 4000  # of a string in JSON; to lay out millions takes minutes
# Control characters, line separators, and marks that turn the direction of writing.
UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]"
)
# Hosts make links of these after they have read all markup: `@name`, `#1`, `!1`, `%1`, `~label`,
# `&1`, `GH-1`, `:smile:`, `https://`, `mailto:`, `www.`. An invisible space within keeps them text.
APART = "\u200b"
LIVE = re.compile(
    r"(?<=[@#!%~&])(?=\w)|(?<=:)(?=//|[a-z_+-])|(?<=\bwww)(?=\.)|(?<=\bGH-)(?=\d)", re.IGNORECASE
)
# Markup anywhere, an underscore outside of a word, and what begins a heading, a line or an item.
MARKUP = re.compile(r"[\\|*`~\[\]!]|(?<![^\W_])_|_(?![^\W_])|^[-+#=]")
NUMBERED = re.compile(r"^(\d{1,9})([.)])(?=\s|$)")


def read_bytes(path: Path, follow: bool = True, most_bytes: int = MOST_BYTES) -> bytes:
    """The content of a regular file. Raises OSError if it cannot be read, or if the path is
    something else, a file that is too large, or, unless `follow`, a link."""
    with open_file(path, follow) as file:
        n_bytes = os.fstat(file.fileno()).st_size
        if reason := too_large(n_bytes, most_bytes):
            raise OSError(0, reason, str(path))

        return file.read()


def too_large(n_bytes: int, most_bytes: int) -> str:
    """Why a file of so many bytes is not read; "" if it is."""
    if n_bytes <= most_bytes:
        return ""
    return f"its {n_bytes / 1e6:.0f} MB are more than the {most_bytes / 1e6:.0f} MB that are read"


def open_file(path: Path, follow: bool = True) -> BinaryIO:
    """A regular file of any size, for a reader that goes through it once. Raises OSError as
    `read_bytes` does."""
    flags = os.O_RDONLY | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    file = open(os.open(path, flags), "rb")  # noqa: SIM115
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise OSError(0, "it is not an ordinary file", str(path))


def printable(text: str) -> str:
    """`text` in one line, with `?` for every character that could control a terminal."""
    return UNPRINTABLE.sub("?", text)


def printable_in(value: Any) -> Any:
    """A value from JSON, with every string in it printable, and cut if it is too long."""
    if isinstance(value, str):
        return printable(value[:MOST_LETTERS])
    if isinstance(value, dict):
        return {printable(name): printable_in(item) for name, item in value.items()}

    return [printable_in(item) for item in value] if isinstance(value, list) else value


def spreadsheet_cell(value: Any) -> Any:
    """`value`, safe from evaluation as a formula by a spreadsheet (OWASP, CSV injection)."""
    is_formula = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if is_formula else value


def markdown_text(text: str) -> str:
    """`text` literally in a heading, an item, a paragraph or a cell of a table of Markdown: no
    markup, link, image, formula, mention or reference, on GitHub and on GitLab."""
    in_line = LIVE.sub(APART, text.replace("\n", " ").strip())
    escaped = MARKUP.sub(r"\\\g<0>", html.escape(in_line, quote=False))
    escaped = NUMBERED.sub(r"\1\\\2", escaped)
    return escaped.replace(APART, "&#8203;").replace("$", "<span>&#36;</span>")
