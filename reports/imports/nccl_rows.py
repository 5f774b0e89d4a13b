"""The rows of nccl-tests and its relatives: their layout under a header, and how they are read."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from reports.imports.logged import LIKE_A_FIGURE, LoggedTest, whole_number

MEAN, CPU_TIME = "mean over iterations", "CPU time, mean over iterations"
# The store's names of the types; `char` comes from NCCL 1.x, the `fp8_` names from RCCL.
TYPES = {
    "half": "float16", "float": "float32", "double": "float64", "bfloat16": "bfloat16",
    "char": "int8", "int": "int32", "int8": "int8", "uint8": "uint8", "int32": "int32",
    "uint32": "uint32", "int64": "int64", "uint64": "uint64", "f8e4m3": "float8_e4m3",
    "f8e5m2": "float8_e5m2", "fp8_e4m3": "float8_e4m3", "fp8_e5m2": "float8_e5m2"}
FIGURES = re.compile(r"(?:(?:\d+(?:\.\d*)?(?:e[+-]?\d+)?\*?|N/A|-?nan|inf)(?: |$))*")
# The parts of a test in their order.
Stage = IntEnum("Stage", "BANNER STARTED SIZES DEVICES RANKS TABLE ROWS FOOTER")


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


@dataclass
class Row:
    """A row: the fields of its case, and the words of each half with its place."""

    line: int
    fields: dict[str, Any]
    halves: list[tuple[bool, list[str]]] = field(default_factory=list)


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
    pending: Row | None = None
    headers: int = 0
    headless: bool = False
    follows: bool = False
    mixed: bool = False
    sized: bool = False
    names: set[str | None] = field(default_factory=set)
    listed: list[tuple[int, str, str]] = field(default_factory=list)
    nranks: set[int] = field(default_factory=set)
    commands: list[str] = field(default_factory=list)

    def end_row(self) -> None:
        """Ends the row that a later line could continue; a row without figures is unread."""
        row, self.pending = self.pending, None
        if row is not None and row.halves:
            self.rows.append(row)
        elif row is not None:
            self.unread.append(row.line)

    def begin_row(self, row: Row) -> None:
        self.end_row()
        self.pending, self.stage = row, Stage.ROWS
        if len(row.halves) == len(self.layout.places):
            self.end_row()

    def continue_row(self, texts: list[str]) -> bool:
        """Adds these words to the pending row if they are its rest after an NCCL message."""
        row, width = self.pending, len(self.layout.names)
        if row is None:
            return False
        missing = [place for place, _ in self.layout.places if place not in dict(row.halves)]
        fills_halves = len(texts) in (width, width * len(missing))
        if not fills_halves or not FIGURES.fullmatch(" ".join(texts)):
            return False
        for start, place in zip(range(0, len(texts), width), missing, strict=False):
            row.halves.append((place, texts[start : start + width]))
        if len(row.halves) == len(self.layout.places):
            self.end_row()
        return True


def read_row(layout: Layout, words: list[tuple[str, int]], line: int) -> tuple[Row | None, bool]:
    """The row, without fields if its size cannot be read, and whether all of it could be read;
    None if the line is not a row."""
    texts = [word for word, _ in words]
    size, count = whole_number(texts[0]), whole_number(texts[1]) if len(texts) > 1 else None
    if size is None or count is None:
        looks_like_row = (len(texts) >= 2 + len(layout.names)
                          and all(map(LIKE_A_FIGURE.fullmatch, texts[:2])))
        return Row(line, {}) if looks_like_row else None, False
    row, first = Row(line, {"size_bytes": size, "count": count}), 2
    if layout.typed:
        name = texts[2].lower() if len(texts) > 2 else ""
        is_type = re.fullmatch(r"[a-z]\w{1,15}", name) if layout.has_header else name in TYPES
        if not is_type:
            return row, False
        row.fields["datatype"], first = TYPES.get(name, name), 3
        if len(texts) > 3 and _is_operation(texts[3]):
            row.fields["redop"], first = texts[3].lower(), 4
    if len(texts) > first + 2 and re.fullmatch(r"\d{4}-\d\d-\d\d", texts[-2]):
        texts = texts[:-2]  # a timestamp
    has_extra = (len(texts) - first) % len(layout.names) == 1
    if layout.rooted and has_extra and re.fullmatch(r"-?\d{1,9}", texts[first]):
        row.fields["root"], first = int(texts[first]), first + 1
    return row, _read_halves(row, layout, texts[first:], words[0][1], words[first:])


def _is_operation(text: str) -> bool:
    return bool(re.fullmatch(r"[A-Za-z]\w{1,15}", text)) and text not in ("nan", "inf")


def _read_halves(row: Row, layout: Layout, texts: list[str], size_end: int,
                 words: list[tuple[str, int]]) -> bool:
    """Whether the figures fill whole halves, which are then in the row. The column of a single half
    decides its place."""
    width = len(layout.names)
    if len(texts) % width or not FIGURES.fullmatch(" ".join(texts)):
        return False
    figures = [text.rstrip("*") for text in texts]
    halves = [figures[start : start + width] for start in range(0, len(figures), width)]
    if len(halves) > len(layout.places):
        return False
    places = [place for place, _ in layout.places]
    if len(halves) == 1:
        time_end = words[0][1] - (size_end - layout.size_end)
        places = [min(layout.places, key=lambda place: abs(place[1] - time_end))[0]]
    row.halves = list(zip(places, halves, strict=False))
    return True
