"""Warnings on sides whose medians are no ground for a verdict, which fail nothing: a variant that
is so much faster that it probably does no work, and one with more blocks that take many times as
long, which a median does not show."""

from collections.abc import Collection

import numpy as np
import pandas as pd

from reports.tables.sentences import number, some
from reports.verdicts.match import Match
from reports.verdicts.sides import titles_of
from reports.verdicts.tail_warning import has_worse_tail
from reports.verdicts.verdict import Floats
from wiretax.record.case import key_of

# A better algorithm or vector instructions gain less; a command that does no work gains more.
TOO_FAST = 20
STALLED = 10  # times the median of the baseline's blocks: no noise of a quiet machine


def implausible(found: Match, cells: pd.DataFrame, among: Collection[str]) -> list[str]:
    """A sentence on the cells that are TOO_FAST, and one on those of the titles `among` that have
    more stalled blocks than the baseline, where there are any."""
    fast = cells[cells.ratio < 1 / TOO_FAST].sort_values("ratio")
    said = list[str]()
    if len(fast):
        times = f"{number(1 / fast.ratio.iloc[0])} times as fast"
        said.append(
            f"suspect: {found.variant.label} is up to {times} in {some([*fast.title])}: check that "
            "it does the same work"
        )
    if found.quantile or found.is_growing:
        return said

    shares = stalled_shares(found)
    is_worse = has_worse_tail(shares)
    titles = titles_of([*found.cases.values()])
    told = [
        f"{titles[place]} {variant:.0%} ({found.baseline.label} {base:.0%})"
        for place, (base, variant) in enumerate(mean_of(shares))
        if is_worse[place] and titles[place] in among
    ]
    if told:
        said.append(
            f"stalls: more blocks of {found.variant.label} take over {STALLED} x the median of "
            f"{found.baseline.label}: {some(told)}; not judged: the gate takes a launch's median"
        )
    return said


def stalled_shares(found: Match) -> Floats:
    """The share of the blocks of each common case that are stalled, in the launches of each pair:
    (cases, pairs, 2). NaN of a launch without a block of it.

    One limit for all pairs of a case: by a pair's own baseline, a slow launch would count against
    the variant alone, and of equal sides never against the baseline."""
    shares = np.full((len(found.cases), len(found.judged.pairs), 2), np.nan)
    places = {key: place for place, key in enumerate(found.cases)}
    of_pairs = list[list[dict[int, Floats]]]()
    for pair in found.judged.pairs:
        blocks = [dict[int, Floats](), dict[int, Floats]()]
        for own, launch in zip(blocks, pair, strict=True):
            for case in launch.cases:
                costs_us = launch.counted.costs_us.get(case.case)
                if costs_us and (place := places.get(key_of(case, found.without))) is not None:
                    own[place] = np.array([*costs_us.values()])
        of_pairs.append(blocks)

    for place in range(len(found.cases)):
        medians_us = [np.median(base[place]) for base, _ in of_pairs if place in base]
        limit_us = STALLED * np.median(medians_us) if medians_us else np.inf
        for number_of_pair, blocks in enumerate(of_pairs):
            if all(place in own for own in blocks):
                of_sides = [np.mean(own[place] > limit_us) for own in blocks]
                shares[place, number_of_pair] = of_sides
    return shares


def mean_of(shares: Floats) -> Floats:
    """The mean over the pairs that have both, (cases, 2); NaN without any."""
    n = np.isfinite(shares).sum(axis=1)
    total = np.nansum(shares, axis=1)
    return np.asarray(np.divide(total, n, out=np.full_like(total, np.nan), where=n > 0))
