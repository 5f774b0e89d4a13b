"""The spread between days, for sides whose launches did not run in turn. Launches of one day share
what that day did to the machine, so their own scatter does not show it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import chdtri, ndtri, stdtr, stdtrit

from reports.verdicts.launch_quantiles import (
    launch_quantile_us,
    launch_steps,
    least_steps,
    quantile_name,
)
from reports.verdicts.sides import Side, log_costs
from reports.verdicts.verdict import INTERVAL_P, MIN_PAIRS, SAME_P, Floats, evidence
from wiretax.record.folder import read_store
from wiretax.record.observations import Entry, alike_of, entry_of, in_one_state
from wiretax.record.result import read

MIN_DAYS = 5  # fewer days know their spread too badly
# A tail is long on a few days: this one is the worst of all by chance once in 20.
MIN_TAIL_DAYS = 19
WIDER_P = 0.05  # cells that scatter more than this chance allows replace the prior
SCATTER_EFFICIENCY = 0.82  # of a quartile of differences, for normal values
NORMAL_MAD = 0.6745  # the median absolute deviation of normal values
MAD_FREEDOM = 0.8  # of the degrees of freedom of a variance, with a deviation pooled over cases
FAMILY_P = 0.10  # two-sided, over all cells: 5 % for each direction


@dataclass(frozen=True)
class DaySpread:
    """`sd` is the standard deviation between days of the log of a case's cost, estimated with these
    degrees of freedom; `source` says from which days."""

    sd: float
    freedom: float
    source: str

    def evidence(self, log_ratios: Floats, margin: float) -> pd.DataFrame:
        """Tests sides of a day each, by Student's test with the variance of two days added
        (Satterthwaite, Biometrics 2, 1946), whose degrees of `freedom` are another column."""
        cells = evidence(log_ratios, margin)
        launches, days = cells.standard_error**2, 2 * self.sd**2
        terms = launches**2 / np.maximum(cells.pairs - 1, 1) + days**2 / self.freedom
        freedom = ((launches + days) ** 2).div(terms).fillna(1.0)  # without an interval
        error = np.sqrt(launches + days)
        full, same = (stdtrit(freedom, 1 - p) * error for p in (INTERVAL_P, SAME_P))
        return cells.assign(
            standard_error=error,
            freedom=freedom,
            log_low=cells.log_ratio - full,
            log_high=cells.log_ratio + full,
            p_slower=stdtr(freedom, -cells.log_ratio / error),
            p_faster=stdtr(freedom, cells.log_ratio / error),
            log_reach_90=np.abs(cells.log_ratio) + same,
            is_same=np.abs(cells.log_ratio) + same < np.log1p(margin),
        )


# An assumption: "within a few percent" is usual for servers (Duplyakin, Uta, Maricq and Ricci, In
# Datacenter Performance, The Only Constant Is Change, CCGrid 2020).
PRIOR = DaySpread(
    0.02,
    1e6,
    "days are assumed to differ by 2.0%: the folders of these runs hold "
    f"fewer than {MIN_DAYS} other days",
)


def assumed_spread(log_ratios: Floats, groups: Sequence[Any]) -> DaySpread:
    """`PRIOR`, unless the cells, with one of `groups` each, scatter more than it allows. A day has
    an effect on all cases and one on each, here with equal variances. The cells of a group show the
    second. Its scale comes from the first quartile of their differences, which few slow cells
    hardly move (Rousseeuw and Croux, Journal of the American Statistical Association 88, 1993)."""
    cells = evidence(log_ratios).assign(group=pd.factorize(pd.Series(groups))[0])
    cells = cells[np.isfinite(cells.standard_error)]
    logs, group = cells.log_ratio.to_numpy(), cells.group.to_numpy()
    i, j = np.triu_indices(len(cells), 1)
    gaps = np.abs(logs[i] - logs[j])[group[i] == group[j]]
    freedom = SCATTER_EFFICIENCY * (len(cells) - cells.group.nunique())

    if not len(gaps):
        return PRIOR

    scatter = np.quantile(gaps, 0.25) / np.sqrt(2) / ndtri(0.625)
    own = max(scatter**2 - float(np.mean(cells.standard_error**2)), 0.0) / 2  # of one day

    if 2 * own < PRIOR.sd**2 * chdtri(freedom, WIDER_P) / freedom:
        return PRIOR

    sd = float(np.sqrt(2 * own))
    return DaySpread(
        sd,
        freedom,
        f"days are assumed to differ by {sd:.1%}, because the cells of "
        f"an algorithm differ more than days of {PRIOR.sd:.1%} explain",
    )


def spread_between_days(
    baseline: Side, current: Side, quantile: float | None = None
) -> DaySpread | None:
    """The spread between the days of `other_entries`, of median costs or of a quantile of steps:
    without the current side's runs, because a slowdown must not hide itself. None below five days,
    or MIN_TAIL_DAYS for a quantile."""
    entries, _ = in_one_state(other_entries(baseline, current))
    logs = log_quantiles(entries, quantile) if quantile else log_costs(entries)
    logs["day"] = np.array([entry.run.run_id[:10] for entry in entries])[logs.run]
    return spread_of(logs, is_tail=bool(quantile))


def log_quantiles(entries: Sequence[Entry], quantile: float) -> pd.DataFrame:
    """The log of this quantile of each case's steps, as `log_cost`, with the case's `key` and the
    place of its `run`. Raises ResultError for damaged counts."""
    least = least_steps(quantile)
    rows = [
        (number, str(key), np.log(launch_quantile_us(steps, quantile)))
        for number, entry in enumerate(entries)
        for key, steps in launch_steps(read(entry.path))
        if steps.n >= least
    ]
    logs = pd.DataFrame(rows, columns=["run", "key", "log_cost"])
    return logs.astype({"run": int, "log_cost": float})


def unknown_spread(quantile: float) -> DaySpread:
    """What is known of a quantile on few days: the share of slow steps may differ by any factor."""
    name = quantile_name(quantile)
    return DaySpread(
        np.inf,
        1.0,
        f"how much the {name} differs between days is not known, so that nothing is decided: the "
        f"folders of these runs hold fewer than {MIN_TAIL_DAYS} other days",
    )


def other_entries(baseline: Side, current: Side) -> list[Entry]:
    """The runs in the folders of both sides that count and measured the same things as the
    baseline, without the current side's; none beside a current side that is too short to judge."""
    own = {launch.run.run_id for launch in current.launches}
    if len(own) < MIN_PAIRS:
        return []

    facts = alike_of(entry_of(baseline.launches[0]))
    others = dict[str, Entry]()
    for folder in {launch.path.parent for launch in baseline.launches + current.launches}:
        for entry in read_store(folder).entries:
            is_other = entry.path.parent == folder and entry.run.run_id not in own
            if is_other and not entry.left_out and alike_of(entry) == facts:
                others[entry.run.run_id] = entry
    return [*others.values()]


def spread_of(logs: pd.DataFrame, is_tail: bool = False) -> DaySpread | None:
    """The spread between days of logs of costs: a row has a case's `key`, its `day` and `log_cost`.
    Medians and median absolute deviations, because a launch that an event slows, or a day that is
    unlike all others, must not set it. They are pooled over the cases. A day is assumed to shift
    all cases as much as it shifts each, so that half of the variance is common to k cases; a pooled
    variance then varies like one with 4 k / (k + 3) degrees of freedom for each day but one
    (Satterthwaite), and here like one with fewer. None below five days.

    A tail is long on a few days, which the plain variance shows and deviations do not: the larger
    of both counts."""
    by_day = logs.groupby(["key", "day"]).log_cost
    levels = by_day.median().unstack()
    levels = levels.loc[:, levels.notna().mean() > 0.5].dropna()
    n_cases, n_days = levels.shape
    if n_days < (MIN_TAIL_DAYS if is_tail else MIN_DAYS) or not n_cases:
        return None

    within = (logs.log_cost - by_day.transform("median")).abs().groupby([logs.key, logs.day])
    between = levels.sub(levels.median(axis=1), axis=0).abs().median(axis=1)
    own = np.pi / 2 * within.median() ** 2 / by_day.size()  # of a day's median
    few = n_days / (n_days - 0.8)  # of few values the deviation is too small
    variance = (few * (between**2).mean() - own.mean()) / NORMAL_MAD**2
    if is_tail:
        variance = max(variance, levels.var(axis=1).mean() - own.mean() / NORMAL_MAD**2)
    sd = float(np.sqrt(max(variance, 0.0)))
    return DaySpread(
        sd,
        MAD_FREEDOM * 4 * n_cases / (n_cases + 3) * (n_days - 1),
        f"days differ by {sd:.1%}, estimated from {n_days} other days in the folders of these runs",
    )
