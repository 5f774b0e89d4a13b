"""Shows figures before the table, on rank 0: after the first round, and for each size as soon as
its figures settle."""

from collections.abc import Iterator, Sequence
from statistics import median

from bench.harness.suite import Suite
from reports.store.case import RoundCosts, costs_in, paired
from reports.store.schema import Block
from reports.store.stats import median_interval
from reports.tables.headline import without_version
from reports.tables.sentences import number, size_text

LEAST_ROUNDS = 3
SETTLED = 0.1  # half the width of the bracket beside a ratio, of the ratio


def first_figures(suite: Suite, blocks: Sequence[Block]) -> str:
    """The figures of the first and the last size after one round; empty without both sides."""
    costs_us = costs_in(blocks, [0] * len(blocks), 0)
    texts = [
        _figures(suite, costs_us, place, cases) for place, cases in _fastest(suite, costs_us, 1)
    ]
    ends = "; ".join(dict.fromkeys(texts[:1] + texts[-1:]))
    return f"so far, after 1 round: {ends}" if ends else ""


def settled_sizes(suite: Suite, blocks: Sequence[Block], shown: set[str]) -> Iterator[str]:
    """A line for each size at which the library's time over auto's has settled. `shown` holds the
    places of earlier lines and gets the new ones. The bracket is the 95 % interval, and before six
    rounds the range. The table is more exact: it leaves out blocks in other states of the link."""
    costs_us = costs_in(blocks, [0] * len(blocks), 0)
    for place, cases in _fastest(suite, costs_us, LEAST_ROUNDS):
        costs = paired(*(costs_us[case] for case in cases))
        if place in shown or costs.shape[1] < LEAST_ROUNDS:
            continue
        ratios = costs[0] / costs[1]
        ratio, low, high = median_interval(ratios)
        low, high = low or ratios.min(), high or ratios.max()
        if (high - low) / 2 <= SETTLED * ratio:
            shown.add(place)
            yield (
                f"{_figures(suite, costs_us, place, cases)}, {number(ratio)}x "
                f"[{number(low)} {number(high)}] after {costs.shape[1]} rounds"
            )


def _fastest(suite: Suite, costs_us: RoundCosts, rounds: int) -> Iterator[tuple[str, list[int]]]:
    """The numbers of the library's fastest case and of auto's, for each size, type and place where
    both have at least `rounds` rounds; first the words for these."""
    places: dict[str, dict[str, list[int]]] = {}
    has_types = len({(header.datatype, header.redop) for header in suite.headers}) > 1
    for case in sorted(costs_us):
        header = suite.headers[case]
        if header.mode == "isolated" and len(costs_us[case]) >= rounds:
            words = [size_text(header.size_bytes)]
            words += [header.datatype, header.redop] * has_types
            words += ["in place"] * header.in_place
            words += [f"{name} {value}" for name, value in (header.shape or {}).items()]
            places.setdefault(" ".join(words), {}).setdefault(header.algorithm, []).append(case)
    for place, cases in places.items():
        if {"library", "auto"} <= cases.keys():
            yield (
                place,
                [
                    min(cases[name], key=lambda case: median(costs_us[case].values()))
                    for name in ("library", "auto")
                ],
            )


def _figures(suite: Suite, costs_us: RoundCosts, place: str, cases: Sequence[int]) -> str:
    library_us, auto_us = (number(median(costs_us[case].values())) for case in cases)
    library = without_version(suite.headers[cases[0]].library)
    return f"{place}: {library} {library_us} us, auto {auto_us} us"
