"""The sentence below a run's tables: the verdict against the library."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import groupby

from reports.tables.rows import SizeRow


def against_library(rows: Sequence[SizeRow]) -> list[str]:
    """The verdict against the library."""
    is_auto = {row.ours.algorithm for row in rows if row.ours} <= {"auto"}
    ours = "auto" if is_auto else "the best of ours"
    verdicts = []

    for verdict, sizes in _sizes(rows).items():
        ratios = [row.ratio[0] for row in rows if row.ratio and row.verdict == verdict]
        span = _span(f"{min(ratios):.2f}x", f"{max(ratios):.2f}x")
        verdicts.append(f"{verdict} at {sizes} ({span})")

    sentence = f"Against the library, in this one launch, {ours} is {'; '.join(verdicts)}."
    return [sentence] * bool(verdicts)


def _sizes(rows: Sequence[SizeRow]) -> dict[str, str]:
    """The sizes of the rows with each verdict: `16 KiB to 128 KiB, 4 MiB`."""
    spans: dict[str, list[str]] = defaultdict(list)
    for verdict, of_verdict in groupby(rows, key=lambda row: row.verdict):
        labels = [row.label for row in of_verdict]
        if verdict:
            spans[verdict].append(_span(labels[0], labels[-1]))

    return {verdict: ", ".join(sizes) for verdict, sizes in spans.items()}


def _span(low: str, high: str) -> str:
    return low if low == high else f"{low} to {high}"
