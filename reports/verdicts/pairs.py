"""Pairs of launches of two sides, and their ratios within each state of the link."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from reports.store.case import CASE_KEY, Key
from reports.store.observations import Entry, entry_of, table
from reports.store.schema import Result
from reports.verdicts.sides import Side
from reports.verdicts.verdict import Floats

Pair = tuple[Result, Result]  # a launch of the baseline, and one of the variant


def is_interleaved(baseline: Side, variant: Side) -> bool:
    """Whether the sides are of one campaign, whose launches ran in turn."""
    ids = [side.campaign and side.campaign.campaign.campaign_id for side in (baseline, variant)]
    return ids[0] is not None and ids[0] == ids[1]


def pairs_of(baseline: Side, variant: Side) -> list[Pair]:
    """The launches that ran in turn. Without a common campaign the newest launches on each node
    that both sides have, because nodes with equal hardware differ too."""
    if is_interleaved(baseline, variant):
        common = sorted(baseline.of_pair.keys() & variant.of_pair.keys())
        return [(baseline.of_pair[pair], variant.of_pair[pair]) for pair in common]

    nodes = [{launch.run.node for launch in side.launches} for side in (baseline, variant)]
    shared = sorted(node for node in nodes[0] & nodes[1] if node)
    return [
        pair
        for node in shared or (None,)
        for pair in zip(_newest(baseline, node), _newest(variant, node), strict=False)
    ]


def _newest(side: Side, node: str | None) -> list[Result]:
    """The launches on this node (None: on any), the newest first."""
    return [launch for launch in side.launches[::-1] if node in (None, launch.run.node)]


def log_costs(entries: Sequence[Entry]) -> pd.DataFrame:
    """The rows of `table`, with the case's `size_bytes` and the log of its cost."""
    rows, keys, _ = table(entries)
    size_bytes = [key[CASE_KEY.index("size_bytes")] for key in keys]
    return rows.assign(size_bytes=np.array(size_bytes)[rows.key], log_cost=np.log(rows.cost_us))


def find_ratios(
    pairs: Sequence[Pair], keys: Sequence[Key], without: Sequence[str]
) -> tuple[Floats, pd.DataFrame]:
    """The log ratio of each case and pair, (keys, pairs), NaN without a common state of the link
    and for an unknown key. And a row for each case with its times in the state that most pairs
    share: `rtt_ns`, the round trip there, `baseline_us` and `variant_us`."""
    launches = [launch for pair in pairs for launch in pair]
    rows, known, rtt_ns = table([entry_of(launch) for launch in launches], without)
    cell_of = {key: cell for cell, key in enumerate(keys)}
    rows["cell"] = [cell_of.get(known[key], -1) for key in rows.key]
    rows["pair"], rows["side"] = divmod(rows.run, 2)
    rows = rows[rows.cell >= 0]
    costs_us = np.full((2, len(keys), len(pairs), max(len(rtt_ns), 1)), np.nan)
    costs_us[rows.side, rows.cell, rows.pair, rows.state] = rows.cost_us
    for number, launch in enumerate(launches):
        if launch.run.imported_from:  # its state is unknown: its times stand for every one
            pair, side = divmod(number, 2)
            costs_us[side, :, pair] = costs_us[side, :, pair, :1]

    log_ratios = np.log(costs_us[1] / costs_us[0])
    is_shared = np.isfinite(log_ratios)
    n_pairs = is_shared.sum(axis=1)  # by cell and state
    cells, state = np.arange(len(keys)), n_pairs.argmax(axis=1)
    common_us = np.where(is_shared, costs_us, np.nan)[:, cells, :, state]
    times = {
        "rtt_ns": np.where(n_pairs.any(axis=1), np.array(rtt_ns or [np.nan])[state], np.nan),
        "baseline_us": pd.DataFrame(common_us[:, 0]).median(axis=1),
        "variant_us": pd.DataFrame(common_us[:, 1]).median(axis=1),
    }
    return within_one_state(log_ratios), pd.DataFrame(times)


def within_one_state(log_ratios: Floats) -> Floats:
    """The log ratio of each pair within one state that both launches have; NaN without one.
    `log_ratios` are (..., pairs, states). Takes the state that most pairs share, of these the
    fastest, so that without a difference ratios stay symmetric."""
    has_state = np.isfinite(log_ratios)
    n_states = log_ratios.shape[-1]
    rank = np.sum(has_state, axis=-2, keepdims=True) - np.arange(n_states) / n_states
    states = np.argmax(np.where(has_state, rank, -1.0), axis=-1)
    return np.take_along_axis(log_ratios, states[..., None], axis=-1)[..., 0]
