"""Forecasts from a campaign's pilot which slowdown the campaign resolves."""

import numpy as np
import pandas as pd

from reports.verdicts.sides import Side, log_costs
from reports.verdicts.verdict import FAMILY_P, INTERVAL_P, POWER, detectable


def visible_effects(baseline: Side, pairs: int, margin: float, cells: int) -> dict[int, float]:
    """The slowdown that a campaign resolves at each size in bytes, as a share; empty if unknown."""
    return resolved_by_pilot(log_costs(baseline.launches), pairs, margin, cells)


def resolved_by_pilot(
    log_costs: pd.DataFrame, pairs: int, margin: float, cells: int
) -> dict[int, float]:
    """`visible_effects` of a pilot with these `log_costs`: the campaign finds a slowdown of this
    size in one cell, and excludes it from all cells of equal variants, each with power 0.8. The
    variance between launches is pooled over the cases of a size."""
    logs = log_costs.groupby(["size", "case", "state"])["log"]
    variances = logs.var().dropna().groupby("size").mean()
    # For normal log ratios the signed-rank test has 3 / pi of the efficiency of Student's.
    error = np.sqrt(2 * variances.to_numpy() / pairs / (3 / np.pi))
    effects = np.maximum(
        detectable(error, pairs, FAMILY_P / 2 / cells, margin),
        detectable(error, pairs, INTERVAL_P, margin, POWER ** (1 / cells)),
    )
    return dict(zip(variances.index.tolist(), effects.tolist(), strict=True))
