"""The headline with which every table, page and comment of a gate starts, such as
`allreduce: 16 KiB 2.5 us (4.5x MPICH), 32 MiB 5.6 GB/s (3.1x)`."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from reports.tables.rows import (
    TOO_FEW,
    TOO_NOISY,
    UNCLEAR,
    SizeRow,
    cost_us,
    default_rows,
    first_rows,
    is_noisy,
    sums_in_software,
    verdict_of,
    views,
)
from reports.tables.sentences import (
    TOKEN_CALL_SIZE_BYTES,
    describe,
    number,
    without_version,
    wrong_text,
)
from wiretax.record.case import key_of
from wiretax.record.chain_links import leads
from wiretax.record.schema import Result
from wiretax.record.stats import Interval
from wiretax.record.wrong import worst_first, wrong_share


@dataclass(frozen=True)
class Point:
    """A figure of the headline; `ratio`: ours is this many times as fast as `other`. A verdict that
    says little, such as `unclear`, stands behind it; what `other` sums in software has none."""

    label: str
    value: float
    unit: str
    ratio: Interval | None = None
    other: str = ""
    in_software: bool = False


def headline(results: Sequence[Any], points_of: Callable[[Any], Sequence[Point]]) -> str:
    """The headline of a run, or of several launches: medians, and ratios that
    are clear if all launches are on one side of 1. Wrong results replace the figures."""
    start = f"{results[-1].run.benchmark}: "
    cases = [case for result in results for case in result.cases]
    # Launches of one plan share its cases; a log may have one case twice.
    if wrong := {(case.case, key_of(case)) for case in cases if case.status == "wrong"}:
        n_cases = len({(case.case, key_of(case)) for case in cases})
        worst = worst_first(cases)[0]
        share = f", {wrong_text(worst)} of its elements" if wrong_share(worst) else ""
        of_all = f"WRONG RESULTS in {len(wrong)} of {n_cases} cases"
        return f"{start}{of_all}, the worst: {describe(worst)}{share}"

    launches = [
        {(point.label, point.unit): point for point in points_of(result)} for result in results
    ]
    texts, named = list[str](), ""

    for key, point in max(launches, key=len).items():
        points = [launch[key] for launch in launches if key in launch]
        text = f"{point.label} {_short(median(each.value for each in points))} {point.unit}"
        known = [each.ratio for each in points if each.ratio]
        ratios = [ratio[0] for ratio in known if not is_noisy(ratio)]
        if known and point.in_software:
            if point.other != named:
                text += f" ({point.other} sums in software: no ratio)"
            named = point.other
        elif known and not ratios:
            text += f" (against {point.other}: {TOO_NOISY})"
        elif ratios:
            other = f" {point.other}" if point.other != named else ""
            verdict = verdict_of(point.ratio)
            if len(ratios) > 1:
                verdict = UNCLEAR if min(ratios) <= 1 <= max(ratios) else None
            doubt = f", {verdict}" if verdict in (TOO_FEW, UNCLEAR) else ""
            text += f" ({_short(median(ratios))}x{other}{doubt})"
            named = point.other
        texts.append(text)

    return start + (", ".join(texts) or "nothing was measured")


def points(result: Result) -> list[Point]:
    """The headline's figures: the time of decode's size, or else of the smallest, and the busbw of
    the largest, which may be in the second view."""
    rows = first_rows(result)
    timed = [row for row in rows if _time_us(row)]
    if not timed:
        return []
    if leads(result):  # a chain has short messages alone
        further = default_rows(result, ("isolated", views(result)[0][1]))
        longest = timed[-1].size_bytes
        timed += [row for row in further if row.size_bytes > longest and cost_us(row.ours)]

    small = next((row for row in timed if row.size_bytes == TOKEN_CALL_SIZE_BYTES), timed[0])
    figures, large = [_point(small)], timed[-1]
    if large is not small and (large.name != large.label or large.size_bytes):
        case = large.ours or large.library
        figures.append(_point(large, case.bus_bw_gb_s if case and not large.skew else None))

    return figures


def _time_us(row: SizeRow) -> float:
    """Our time, or without one the library's; 0 without both."""
    return cost_us(row.ours) or cost_us(row.library) or 0.0


def _point(row: SizeRow, bus_bw_gb_s: float | None = None) -> Point:
    """The row's bus bandwidth, or without one its time."""
    name = without_version(row.library.library if row.library else None)
    unit = "GB/s" if bus_bw_gb_s else "us"
    if cost_us(row.ours) is None:
        unit += f" by {name}"
    value, in_software = bus_bw_gb_s or _time_us(row), sums_in_software(row.library)
    return Point(row.name, value, unit, row.ratio, name, in_software)


def ends(sizes_bytes: Iterable[int]) -> list[int]:
    """Decode's size, or else the smallest, and the largest; [] without sizes."""
    sizes = sorted(sizes_bytes)
    small = [TOKEN_CALL_SIZE_BYTES] if TOKEN_CALL_SIZE_BYTES in sizes else sizes[:1]
    return list(dict.fromkeys([*small, *sizes[-1:]]))


def _short(value: float) -> str:
    """`0.83`, `2.5`, `17` or `8718`; two decimals next to 1."""
    return number(value) if value < 1.95 else f"{value:.{int(value < 9.95)}f}"
