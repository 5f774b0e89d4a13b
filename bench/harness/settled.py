"""Shows the figures of a size as soon as they settle, before there is a table; on rank 0."""

from collections.abc import Iterator, Sequence
from statistics import median

from bench.harness.suite import Suite
from reports.store.case import paired
from reports.store.schema import Block
from reports.store.stats import median_interval

LEAST_ROUNDS = 3
SETTLED = 0.1  # half the width of the bracket beside a ratio, of the ratio


def settled_sizes(suite: Suite, blocks: Sequence[Block], shown: set[str]) -> Iterator[str]:
    """A line for each size at which the library's time over auto's has settled. `shown` holds the
    places of earlier lines and gets the new ones. The bracket is the 95 % interval, and before six
    rounds the range. The table is more exact: it leaves out blocks in other states of the link."""
    from reports.tables.headline import without_version  # not at the top: other ranks show none
    from reports.tables.sentences import number, size_text

    costs_us: dict[int, dict[int, float]] = {}
    for block in blocks:
        if block.cost_us > 0:
            costs_us.setdefault(block.case, {})[block.round] = block.cost_us
    places: dict[str, dict[str, list[int]]] = {}
    has_types = len({(header.datatype, header.redop) for header in suite.headers}) > 1
    for case in costs_us:
        header = suite.headers[case]
        if header.mode == "isolated" and len(costs_us[case]) >= LEAST_ROUNDS:
            words = [size_text(header.size_bytes)]
            words += [header.datatype, header.redop] * has_types
            words += ["in place"] * header.in_place
            words += [f"{name} {value}" for name, value in (header.shape or {}).items()]
            places.setdefault(" ".join(words), {}).setdefault(header.algorithm, []).append(case)
    for place, cases in places.items():
        if place in shown or not {"library", "auto"} <= cases.keys():
            continue
        # Of several variants, the fastest.
        rivals = [min(cases[name], key=lambda case: median(costs_us[case].values()))
                  for name in ("library", "auto")]
        costs = paired(*(costs_us[case] for case in rivals))
        if costs.shape[1] < LEAST_ROUNDS:
            continue
        ratios = costs[0] / costs[1]
        ratio, low, high = median_interval(ratios)
        low, high = low or ratios.min(), high or ratios.max()
        if (high - low) / 2 <= SETTLED * ratio:
            shown.add(place)
            library = without_version(suite.headers[rivals[0]].library)
            library_us, auto_us = (number(median(costs_us[case].values())) for case in rivals)
            yield (f"{place}: {library} {library_us} us, auto {auto_us} us, {number(ratio)}x "
                   f"[{number(low)} {number(high)}] after {costs.shape[1]} rounds")
