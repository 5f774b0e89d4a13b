"""Pairs of launches of two sides, and their ratios."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from reports.store.blocks import in_main_state
from reports.store.case import Key
from reports.store.observations import Entry, entry_of, table
from reports.store.schema import Result
from reports.verdicts.sides import Side
from reports.verdicts.verdict import Floats

Pair = tuple[Result, Result]  # a launch of the baseline, and one of the variant


def is_interleaved(baseline: Side, variant: Side) -> bool:
    """Whether the sides are of one campaign, whose launches ran in turn."""
    campaigns = [side.campaign for side in (baseline, variant) if side.campaign]
    return len({each.campaign.campaign_id for each in campaigns}) < len(campaigns)


def pairs_of(baseline: Side, variant: Side) -> tuple[list[Pair], int]:
    """The launches that ran in turn; and the number of those that are no pairs, because the link
    was in another state. Without a common campaign the newest launches on each node that both sides
    have, because nodes with equal hardware differ too."""
    if is_interleaved(baseline, variant):
        common = sorted(baseline.of_pair.keys() & variant.of_pair.keys())
        both = [(baseline.of_pair[pair], variant.of_pair[pair]) for pair in common]
    else:
        nodes = [{launch.run.node for launch in side.launches} for side in (baseline, variant)]
        shared = sorted(node for node in nodes[0] & nodes[1] if node)
        both = [
            pair
            for node in shared or (None,)
            for pair in zip(_newest(baseline, node), _newest(variant, node), strict=False)
        ]

    pairs = [pair for pair in both if in_main_state(pair).all()]
    return pairs, len(both) - len(pairs)


def _newest(side: Side, node: str | None) -> list[Result]:
    """The launches on this node (None: on any), the newest first."""
    return [launch for launch in side.launches[::-1] if node in (None, launch.run.node)]


def log_costs(entries: Sequence[Entry]) -> pd.DataFrame:
    """The rows of `table`, with the case's `size_bytes` and the log of its cost."""
    rows, planned = table(entries)
    size_bytes = [case.size_bytes for case in planned.values()]
    return rows.assign(size_bytes=np.array(size_bytes)[rows.key], log_cost=np.log(rows.cost_us))


def find_ratios(
    pairs: Sequence[Pair], keys: Sequence[Key], without: Sequence[str]
) -> tuple[Floats, pd.DataFrame]:
    """The log ratio of each case and pair, (keys, pairs), NaN for a case that one of both lacks.
    And a row for each case with the medians over its pairs: `baseline_us` and `variant_us`."""
    rows, planned = table([entry_of(launch) for pair in pairs for launch in pair], without)
    cell_of = {key: cell for cell, key in enumerate(keys)}
    cells = np.array([cell_of.get(key, -1) for key in planned])
    rows["cell"] = cells[rows.key]
    rows["pair"], rows["side"] = divmod(rows.run, 2)
    rows = rows[rows.cell >= 0]
    costs_us = np.full((2, len(keys), len(pairs)), np.nan)
    costs_us[rows.side, rows.cell, rows.pair] = rows.cost_us
    log_ratios = np.log(costs_us[1] / costs_us[0])
    common_us = np.where(np.isfinite(log_ratios), costs_us, np.nan)
    baseline_us, variant_us = (pd.DataFrame(own).median(axis=1) for own in common_us)
    return log_ratios, pd.DataFrame({"baseline_us": baseline_us, "variant_us": variant_us})
