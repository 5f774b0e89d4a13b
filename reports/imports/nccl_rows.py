"""The rows of nccl-tests and its relatives: their layout under a header, and how they are read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from reports.imports.logged import LIKE_A_FIGURE, LoggedTest, whole_number

# The store's names of the types; `char` comes from NCCL 1.x, the `fp8_` names from RCCL.
TYPES = {
    "half": "float16", "float": "float32", "double": "float64", "bfloat16": "bfloat16",
    "char": "int8", "int": "int32", "int8": "int8", "uint8": "uint8", "int32": "int32",
    "uint32": "uint32", "int64": "int64", "uint64": "uint64", "f8e4m3": "float8_e4m3",
    "f8e5m2": "float8_e5m2", "fp8_e4m3": "float8_e4m3", "fp8_e5m2": "float8_e5m2"}
FIGURE = re.compile(r"\d+(?:\.\d*)?(?:e[+-]?\d+)?\*?|N/A|-?nan|-?inf")
FIGURES = rf"(?:(?:^| )(?:{FIGURE.pattern}))"
# The parts of a test in their order.
Stage = IntEnum("Stage", "BANNER STARTED SIZES DEVICES RANKS TABLE ROWS FOOTER")


@dataclass
class Row:
    """A row: the fields of its case, and the figures of each half by whether it is in place."""

    fields: dict[str, Any]
    halves: dict[bool, list[str]] = field(default_factory=dict)

    def add(self, places: Sequence[bool], figures: str, width: int) -> None:
        """Adds halves of `width` figures, without the asterisks of wrong results."""
        texts = figures.replace("*", "").split()
        for place, start in zip(places, range(0, len(texts), width), strict=False):
            self.halves[place] = texts[start : start + width]


@dataclass
class Layout:
    """The columns of the rows under a header; the defaults apply if the header is lost.

    `places` has the halves of a row: whether each is in place, and the end of its time column.
    """

    has_header: bool = False
    typed: bool = True
    rooted: bool = True
    names: tuple[str, ...] = ("time", "algbw", "busbw", "wrong")
    places: tuple[tuple[bool, int], ...] = ((False, 64), (True, 95))
    size_end: int = 12
    milliseconds: bool = False

    def read(self, words: Sequence[tuple[str, int]], line: int) -> Row | None:
        """The row; None if the line is not a row or cannot be read as a whole. The column of a
        single half decides its place."""
        text = " ".join(word for word, _ in words)
        match = re.fullmatch(self._pattern(), text)
        size, count = map(whole_number, text.split()[:2]) if match else (None, None)
        if match is None or size is None or count is None:
            return None
        kind, redop, root, figures = match.groups()
        row = Row({"line": line, "size_bytes": size, "count": count})
        if kind:
            row.fields["datatype"] = TYPES.get(kind.lower(), kind.lower())
        if redop:
            row.fields["redop"] = redop.lower()
        if root:
            row.fields["root"] = int(root)
        places = [place for place, _ in self.places]
        if len(figures.split()) == len(self.names):
            time_word = len(text[: match.start(4)].split())
            time_end = words[time_word][1] - (words[0][1] - self.size_end)
            places = [min(self.places, key=lambda place: abs(place[1] - time_end))[0]]
        row.add(places, figures, len(self.names))
        return row

    def looks_like_row(self, texts: Sequence[str]) -> bool:
        """Whether the words could be a row with a damaged size or count."""
        is_long = len(texts) >= 2 + len(self.names)
        return is_long and all(map(LIKE_A_FIGURE.fullmatch, texts[:2]))

    def _pattern(self) -> str:
        """Groups: type, operation, root and figures."""
        kind = r"[a-z]\w{1,15}" if self.has_header else "|".join(TYPES)
        typed = rf" (?i:({kind}))(?: (?!(?:nan|inf) )([A-Za-z]\w{{1,15}}))?"
        halves = rf"((?:{FIGURES}{{{len(self.names)}}}){{0,{len(self.places)}}})"
        return (rf"\S+ \S+{typed if self.typed else '()()'}"
                rf"{r'(?: (-?[0-9]{1,9}))?' if self.rooted else '()'}"
                rf"{halves}(?: \d{{4}}-\d\d-\d\d \S+)?")


@dataclass
class Draft(LoggedTest):
    """A test while its lines are read.

    `stage` is the last part; `headless` means rows without a head, `follows` that they come after a
    footer, `mixed` that two runs share the output. `names` are the collectives in its lines,
    `listed` its ranks with group and GPU, `commands` the command lines before it.
    """

    stage: Stage = Stage.BANNER
    layout: Layout = field(default_factory=Layout)
    rows: list[Row] = field(default_factory=list)
    headers: int = 0
    headless: bool = False
    follows: bool = False
    mixed: bool = False
    sized: bool = False
    names: set[str | None] = field(default_factory=set)
    listed: list[tuple[int, str, str]] = field(default_factory=list)
    nranks: set[int] = field(default_factory=set)
    commands: list[str] = field(default_factory=list)

    def continue_row(self, figures: str) -> bool:
        """Adds figures to the last row if they are its rest after an NCCL message."""
        places, width = [place for place, _ in self.layout.places], len(self.layout.names)
        missing = [place for place in places if self.rows and place not in self.rows[-1].halves]
        n_figures = len(figures.split())
        if (not missing or n_figures not in (width, width * len(missing))
                or not re.fullmatch(f"{FIGURES}*", figures)):
            return False
        self.rows[-1].add(missing, figures, width)
        return True
