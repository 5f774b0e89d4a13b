"""What a matmul and a collective lose to each other (`--footprint`): a table and a sentence for
each shape. Times are of the timed work alone; a ratio is by round."""

from collections.abc import Sequence

from rich.table import Table

from reports.tables.rows import ratio_text
from reports.tables.sentences import number, plain_table, without_version, wrong_text
from wiretax.record.case import BESIDE, COLLECTIVE_ALONE, COMPUTE, COMPUTE_BESIDE, alone_of
from wiretax.record.schema import Case, Summary

HEADINGS = "", "alone us", "beside us", "beside / alone [95 %]", "#wrong"


def footprint_of(cases: Sequence[Case]) -> list[tuple[Case, Case, Summary]]:
    """Each case that ran beside other work, its case alone, and the ratio of their times."""
    measured = {case.algorithm: case for case in cases if case.status == "ok"}
    return [
        (case, measured[alone_of(case.algorithm) or ""], case.beside_ratio)
        for case in measured.values()
        if case.beside_ratio
    ]


def is_footprint(case: Case) -> bool:
    """Whether it is a collective alone, or work beside other work, which is no form of a layer."""
    return case.algorithm.startswith((COLLECTIVE_ALONE, BESIDE, COMPUTE_BESIDE))


def other_of(case: Case) -> str:
    """The collective of such a case: what `auto` chose, or the library."""
    return without_version(case.library) if case.library else (case.chosen or "auto")


def is_matmul(case: Case) -> bool:
    """Whether what was timed beside the other is the matmul."""
    return alone_of(case.algorithm) == COMPUTE


def name_of(case: Case) -> str:
    collective = other_of(case)
    return f"matmul beside {collective}" if is_matmul(case) else f"{collective} beside the matmul"


def table_of(cases: Sequence[Case]) -> Table | None:
    """A row for each case that ran beside other work; None without one."""
    rows = [
        [name_of(case), _time(alone), _time(case), _ratio(ratio), wrong_text(case)]
        for case, alone, ratio in footprint_of(cases)
    ]
    return plain_table(HEADINGS, rows) if rows else None


def sentence_of(cases: Sequence[Case]) -> str:
    """The ratios in words."""
    said = [f"{name_of(case)} {_ratio(ratio)}" for case, _, ratio in footprint_of(cases)]
    return f"times as long as alone: {', '.join(said)}."


def _time(case: Case) -> str:
    return number(case.time_us.median if case.time_us else None)


def _ratio(ratio: Summary) -> str:
    return ratio_text((ratio.median, ratio.ci_low, ratio.ci_high))
