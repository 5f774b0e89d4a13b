"""Generated parts of pages, each between two marks that name its program."""

from collections.abc import Sequence


def with_part(page: str, start: str, part: str, end: str) -> str:
    """The page with this part between its two marks."""
    before, rest = page.split(start)
    return before + start + part + end + rest.split(end)[1]


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
