"""Forecasts from a campaign's pilot which slowdown the campaign decides."""

import numpy as np
import pandas as pd

from reports.verdicts import shrinkage, verdict
from reports.verdicts.sides import Side, log_costs
from reports.verdicts.verdict import POWER, SUSPECT_P


def visible_effects(
    baseline: Side, pairs: int, fresh: int, margin: float, cells: int
) -> dict[int, float]:
    """The effect that a campaign decides at each size in bytes, as a share; empty if unknown."""
    return decided_by_pilot(log_costs(baseline.launches), pairs, fresh, margin, cells)


def decided_by_pilot(
    log_costs: pd.DataFrame, pairs: int, fresh: int, margin: float, cells: int
) -> dict[int, float]:
    """`visible_effects` of a pilot with these `log_costs`: the campaign finds a slowdown of this
    size, or excludes it in a table of equal variants, with power 0.8. The standard deviation
    between launches is pooled over the cases of a size and drawn towards the other sizes."""
    logs = log_costs.groupby(["size", "case", "state"])["log"]
    by_size = pd.DataFrame({"variance": logs.var(), "freedom": logs.size() - 1.0}).dropna()
    pooled = by_size.groupby("size").agg({"variance": "mean", "freedom": "sum"})
    variances, _ = shrinkage.moderated(pooled.variance.to_numpy(), pooled.freedom.to_numpy())
    # For normal log ratios the signed-rank test has 3 / pi of the efficiency of Student's.
    pair_sd = np.sqrt(2 * variances) / np.sqrt(3 / np.pi)
    in_all = POWER ** (1 / cells)
    stages = [(pairs, verdict.FAMILY_P / 2 / cells, POWER), (pairs, shrinkage.OWN_P, in_all)]
    if fresh:  # the first pairs settle cells that are no suspects, fresh pairs the suspects
        stages = [
            (pairs, SUSPECT_P, 1 - shrinkage.OWN_P),
            (fresh, shrinkage.OWN_P, in_all),
            (fresh, verdict.FAMILY_P, verdict.BOTH_POWER),
        ]
    effects = np.max(
        [
            verdict.detectable(pair_sd / np.sqrt(n), n, alpha, margin, power)
            for n, alpha, power in stages
        ],
        axis=0,
    )
    return dict(zip(pooled.index, effects.tolist(), strict=True))
