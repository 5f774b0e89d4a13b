"""The line below the first table on a tail that is worth a look."""

from collections.abc import Iterable

from reports.tables.rows import SizeRow
from reports.tables.sentences import EVEN_RATIO, algorithm_of
from wiretax.record.case import is_own_work
from wiretax.record.schema import Case, Result
from wiretax.record.tails import LEAST_BEYOND, steps_of_case

LEAST_SHARE = 1 / 1000  # of slow steps: of calls, they hit 15 % of the tokens of 160 calls


def tail_line(result: Result, rows: Iterable[SizeRow]) -> list[str]:
    """The sentence on the case of these rows whose slow steps add most to its time: `1 MiB: 1 call
    in 90 takes 4 x the median`. By the low end of their share they are at least LEAST_SHARE, and
    add as much as makes two costs uneven; and there are LEAST_BEYOND of them."""
    found = list[tuple[float, str]]()
    for row in rows:
        for case in (row.ours, row.library, *(each.case for each in row.named.values())):
            share = case.slow_share if case else None
            if not case or not share or (share.ci_low or 0) < LEAST_SHARE:
                continue
            if round(share.value * (case.n_steps or 0)) < LEAST_BEYOND:
                continue

            times = slow_over_median(result, case, share.value)
            added = (share.ci_low or 0) * (times - 1)
            if added > EVEN_RATIO - 1:
                name = "" if case is row.ours else f", {case.library or algorithm_of(case)}"
                step = "step" if is_own_work(case) else "call"
                if case.calls > 1:
                    step = "chain"
                one = f"1 {step} in {1 / share.value:.0f}"
                told = f"takes {float(f'{times:.2g}'):g} x the median (see --long)"
                found.append((added, f"tail: {row.label}{name}: {one} {told}"))
    return [max(found)[1]] if found else []


def slow_over_median(result: Result, case: Case, share: float) -> float:
    """How many times the median the middle one of this share of slow steps takes."""
    steps = steps_of_case(result, case.case)
    middle_us = steps.quantile_us(0.5) if steps else 0.0
    return steps.quantile_us(1 - share / 2) / middle_us if steps and middle_us else 1.0
