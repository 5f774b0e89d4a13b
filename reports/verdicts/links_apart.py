"""Whether the links that were taken off the calls of chains differ between two sides: what is then
seen of the calls may be the links.

A link runs alone while it is timed, and on a shared card it can then take longer than in its chain:
where it did so on one side, calls that were 10 % slower seemed 13 % faster."""

from math import inf

import numpy as np
from scipy.special import ndtr

from reports.tables.sentences import number, size_text, some
from reports.verdicts.sides import Side
from wiretax.record.case import CASE_KEY, Key, key_of
from wiretax.record.chain_links import ROW_FIELDS

LINKS_P = 0.05  # of a false alarm, by Bonferroni's rule over the rows


def links_apart(baseline: Side, variant: Side, margin: float) -> list[str]:
    """A sentence on the links that differ by more than this share of the shortest of their calls,
    and one on links that only some launches measured."""
    theirs, ours = links_of(baseline), links_of(variant)
    their_calls_us, our_calls_us = calls_of(baseline), calls_of(variant)
    rows = theirs.keys() & ours.keys()
    apart = list[tuple[float, str]]()
    for row in rows:
        their_us, our_us = (float(np.median(links[row])) for links in (theirs, ours))
        share = abs(our_us - their_us) / min(their_calls_us[row], our_calls_us[row])
        if share > margin and rank_p(theirs[row], ours[row]) < LINKS_P / len(rows):
            size = size_text(row[CASE_KEY.index("size_bytes")])
            apart.append(
                (
                    share,
                    f"{number(their_us)} us in {baseline.label} and {number(our_us)} us in "
                    f"{variant.label} at {size}, a difference of {share:.1%} of a call",
                )
            )
    faults = links_on_one_side(baseline, variant)
    if apart:
        faults.append(
            f"the links of the chains, without which their calls are shown, took {max(apart)[1]}: "
            "whether the calls or the links have changed cannot be told"
        )
    return faults


def links_on_one_side(baseline: Side, variant: Side) -> list[str]:
    """A sentence if calls of some size have their links in some launches, and not in others."""
    is_without = dict[Key, set[bool]]()
    for launch in (*baseline.launches, *variant.launches):
        for case in launch.cases:
            if case.mode == "chained" and case.time_us:
                row = key_of(case, ROW_FIELDS)
                is_without.setdefault(row, set()).add(case.with_link_us is not None)
    sizes = {
        size_text(row[CASE_KEY.index("size_bytes")])
        for row, found in is_without.items()
        if len(found) > 1
    }
    if not sizes:
        return []
    return [
        f"chains of {some(sorted(sizes))} have their links in the calls of some launches, and not "
        "of others: their times are no comparison"
    ]


def links_of(side: Side) -> dict[Key, list[float]]:
    """The links in us that were taken off, one a launch, by what its cases share."""
    links: dict[Key, list[float]] = {}
    for launch in side.launches:
        of_launch = {
            key_of(case, ROW_FIELDS): case.chain_only_us.median
            for case in launch.cases
            if case.with_link_us and case.chain_only_us
        }
        for row, link_us in of_launch.items():
            links.setdefault(row, []).append(link_us)
    return links


def calls_of(side: Side) -> dict[Key, float]:
    """The shortest call in us of those that share a link."""
    shortest_us = dict[Key, float]()
    for launch in side.launches:
        for case in launch.cases:
            if case.with_link_us and case.total_us:
                row = key_of(case, ROW_FIELDS)
                shortest_us[row] = min(case.total_us.median, shortest_us.get(row, inf))
    return shortest_us


def rank_p(first: list[float], second: list[float]) -> float:
    """The p-value of both having one distribution: the normal approximation of Mann and Whitney's
    test (Annals of Mathematical Statistics 18, 1947)."""
    n, m = len(first), len(second)
    differences = np.subtract.outer(second, first)
    u = np.sum(differences > 0) + np.sum(differences == 0) / 2
    z = (u - n * m / 2) / np.sqrt(n * m * (n + m + 1) / 12)
    return float(2 * ndtr(-abs(z)))
