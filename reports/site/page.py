"""The parts of a page, and its HTML."""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from markupsafe import Markup

from reports.advice.procurement import Procurement
from reports.site import words
from reports.site.svg import Picture
from reports.store.foreign import printable
from reports.store.schema import Run
from reports.tables import templates

MOST_BYTES = 1_000_000
SHORTENED = "All of it would not fit on one page: drawings and rows are left out."
NUMBER = re.compile(r"[<>+-]?\d[\d.]*(e[+-]?\d+)?( ?[A-Za-z%/]{1,4})?!?( \[[^]]*\])?|-")

# By column: a text, or a text and its link, which shows if the page exists.
Row = Mapping[str, str | tuple[str, str]]


@dataclass
class Section:
    """A heading and its content. `lines` are the names of the pictures' lines, with a sample each.

    `text` is preformatted; a `folded` section opens on demand. `table` is the id of the table,
    `filters` are the columns to choose its rows by. A row that begins with a link `#id` has that
    id."""

    heading: str
    sentences: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    lines: Sequence[tuple[str, Markup]] = ()
    table: str = ""
    caption: str = ""
    rows: Sequence[Row] = ()
    filters: Sequence[str] = ()
    text: str = ""
    folded: bool = False

    @property
    def number_columns(self) -> set[str]:
        """The columns in which each cell is a number, with or without unit and interval, or a dash.
        A column of hashes does not count, even if some of them look like numbers."""
        cells = {name: {row[name] for row in self.rows} for name in self.rows[0]}
        return {name for name, texts in cells.items() if texts != {"-"}
                and all(isinstance(text, str) and NUMBER.fullmatch(text) for text in texts)}


@dataclass
class Page:
    """`cards` are (headline, class, sentence) for the first screen, `reproduce` is for the footer.

    For the overview, `verdicts` counts the cells or series by machine and benchmark, and `runs` are
    the heads of a campaign's runs. `complaint` says why there is nothing to show. `html` is empty
    until the page is rendered."""

    title: str
    sentences: Sequence[str] = ()
    sections: Sequence[Section] = ()
    reproduce: dict[str, str] = field(default_factory=dict)
    cards: Sequence[tuple[str, str, str]] = ()
    verdicts: dict[tuple[str, str], Counter[str]] = field(default_factory=dict)
    runs: Sequence[Run] = ()
    procurement: Procurement | None = None
    complaint: str = ""
    file: str = ""
    html: str = ""

    @property
    def counts(self) -> Counter[str]:
        """All cells or series by verdict."""
        return sum(self.verdicts.values(), Counter[str]())


@dataclass
class Site:
    """What all pages share: the pages by file, with their names if they are in the navigation, the
    command, and the folders to hide."""

    pages: Mapping[str, str]
    command: str
    private_folders: Sequence[Path]


def render(page: Page, site: Site) -> str:
    """The page as HTML of at most 1 MB, which needs no other file. Until it fits, it loses the
    drawings with another vertical axis, and then half of its rows, text and sentences at a time."""
    parts: list[Page | Section] = [page, *page.sections]
    for part in parts:
        part.sentences = [printable(words.hide_folders(line, site.private_folders))
                          for line in part.sentences]
    html, former_length = _render(page, site), 0
    while len(html.encode()) > MOST_BYTES and len(html) != former_length:
        former_length = len(html)
        for section in page.sections:
            _shorten(section)
        page.sentences = list(dict.fromkeys([*page.sentences, SHORTENED]))
        html = _render(page, site)
    return html


def _shorten(section: Section) -> None:
    section.text = section.text[: len(section.text) // 2]
    section.sentences = section.sentences[: len(section.sentences) // 2 + 1]
    first_scale = [picture for picture in section.pictures if picture.scale != "linear"]
    if len(first_scale) < len(section.pictures):
        section.pictures = first_scale
    else:
        section.rows = section.rows[: (len(section.rows) + 1) // 2]


def _render(page: Page, site: Site) -> str:
    script = templates.source("dashboard.js")
    script_hash = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return templates.render(
        "dashboard.html", page=page, site=site, script=script, script_hash=script_hash,
        verdict_class=words.verdict_class)
