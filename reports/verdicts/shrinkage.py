"""Cells borrow strength from each other. The noise of launches belongs to the machine, so all cells
share their variances. An effect belongs to an algorithm, so its sizes and modes shrink towards
their mean, but never further than each cell's own pairs allow: a single slow cell stays visible.
SLOWER and FASTER do not use this."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import chdtri, polygamma, psi, stdtrit

from reports.verdicts import verdict
from reports.verdicts.verdict import Floats

OWN_P, INTERVAL_P = 0.10, 0.025  # one-sided, of the narrowest and of the widest interval
FAR_P = 0.01  # a cell that is noisier than this chance allows keeps its own variance
MIN_GROUP, MOST_FREEDOM = 4, 1e4
WIDTH_FREEDOM = 0.85  # of the degrees of freedom: a signed-rank interval's width varies more


def moderated(variances: Floats, freedom: Floats) -> tuple[Floats, Floats]:
    """Variances drawn towards their typical value, (n,), and their degrees of freedom then: the
    less they differ beyond chance, the further (Smyth, Statistical Applications in Genetics and
    Molecular Biology 3, 2004, with trigamma(x) near 1/x + 1/(2 x^2))."""
    if len(variances) < MIN_GROUP:
        return variances, freedom
    variances = np.maximum(variances, 1e-12)
    logs = np.log(variances) - psi(freedom / 2) + np.log(freedom / 2)
    excess = max(logs.var(ddof=1) - polygamma(1, freedom / 2).mean(), 1 / MOST_FREEDOM)
    prior = (1 + np.sqrt(1 + 2 * excess)) / excess
    typical = np.exp(logs.mean() + psi(prior / 2) - np.log(prior / 2))
    drawn = (prior * typical + freedom * variances) / (prior + freedom)
    is_far = variances > typical * chdtri(freedom, FAR_P) / freedom
    return np.where(is_far, variances, drawn), np.where(is_far, freedom, freedom + prior)


def shrunken(estimates: Floats, variances: Floats) -> tuple[Floats, Floats]:
    """Estimates of one group drawn towards their mean, (n,), and their standard errors then
    (Morris, Journal of the American Statistical Association 78, 1983)."""
    n = len(estimates)
    if n < MIN_GROUP:
        return estimates, np.sqrt(variances)
    between = max(estimates.var(ddof=1) - variances.mean(), 0.0)
    gaps = np.average(estimates, weights=1 / (variances + between)) - estimates
    pull = (n - 3) / (n - 1) * variances / (variances + between)
    squares = variances * (1 - pull * (n - 1) / n) + 2 / (n - 3) * (pull * gaps) ** 2
    return estimates + pull * gaps, np.sqrt(squares)


def borrow(cells: pd.DataFrame, groups: Sequence[Any]) -> pd.DataFrame:
    """The cells of `two_stages` or `growing`, with one of `groups` each: its algorithm.

    `standard_error` and `freedom` come from all cells, `shrunk` from the group. The interval is the
    95 % interval of `shrunk`, limited to lie between the cell's own 80 % and 95 % interval (Efron
    and Morris, Journal of the American Statistical Association 66, 1971). So 95 % of all intervals
    contain the truth, and `high` is too low in 10 % of cases for a single slow cell."""
    cells = cells.assign(shrunk=cells.estimate, freedom=np.maximum(cells.pairs - 1.0, 1.0))
    rows = np.isfinite(cells.standard_error)
    usable, estimates = cells[rows], cells.estimate[rows].to_numpy()
    variances, freedom = moderated(
        (usable.standard_error**2 * usable.pairs).to_numpy(),
        (WIDTH_FREEDOM * usable.freedom).to_numpy(),
    )
    errors = np.sqrt(variances / usable.pairs.to_numpy())
    shrunk, spreads = estimates.copy(), errors.copy()
    numbers = pd.factorize(pd.Series(groups)[rows.to_numpy()])[0]
    for members in (numbers == group for group in np.unique(numbers)):
        shrunk[members], spreads[members] = shrunken(estimates[members], errors[members] ** 2)
    own, full = (stdtrit(freedom, 1 - p) * errors for p in (OWN_P, INTERVAL_P))
    reach = stdtrit(freedom, 1 - INTERVAL_P) * spreads
    cells.loc[rows, ["shrunk", "standard_error", "freedom", "low", "high"]] = np.c_[
        shrunk,
        errors,
        freedom,
        np.clip(shrunk - reach, estimates - full, estimates - own),
        np.clip(shrunk + reach, estimates + own, estimates + full),
    ]
    return cells


def judge_stages(
    first: Floats, fresh: Floats, groups: Sequence[Any], margin: float, is_finished: bool = True
) -> pd.DataFrame:
    """`two_stages`, with the intervals of `borrow`; a cell within the margin by these is SAME."""
    cells = borrow(verdict.two_stages(first, fresh, margin, is_finished), groups)
    is_within = np.maximum(-cells.low, cells.high) < np.log1p(margin)
    cells.loc[is_within & (cells.verdict == verdict.AMBIGUOUS), "verdict"] = verdict.SAME
    return cells
