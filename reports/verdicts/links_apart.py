"""Whether the links that were taken off the calls of chains differ between two sides: what is then
seen of the calls may be the links.

A link runs alone while it is timed, and on a shared card it can then take longer than in its chain:
where it did so on one side, calls that were 10 % slower seemed 13 % faster."""

from math import inf
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr

from reports.tables.sentences import number, size_text, some
from reports.verdicts.sides import Side
from wiretax.common.grouped import grouped
from wiretax.record.case import CASE_KEY, Key, key_of
from wiretax.record.chain_links import ROW_FIELDS

LINKS_P = 0.05  # of a false alarm, by Bonferroni's rule over the rows


class Row(NamedTuple):
    """What the chains of a size show on one side: the links in us that were taken off their calls,
    one a launch, and the shortest of these calls."""

    links_us: list[float]
    shortest_us: float


def links_apart(baseline: Side, variant: Side, margin: float) -> list[str]:
    """A sentence on the links that differ by more than this share of the shortest of their calls,
    and one on links that only some launches measured."""
    theirs, ours = rows_of(baseline), rows_of(variant)
    common = theirs.keys() & ours.keys()
    apart = dict[float, str]()  # by the share
    for key in common:
        their_us, our_us = (float(np.median(side[key].links_us)) for side in (theirs, ours))
        shortest_us = min(theirs[key].shortest_us, ours[key].shortest_us)
        share = abs(our_us - their_us) / shortest_us
        p = rank_p(theirs[key].links_us, ours[key].links_us)
        if share > margin and p < LINKS_P / len(common):
            apart[share] = (
                f"{number(their_us)} us in {baseline.label} and {number(our_us)} us in "
                f"{variant.label} at {size_of(key)}, a difference of {share:.1%} of a call"
            )
    faults = links_on_one_side(baseline, variant)
    if apart:
        faults.append(
            "the links of the chains, without which their calls are shown, took "
            f"{apart[max(apart)]}: whether the calls or the links have changed is unknown"
        )
    return faults


def links_on_one_side(baseline: Side, variant: Side) -> list[str]:
    """A sentence if calls of some size have their links in some launches, and not in others."""
    taken_off = dict[Key, set[bool]]()
    for launch in (*baseline.launches, *variant.launches):
        for case in launch.cases:
            if case.mode == "chained" and case.time_us:
                found = taken_off.setdefault(key_of(case, ROW_FIELDS), set())
                found.add(case.with_link_us is not None)
    sizes = {size_of(key) for key, found in taken_off.items() if len(found) > 1}
    if not sizes:
        return []
    return [
        f"chains of {some(sorted(sizes))} have their links in the calls of some launches, and not "
        "of others: their times are no comparison"
    ]


def rows_of(side: Side) -> dict[Key, Row]:
    """The rows of a side's chains without links, by what the cases of a row share."""
    rows = dict[Key, Row]()
    for launch in side.launches:
        measured = [case for case in launch.cases if case.with_link_us]
        for key, cases in grouped(measured, lambda case: key_of(case, ROW_FIELDS)).items():
            links_us = [case.chain_only_us.median for case in cases if case.chain_only_us]
            calls_us = [case.total_us.median for case in cases if case.total_us]
            if links_us and calls_us:
                row = rows.get(key, Row([], inf))
                shortest_us = min(row.shortest_us, *calls_us)
                rows[key] = Row([*row.links_us, links_us[-1]], shortest_us)
    return rows


def size_of(key: Key) -> str:
    return size_text(key[CASE_KEY.index("size_bytes")])


def rank_p(first: list[float], second: list[float]) -> float:
    """The p-value of both having one distribution: the normal approximation of Mann and Whitney's
    test (Annals of Mathematical Statistics 18, 1947)."""
    n, m = len(first), len(second)
    differences = np.subtract.outer(second, first)
    u = np.sum(differences > 0) + np.sum(differences == 0) / 2
    z = (u - n * m / 2) / np.sqrt(n * m * (n + m + 1) / 12)
    return float(2 * ndtr(-abs(z)))
