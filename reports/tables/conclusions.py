"""The sentences below a run's tables: marks, and the verdict against the library."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import groupby

from reports.tables import sentences
from reports.tables.rows import SUSPECT, SizeRow, percent_text


def against_library(rows: Sequence[SizeRow]) -> list[str]:
    """The verdict against the library."""
    is_auto = {row.ours.algorithm for row in rows if row.ours} <= {"auto"}
    ours = "auto" if is_auto else "the best of ours"
    verdicts = []

    for verdict, sizes in _sizes(rows, [row.verdict for row in rows]).items():
        ratios = [row.ratio[0] for row in rows if row.ratio and row.verdict == verdict]
        span = _span(f"{min(ratios):.2f}x", f"{max(ratios):.2f}x")
        verdicts.append(f"{verdict} at {sizes} ({span})")

    sentence = f"Against the library, in this one launch, {ours} is {'; '.join(verdicts)}."
    return [sentence] if verdicts else []


def cost_of_stable_bits(rows: Sequence[SizeRow]) -> list[str]:
    """What `auto_stable` costs at most, and where it costs anything; nothing without it."""
    clear = {row.label: cost for row in rows if (cost := row.stable_cost) and cost.is_clear}
    if not clear:
        is_known = any(row.stable_cost for row in rows)
        nothing = "Stable bits (auto_stable) cost nothing that this launch shows."
        return [nothing] if is_known else []

    label, most = max(clear.items(), key=lambda item: item[1].ratio[0])
    sizes = _sizes(rows, ["clear" if row.label in clear else None for row in rows])["clear"]
    return [
        f"Stable bits (auto_stable) cost up to {percent_text(most.ratio)} %, "
        f"{sentences.number(most.us)} us, against {most.against} at {label}; more than chance at "
        f"{sizes}."
    ]


def marks(rows: Sequence[SizeRow]) -> list[str]:
    """The footnotes of the marks in these rows."""
    better = [
        f"{sentences.spoken(row.better[0])} at {row.label} ({row.better[1]:.2f}x)"
        for row in rows
        if row.better
    ]
    lines = ["* another variant beat auto by more than 5 %: " + sentences.some(better, 4)]
    return lines * bool(better) + [SUSPECT] * any(row.ours and row.ours.suspect for row in rows)


def _sizes(rows: Sequence[SizeRow], names: Iterable[str | None]) -> dict[str, str]:
    """The sizes of the rows with each name: `16 KiB to 128 KiB, 4 MiB`."""
    spans: dict[str, list[str]] = defaultdict(list)
    for name, pairs in groupby(zip(names, rows, strict=True), key=lambda pair: pair[0]):
        labels = [row.label for _, row in pairs]
        if name:
            spans[name].append(_span(labels[0], labels[-1]))

    return {name: ", ".join(of_name) for name, of_name in spans.items()}


def _span(low: str, high: str) -> str:
    return low if low == high else f"{low} to {high}"
