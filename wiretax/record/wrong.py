"""Wrong results: which cases have them, and where."""

from collections.abc import Iterable, Sequence
from operator import attrgetter

from wiretax.common.grouped import grouped
from wiretax.record.schema import Block, Case, End, FirstWrong

FIRST = ", first in "  # between the number of wrong elements and the place, in a case's reason


def describe_wrong(wrong: FirstWrong) -> str:
    """`rank 1 got 13.0 (0x41500000) at offset 1184, element 296; 12.0 (0x41400000) expected`."""
    return (
        f"rank {wrong.rank} {wrong.did} {wrong.got} at offset {wrong.offset_bytes}, "
        f"element {wrong.element}; {wrong.expected} expected"
    )


def row_of_layer(wrong: FirstWrong, case: Case) -> str:
    """The token and the row of the matrix, both from 0 on, whose sum is wrong; "" if it is none."""
    hidden = (case.shape or {}).get("hidden")
    is_sum = case.collective == "gemv_allreduce" and wrong.did == "got"
    if not (is_sum and isinstance(hidden, int) and hidden > 0):
        return ""
    return f" (token {wrong.element // hidden}, row {wrong.element % hidden})"


def where_wrong(blocks: Iterable[Block], cases: Iterable[Case]) -> tuple[int, str] | None:
    """The case and a description of the first wrong element in these blocks, if any."""
    for block in blocks:
        if wrong := block.first_wrong:
            rows = (row_of_layer(wrong, case) for case in cases if case.case == block.case)
            return block.case, f"block {block.block}: {describe_wrong(wrong)}{''.join(rows)}"

    return None


def first_place(case: Case) -> str:
    """Where the first wrong element of a wrong case is, as its reason says; `-` if it does not."""
    return (case.reason or "").partition(FIRST)[2] or "-"


def worst_first(cases: Iterable[Case]) -> list[Case]:
    """The wrong cases, the worst first."""
    wrong = (case for case in cases if case.status == "wrong")
    return sorted(wrong, key=how_wrong, reverse=True)


def how_wrong(case: Case) -> tuple[float, int]:
    """What wrong cases are ordered by: the share of wrong elements, and, where it is unknown, their
    number."""
    return wrong_share(case), case.n_wrong or 0


def wrong_share(case: Case) -> float:
    """The share of the checked elements that are wrong, at most 1: a changed send buffer, or what
    lies around the buffers, counts beside the result. 0 if it is unknown how many were checked, as
    in runs before 2026-12-01 and in logs."""
    return min((case.n_wrong or 0) / case.n_checked, 1.0) if case.n_checked else 0.0


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
            of_all = f" of {case.n_checked}" if case.n_checked else ""
            case.reason = f"{n_wrong}{of_all} elements were wrong"
            if place := where_wrong(own, [case]):
                case.reason += f"{FIRST}{place[1]}"
