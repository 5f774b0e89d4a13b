"""How docs/answer.md prints tables, rates and sources."""

import textwrap
from collections.abc import Iterable, Sequence

from reports.references.published import PublishedCall, PublishedServing
from tests.references_page import address


def change(before: float | None, after: float | None) -> str:
    """`99.3 to 116.5, 1.17 x`."""
    if not before or not after:
        return ""
    return f"{rate_text(before)} to {rate_text(after)}, {after / before:.2f} x"


def rate_text(tok_s: float | None) -> str:
    """`99.3`, `3344`: four digits at least, of the printed ones."""
    assert tok_s
    return f"{tok_s:.4g}" if tok_s < 1000 else f"{tok_s:.0f}"


def sources(rows: Sequence[PublishedCall | PublishedServing]) -> str:
    """Links to the sources of these rows, each by its owner."""
    owner = rows[0].source.partition("/")[0]
    names = dict.fromkeys(dict.fromkeys(row.source for row in rows), owner)
    for place, source in enumerate(names, 1):
        if place > 1:  # of the same owner
            names[source] = str(place)
    return " ".join(f"[{name}]({address(source)})" for source, name in names.items())


def markdown_table(heading: str, rows: Iterable[Sequence[str]]) -> str:
    head = [f"| {heading} |", "|---" * (heading.count("|") + 1) + "|"]
    return "\n".join([*head, *(f"| {' | '.join(row)} |" for row in rows)])


def fold(block: str) -> str:
    if block.startswith(("#", "|", "!")):
        return block
    fill = {"width": 100, "break_on_hyphens": False, "break_long_words": False}
    if not block.startswith("- "):
        return textwrap.fill(block, **fill)
    points = [" ".join(point.split()) for point in block[2:].split("\n- ")]
    indents = {"initial_indent": "- ", "subsequent_indent": "  "}
    return "\n".join(textwrap.fill(point, **indents, **fill) for point in points)
