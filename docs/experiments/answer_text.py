"""How docs/answer.md prints tables, rates and sources."""

import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import TypeVar

from reports.references.pairs import PairRow
from reports.references.published import PublishedCall, PublishedServing, select, serving
from tests.references_page import address
from wiretax.common.grouped import grouped
from wiretax.common.untrusted import markdown_text

Published = TypeVar("Published", PublishedCall, PublishedServing, PairRow)


def change(before: float | None, after: float | None) -> str:
    """`99.3 to 116.5, 1.17 x`."""
    if not before or not after:
        return ""
    return f"{rate_text(before)} to {rate_text(after)}, {after / before:.2f} x"


def rate_text(tok_s: float | None) -> str:
    """`99.3`, `3344`: four digits at least, of the printed ones."""
    assert tok_s
    return f"{tok_s:.4g}" if tok_s < 1000 else f"{tok_s:.0f}"


def sources(rows: Sequence[PublishedCall | PublishedServing | PairRow]) -> str:
    """Links to the sources of these rows: the first of each owner by the owner's name, others by
    their number."""
    texts = []
    for owner, own in grouped(rows, owner_of).items():
        if isinstance(own[0], PublishedCall) and own[0].archive:
            texts.append(f"[{markdown_text(owner)}](references.md#from-owners-archives)")
            continue
        for place, source in enumerate(dict.fromkeys(row.source for row in own), 1):
            name, link = owner if place == 1 else str(place), address_of(source)
            texts.append(f"[{name}]({link})" if link else name)
    return " ".join(texts)


def owner_of(row: PublishedCall | PublishedServing | PairRow) -> str:
    """`cadamcat`, or `archive 1a2b3c4d5e6f of NAME`."""
    if isinstance(row, PublishedCall) and row.archive:
        return f"archive {row.archive[:12]} of {row.sender}"
    return row.source.partition("/")[0].partition(" ")[0]


def address_of(source: str) -> str | None:
    """Where a source of the tables can be read; None for one without an address."""
    if issue := re.match(r"([\w.-]+/[\w.-]+)#(\d+)", source):
        return f"https://github.com/{issue[1]}/issues/{issue[2]}"
    if re.match(r"[\w.-]+/[\w.-]+@[0-9a-f]+ ", source):
        return address(source)
    if thread := re.match(r"forums\.developer\.nvidia\.com (t/\d+)", source):
        return f"https://forums.developer.nvidia.com/{thread[1]}"
    return None


def the_row(rows: Iterable[Published], source: str, note: str = "") -> Published:
    """The one row of this source whose note has this text."""
    (row,) = [row for row in rows if row.source.startswith(source) and note in row.note]
    return row


def served(source: str, note: str = "", **values: object) -> PublishedServing:
    """The one row of serving.csv of this source and note whose fields have these values."""
    rows = select(serving(), **{name: {value} for name, value in values.items()})
    return the_row(rows, source, note)


def in_note(row: PublishedCall | PublishedServing | PairRow, pattern: str) -> float:
    """A figure that stands in a row's note."""
    found = re.search(pattern, row.note)
    assert found, row
    return float(found[1].replace(",", ""))


def markdown_table(heading: str, rows: Iterable[Sequence[str]]) -> str:
    head = [f"| {heading} |", "|---" * (heading.count("|") + 1) + "|"]
    return "\n".join([*head, *(f"| {' | '.join(row)} |" for row in rows)])


def first_rows(heading: str, rows: Sequence[Sequence[str]], shown: int, rest: str) -> str:
    """A table of the first rows, and those below it behind a line that a click opens:
    `9 more pairs`. Each without the columns that are empty in it."""
    table = filled_table(heading, rows[:shown])
    if len(rows) <= shown:
        return table
    below = filled_table(heading, rows[shown:])
    return f"{table}\n\n{behind(f'{len(rows) - shown} more {rest}', below)}"


def filled_table(heading: str, rows: Sequence[Sequence[str]]) -> str:
    columns = zip(heading.split(" | "), *rows, strict=True)
    names, *filled = zip(*(column for column in columns if any(column[1:])), strict=True)
    return markdown_table(" | ".join(names), filled)


def behind(summary: str, text: str) -> str:
    """A text behind a line that a click opens, on GitHub and on the site."""
    return f'<details markdown="1">\n<summary>{summary}</summary>\n\n{text}\n\n</details>'


def times_text(values: Sequence[float]) -> str:
    """`1.04 to 1.10 x`."""
    ends = dict.fromkeys(f"{value:.2f}" for value in (min(values), max(values)))
    return f"{' to '.join(ends)} x"


def percent(share: float, digits: int = 0) -> str:
    """`68 %`."""
    return f"{100 * share:.{digits}f} %"


def fold(block: str) -> str:
    if block.startswith(("#", "|", "!", "<", "`" * 3)):
        return block
    fill = {"width": 100, "break_on_hyphens": False, "break_long_words": False}
    if not block.startswith("- "):
        return textwrap.fill(block, **fill)
    points = [" ".join(point.split()) for point in block[2:].split("\n- ")]
    indents = {"initial_indent": "- ", "subsequent_indent": "  "}
    return "\n".join(textwrap.fill(point, **indents, **fill) for point in points)
