"""A warning on tails beside verdicts on medians, which fails nothing: cases in which the variant
has more slow steps than the baseline. Their share shows that from fewer steps than a P99 takes."""

from collections.abc import Collection, Sequence

import numpy as np

from reports.tables.sentences import some
from reports.verdicts.match import Match
from reports.verdicts.sides import titles_of
from reports.verdicts.verdict import FAMILY_P, MIN_PAIRS, Bools, Floats, evidence, holm
from wiretax.record.histogram import Tally, add
from wiretax.record.tails import SLOW_RATIO


def warning_on_tails(found: Match, among: Collection[str]) -> list[str]:
    """A sentence on the cases with these titles whose tail is worse, if there are any. Launches
    that did not run in turn cannot show it."""
    if not found.is_interleaved or found.is_growing or found.quantile:
        return []

    titles = dict(zip(found.cases, titles_of([*found.cases.values()]), strict=True))
    steps = {titles[key]: own for key, own in found.steps.items() if titles[key] in among}
    shares = np.full((len(steps), len(found.judged.pairs), 2), np.nan)
    for number, own in enumerate(steps.values()):
        for place, share in zip(own, slow_shares([*own.values()]), strict=True):
            shares[(number, *place)] = share
    told = list[str]()
    for number in np.flatnonzero(has_worse_tail(shares)).tolist():
        base, variant = np.nanmean(shares[number], axis=0)
        told.append(f"{[*steps][number]} {variant:.2%} ({found.baseline.label} {base:.2%})")
    if not told:
        return []
    return [
        f"tails: more slow steps, over {SLOW_RATIO} x the P50: {some(told)}; not judged: "
        "--quantile 99 judges the P99"
    ]


def slow_shares(launches: Sequence[Tally]) -> list[float]:
    """The share of the steps of each of these launches of a case that takes over SLOW_RATIO times
    the P50 of all of them."""
    if not launches:
        return []
    limit_us = SLOW_RATIO * add(launches).quantile_us(0.5)
    return [float(steps.above(limit_us).sum() / steps.n) for steps in launches]


def has_worse_tail(shares: Floats) -> Bools:
    """Of which cases the variant has more slow steps, by their `slow_shares`, (cases, pairs, 2):
    the signed-rank test over the pairs that differ, one-sided, by Holm's procedure over the cases
    of which enough pairs differ. Of equal sides these say nothing about the sign."""
    gains = shares[..., 1] - shares[..., 0]
    cells = evidence(np.where(gains == 0, np.nan, gains))
    is_tested = (cells.pairs >= MIN_PAIRS).to_numpy()
    is_worse = np.zeros(len(cells), bool)
    is_worse[is_tested] = holm(cells.p_slower[is_tested], FAMILY_P)
    return is_worse
