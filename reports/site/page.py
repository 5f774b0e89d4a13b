"""The parts of a page, which dashboard.html lays out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from reports.advice.procurement import Procurement
from reports.site.svg import Picture, Toggle
from reports.store.schema import Run

MOST_ROWS = 1500  # of a table, so that a page stays below 1 MB
NUMBER = re.compile(r"[<>+-]?\d[\d.]*(e[+-]?\d+)?!?( ?[A-Za-z%/]{1,4})?( \[[^]]*\])?|-")

Cell = str | tuple[str, str]  # a text, or a text and its link


@dataclass
class Table:
    """`ids` are the ids of the rows; `filters` are the columns to choose rows by."""

    id: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    ids: Sequence[str] = ()
    filters: Sequence[str] = ()

    @property
    def number_columns(self) -> set[int]:
        """The columns in which each cell is a number, with or without unit and interval, or a dash.
        A column of hashes does not count, even if some of them look like numbers."""
        columns = enumerate(zip(*self.rows, strict=True))
        return {place for place, cells in columns if {*cells} - {"-"}
                and all(isinstance(cell, str) and NUMBER.fullmatch(cell) for cell in cells)}


@dataclass
class Section:
    """A heading and its content. `text` is preformatted; a `folded` section opens on demand."""

    heading: str
    sentences: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    toggles: Sequence[Toggle] = ()
    table: Table | None = None
    text: str = ""
    folded: bool = False

    @property
    def has_content(self) -> bool:
        has_rows = self.table is not None and len(self.table.rows) > 0
        return has_rows or bool(self.sentences or self.pictures or self.text)


@dataclass
class Page:
    """`cards` are (headline, class, sentence) for the first screen, `reproduce` (name, text) for
    the footer. For the overview, `counts` has the cells or series by verdict, `groups` the same by
    machine and benchmark, and `runs` the heads of a campaign's runs. `complaint` says why there is
    nothing to show. `html` is empty until the page is rendered."""

    title: str
    sentences: Sequence[str] = ()
    sections: list[Section] = field(default_factory=list)
    reproduce: list[tuple[str, str]] = field(default_factory=list)
    cards: list[tuple[str, str, str]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    groups: dict[tuple[str, str], Counter[str]] = field(default_factory=dict)
    runs: Sequence[Run] = ()
    procurement: Procurement | None = None
    complaint: str = ""
    file: str = ""
    html: str = ""


def table_section(heading: str, table: Table, sentences: Sequence[str] = ()) -> Section:
    """A section with the rows of a table that fit on a page."""
    if len(table.rows) > MOST_ROWS:
        sentences = [*sentences, f"{len(table.rows) - MOST_ROWS} more rows do not fit here."]
        table = replace(table, rows=table.rows[:MOST_ROWS], ids=table.ids[:MOST_ROWS])
    return Section(heading, sentences, table=table)
