"""`python -m tests.figures_table` writes the table of a case's figures into docs/results.md, from
their declarations in wiretax/record/schema.py."""

from pathlib import Path

from reports.tables.export import gauges
from tests.marked_pages import with_part
from wiretax.record.schema import FIGURES

PAGE = Path(__file__).parents[1] / "docs" / "results.md"
START, END = "<!-- figures: python -m tests.figures_table -->\n", "<!-- end of figures -->\n"


def table() -> str:
    metrics = {column.removesuffix("_median"): name for name, column, *_ in gauges()}
    rows = [
        f"| `{name}` | {shown.heading} | {shown.meaning} | {_code(metrics.get(name))} |\n"
        for name, shown in FIGURES.items()
    ]
    head = "| field | in tables | what it is | OpenMetrics |\n|---|---|---|---|\n"
    return head + "".join(rows)


def _code(name: str | None) -> str:
    return f"`{name}`" if name else ""


def with_table(page: str) -> str:
    """The page with the table between its two marks."""
    return with_part(page, START, table(), END)


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text()))
