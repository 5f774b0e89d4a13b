"""The table of a run of `bench.tune`: the best candidate for each size, variant and mode, as the
search stored them."""

from reports.tables.headline import Point, ends, headline
from reports.tables.rows import ratio_text
from reports.tables.run_text import opening, wrong_tables
from reports.tables.sentences import lay_out, number, plain_table, size_text
from wiretax.common.grouped import grouped
from wiretax.record.schema import Result, Winner

NOTES = [
    "what auto takes, in us of a call with reading the result; ?: a second launch must confirm",
    "gain: untuned auto over this, in rounds that did not choose; -: auto stays",
]
NO_WINNER = "no winner: the run ended before its search did"
HEADINGS = ["size", "variant", "us", "best", "gain [95 %]"]


def render(result: Result) -> str:
    """A table for each mode with a line for each size and variant; ends with a newline."""
    head, tables = NOTES, wrong_tables(result.cases)
    for calls in sorted({winner.mode for winner in result.winners}, reverse=True):
        rows = [cells_of(winner) for winner in result.winners if winner.mode == calls]
        tables.append((calls, plain_table(HEADINGS, rows)))
    if not result.winners:
        head = [NO_WINNER]

    return lay_out([*opening(result), headline([result], points)], head, tables, [])


def cells_of(winner: Winner) -> list[str]:
    """What stands under HEADINGS."""
    return [
        size_text(winner.size_bytes),
        winner.variant,
        number(winner.cost_us),
        winner.name if winner.is_confirmed else f"{winner.name}; {winner.candidate}?",
        ratio_text(winner.gain) if winner.is_settled else "too few rounds",
    ]


def points(result: Result) -> list[Point]:
    """The headline's figures: the best of one variant and mode at the first and the last of `ends`,
    and its gain; of a size with a quantised one too, the exact one, which stands before."""
    found = grouped(result.winners, lambda winner: (winner.mode != "isolated", winner.variant))
    alike = found[min(found)] if found else []
    best = {winner.size_bytes: winner for winner in reversed(alike)}
    return [
        Point(
            f"{size_text(each.size_bytes)} {each.variant} {each.mode}",
            each.cost_us,
            "us",
            each.gain if each.is_confirmed else None,
            "untuned",
        )
        for each in map(best.__getitem__, ends(best))
    ]
