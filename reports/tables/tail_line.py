"""The line below the first table on a tail that is worth a look; and below the long one, where a
chain has another tail than its calls would give it."""

from collections.abc import Iterable
from operator import attrgetter, itemgetter

from reports.tables.rows import SizeRow, own_words
from reports.tables.sentences import EVEN_RATIO, algorithm_of, describe, type_text
from reports.tables.slow_steps import step_word, why_slow
from wiretax.common.grouped import grouped
from wiretax.record.case import key_of
from wiretax.record.chain_tails import chain_beside_calls
from wiretax.record.schema import Case, Result
from wiretax.record.tails import LEAST_BEYOND, LEAST_SLOW_SHARE, steps_of_case


def tail_line(result: Result, rows: Iterable[SizeRow]) -> list[str]:
    """The sentences below a table."""
    told = worst_tail(result, rows)
    return [f"{told[0]} (see --long)", *told[1:]] if told else []


def worst_tail(result: Result, rows: Iterable[SizeRow]) -> list[str]:
    """The sentence on the case of these rows whose slow steps add most to its time: `1 MiB: 1 call
    in 90 takes 4 x the median`, with the words of a later table's title. By the low end of their
    share they are at least LEAST_SLOW_SHARE, and add as much as makes two costs uneven; and there
    are LEAST_BEYOND of them. A second sentence says why, if the run tells."""
    found = list[tuple[float, str, Case]]()
    for row in rows:
        for case in (row.ours, row.library, *(each.case for each in row.named.values())):
            share = case.slow_share if case else None
            if not case or not share or (share.ci_low or 0) < LEAST_SLOW_SHARE:
                continue
            if round(share.value * (case.n_steps or 0)) < LEAST_BEYOND:
                continue

            times = slow_over_median(result, case, share.value)
            added = (share.ci_low or 0) * (times - 1)
            if added > EVEN_RATIO - 1:
                words = [] if case is row.ours else [case.library or algorithm_of(case)]
                words += own_words(result, case.shape)
                if type_text(case) != type_text(result.cases[0]):
                    words.append(type_text(case))
                one = f"1 {step_word(case)} in {1 / share.value:.0f}"
                told = f"takes {float(f'{times:.2g}'):g} x the median"
                name = ", ".join([row.label, *words])
                found.append((added, f"tail: {name}: {one} {told}", case))
    if not found:
        return []

    _, said, case = max(found, key=itemgetter(0))
    why = why_slow(result, case)
    return [said, f"why: {why}"] if why else [said]


def slow_over_median(result: Result, case: Case, share: float) -> float:
    """How many times the median the middle one of this share of slow steps takes."""
    steps = steps_of_case(result, case.case)
    middle_us = steps.quantile_us(0.5) if steps else 0.0
    return steps.quantile_us(1 - share / 2) / middle_us if steps and middle_us else 1.0


def chain_lines(result: Result) -> list[str]:
    """A sentence for each case of both modes, which ran one algorithm in them, whose chains have
    another tail than its calls would give them."""
    blocks = grouped(result.blocks, attrgetter("case"))
    calls = {
        (key_of(case, ("mode",)), case.chosen): case for case in result.cases if case.calls == 1
    }
    lines = []
    for chain in result.cases:
        single = calls.get((key_of(chain, ("mode",)), chain.chosen))
        if single and chain.calls > 1 and {single.case, chain.case} <= blocks.keys():
            of_both = blocks[single.case], blocks[chain.case]
            if told := chain_beside_calls(*of_both, chain.calls):
                lines.append(f"{describe(chain)}: {told}")
    return lines
