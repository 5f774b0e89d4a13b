"""Wrong results: which cases have them, and where."""

from collections.abc import Iterable, Sequence
from operator import attrgetter

from wiretax.common.grouped import grouped
from wiretax.record.schema import Block, Case, End, FirstWrong


def describe_wrong(wrong: FirstWrong) -> str:
    """`rank 1 got 13.0 (0x41500000) at offset 1184, element 296; 12.0 (0x41400000) expected`."""
    return (
        f"rank {wrong.rank} {wrong.did} {wrong.got} at offset {wrong.offset_bytes}, "
        f"element {wrong.element}; {wrong.expected} expected"
    )


def where_wrong(blocks: Iterable[Block]) -> tuple[int, str] | None:
    """The case and a description of the first wrong element in these blocks, if any."""
    for block in blocks:
        if block.first_wrong:
            return block.case, f"block {block.block}: {describe_wrong(block.first_wrong)}"

    return None


def mark_wrong(cases: Sequence[Case], blocks: Sequence[Block], *ends: End) -> None:
    """Makes each case wrong for which it or any block, counted or not, counts a wrong element; and
    all cases if only an end does, because none is proven right."""
    wrong_of = grouped(
        (block for block in blocks if block.n_wrong or block.first_wrong), attrgetter("case")
    )

    for end in ends:
        if end.n_wrong and not (wrong_of or any(case.n_wrong for case in cases)):
            for case in cases:
                case.n_wrong = end.n_wrong

    for case in cases:
        own = wrong_of.get(case.case, [])
        n_wrong = max(case.n_wrong or 0, sum(block.n_wrong or 1 for block in own))
        if n_wrong and case.status != "wrong":
            case.status, case.n_wrong = "wrong", n_wrong
            case.reason = f"{n_wrong} elements were wrong"
            if place := where_wrong(own):
                case.reason += f", first in {place[1]}"
