"""Lays out text for a terminal or a file. Bold and colour appear only if standard output is a
terminal and NO_COLOR is unset."""

import io
import os
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from reports.store.schema import Result
from reports.tables.sentences import opening

WIDTH = 80
# The headings of columns with words.
LEFT = ("", "algorithm", "variant", "mode", "place", "status", "collective", "type", "redop",
        "best", "next", "winner")


def wrapped(sentences: Sequence[str]) -> list[str]:
    """The sentences in lines of at most 80 columns; a longer path is not broken."""
    wrapper = textwrap.TextWrapper(WIDTH, break_on_hyphens=False, break_long_words=False)
    return [line for sentence in sentences for line in wrapper.wrap(sentence)]


def plain_table(columns: Mapping[str, int], rows: Iterable[Iterable[str | Text]] = (),
                gap: int = 1) -> Table:
    """A table without lines from the headings with their least widths, and the cells of each row.
    Columns of words are left-aligned."""
    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
    for heading, width in columns.items():
        table.add_column(heading, justify="left" if heading.strip() in LEFT else "right",
                         no_wrap=True, min_width=width, vertical="bottom")
    for cells in rows:
        table.add_row(*cells)
    return table


def lay_out(result: Result | None, head: Iterable[str], tables: Iterable[tuple[str, Table]],
            sentences: Iterable[str], width: int = WIDTH) -> str:
    """The text of a run: its warnings in bold (none without `result`), the head, each table under
    its title, and the sentences; ends with a newline."""
    text = io.StringIO()
    console = Console(file=text, width=width, highlight=False, markup=False, emoji=False,
                      force_terminal=sys.stdout.isatty() and not os.environ.get("NO_COLOR"))
    for line in opening(result) if result else ():
        # Scripts search for the rank that stopped first: its line stays whole.
        console.print(line, style="bold", soft_wrap=line.startswith("stopped first"))
    for line in head:
        console.print(line)
    for title, table in tables:
        console.print(f"\n{title}" if title else "")
        console.print(table)
    console.print()
    for line in sentences:
        console.print(line)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()).strip("\n") + "\n"
