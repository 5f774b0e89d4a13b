"""Reads the JSON of a trace piece by piece, in one pass: a trace may be larger than the memory."""

import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NoReturn

from wiretax.common.untrusted import open_file
from wiretax.record.result import ResultError

EVENTS = "traceEvents"
GZIP = b"\x1f\x8b"
PIECE_LETTERS = 1 << 20  # joining short pieces would take longer than reading them
# Of one value: events have a few thousand, the facts of a head with many process groups 100,000.
MOST_LETTERS = 1 << 24
BLANKS = re.compile(r"[ \t\n\r]*")


def values_of(path: Path) -> Iterator[tuple[str, Any]]:
    """The values of the file's JSON object with their keys, one after another, and each event of
    `traceEvents` as a value of its own. A bare list is one of events. Raises ResultError for a file
    that cannot be read, is no JSON, or was cut off."""
    n_values = 0
    try:
        with open_file(path) as raw:
            is_packed = raw.read(len(GZIP)) == GZIP
            raw.seek(0)
            unpacked = gzip.GzipFile(fileobj=raw) if is_packed else raw
            pieces = Pieces(io.TextIOWrapper(unpacked, "utf-8", errors="replace"))
            for each in members(pieces):
                yield each
                n_values += 1
    except (OSError, EOFError, zlib.error) as error:
        why = getattr(error, "strerror", None) or error
        raise ResultError(f"{path} cannot be read: {why}") from None
    except (ValueError, RecursionError) as error:
        where = f"after {n_values:,} values"
        raise ResultError(f"{path} is no JSON, or was cut off, {where}: {error}") from None


def members(pieces: "Pieces") -> Iterator[tuple[str, Any]]:
    """Raises ValueError."""
    if pieces.sign() == "[":
        yield from events(pieces)
    else:
        for _ in pieces.items("{", "}"):
            key = pieces.value()
            pieces.take(":")
            if key == EVENTS:
                yield from events(pieces)
            else:
                yield str(key), pieces.value()
    if pieces.sign():
        raise ValueError("something follows its end")


def events(pieces: "Pieces") -> Iterator[tuple[str, Any]]:
    """Raises ValueError."""
    for _ in pieces.items("[", "]"):
        yield EVENTS, pieces.value()


def refuse(constant: str) -> NoReturn:
    """JSON has no NaN and no Infinity, which Python reads."""
    raise ValueError(f"{constant} is no number")


class Pieces:
    """The text of a file that is read on as far as it is needed: `text` from `place` on."""

    decode = json.JSONDecoder(parse_constant=refuse).raw_decode

    def __init__(self, file: IO[str]) -> None:
        self.file = file
        self.text = ""
        self.place = 0

    def read_on(self) -> bool:
        """Whether there was more."""
        more = self.file.read(PIECE_LETTERS)
        self.text = self.text[self.place :] + more
        self.place = 0
        return bool(more)

    def sign(self) -> str:
        """The next letter that is no blank; empty at the end of the file."""
        while True:
            blanks = BLANKS.match(self.text, self.place)
            assert blanks
            self.place = blanks.end()
            if self.place < len(self.text) or not self.read_on():
                return self.text[self.place : self.place + 1]

    def take(self, sign: str) -> None:
        """Raises ValueError if another one is next."""
        if self.sign() != sign:
            raise ValueError(f"no {sign!r}" + ("" if self.sign() else " before it ends"))
        self.place += 1

    def items(self, start: str, end: str) -> Iterator[None]:
        """At each item between the brackets, which its user takes. Raises ValueError."""
        self.take(start)
        while self.sign() != end:
            yield
            if self.sign() != end:
                self.take(",")
        self.take(end)

    def value(self) -> Any:
        """The next value. Raises ValueError and RecursionError."""
        self.sign()
        while True:
            try:
                value, end = self.decode(self.text, self.place)
            except json.JSONDecodeError as error:
                if len(self.text) - self.place > MOST_LETTERS:
                    raise ValueError(f"a value of more than {MOST_LETTERS:,} letters") from None
                if not self.read_on():
                    raise ValueError(error.msg) from None
                continue
            if end < len(self.text) or not self.read_on():  # more digits may follow
                self.place = end
                return value
