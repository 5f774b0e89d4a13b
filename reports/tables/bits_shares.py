"""What changes the bits of rows of a record of bench.bits, and in which share of the elements."""

from collections import Counter
from collections.abc import Sequence
from statistics import fmean

from reports.tables.sentences import counted
from wiretax.record.bits_record import INVARIANCES, Difference, SubjectBits


def changes(row: SubjectBits) -> tuple[str, ...]:
    """What changes the bits of a row, by the names of INVARIANCES."""
    return tuple(
        name for name, sizes in row.differences.items() if any(each.differ for each in sizes)
    )


def steady_in(rows: Sequence[SubjectBits]) -> list[str]:
    """What was compared and changes the bits of no row, and in how many rows, if not in all."""
    times = Counter(name for row in rows for name in row.differences)
    return [
        name + (f" (compared in {times[name]} of {len(rows)})" if times[name] < len(rows) else "")
        for name in INVARIANCES
        if times[name] and name not in changing_in(rows)
    ]


def changing_in(rows: Sequence[SubjectBits]) -> list[str]:
    """What changes the bits of some row."""
    return [name for name in INVARIANCES if any(name in changes(row) for row in rows)]


def share_of(sizes: Sequence[Difference]) -> float:
    """The mean over the sizes of the share of elements that differ."""
    return fmean(each.differ / each.elements for each in sizes)


def share_text(name: str, sizes: Sequence[Difference], noun: str = "size") -> str:
    """`same`, `2 of 17 sizes` and below it `31 % 8 ULP`, of launches the first alone, or `-` for
    what was not compared. Each size counts the same: the share may depend on it."""
    if not sizes:
        return "-"
    differ = [each for each in sizes if each.differ]
    if not differ:
        return "same"
    at = f"{len(differ)} of {counted(len(sizes), noun)}"
    return at if name == "launch" else f"{at}\n{amount_text(sizes)}"


def amount_text(sizes: Sequence[Difference]) -> str:
    """`31 % 8 ULP`."""
    percent = 100 * share_of(sizes)
    most = max(each.ulp for each in sizes)
    ulp = str(most) if most < 10_000 else f"{most:.0e}".replace("e+0", "e")
    return f"{'<1' if percent < 0.5 else f'{percent:.0f}'} % {ulp} ULP"
