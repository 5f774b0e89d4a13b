"""Compares the settings of an MPI library by their launches, for `bench.tune_library`.

The cost of a setting is its time over the default's in the same state of the link. Costs are a
DataFrame: a row for each case and state, with their description, and a column for each setting."""

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING

from bench.campaigns.library_settings import DEFAULT, Setting
from reports.store.case import CASE_KEY
from reports.store.observations import entry_of, table
from reports.store.schema import Result
from reports.tables.sentences import size_text

if TYPE_CHECKING:
    import pandas as pd

MOST_SETTINGS = 3  # each is another variant of a campaign
TOLERANCE = 1.02  # a setting within 2 % of the best one is as good
UNKNOWN = 10.0  # the cost of a setting that no launch measured

Launches = dict[Setting, list[Result]]


def schedule(settings: Sequence[Setting]) -> list[Setting]:
    """The settings, with the default before every eight others: the link may change its state."""
    others = [setting for setting in settings if setting]
    return [
        setting
        for place in range(0, max(len(others), 1), 8)
        for setting in (DEFAULT, *others[place : place + 8])
    ]


def costs_of(launches: Launches) -> "pd.DataFrame":
    """The costs in every case and state of the link in which the default and another setting were
    measured: the median over a setting's launches there, or in other states."""
    runs = [(setting, launch) for setting, own in launches.items() for launch in own]
    rows, keys, trips_ns = table([entry_of(launch) for _, launch in runs])
    cells = ["state", "size_bytes", "key"]
    rows["setting"] = [runs[run][0] for run in rows.run]
    rows["size_bytes"] = [keys[key][CASE_KEY.index("size_bytes")] for key in rows.key]
    is_default = rows.setting == DEFAULT
    default_us = rows[is_default].groupby(cells).cost_us.median().rename("default_us")
    rows = rows.join(default_us, on=cells, how="inner")
    rows["cost"] = rows.cost_us / rows.default_us
    there = rows.pivot_table("cost", cells, "setting", aggfunc="median")
    there = there[there.count(axis=1) > 1]
    anywhere = rows.pivot_table("cost", "key", "setting", aggfunc="median")
    costs = there.fillna(anywhere.loc[there.index.get_level_values("key")].set_axis(there.index))

    def description(state: int, size_bytes: int, key: int) -> str:
        facts = dict(zip(CASE_KEY, keys[key], strict=True))
        trip = f", round trip {trips_ns[state]:.0f} ns" if trips_ns else ""
        return f"{facts['library']}, {size_text(size_bytes)}, {facts['mode']}{trip}"

    return costs.set_axis([description(*cell) for cell in costs.index])


def survivors(costs: "pd.DataFrame", settings: Sequence[Setting]) -> list[Setting]:
    """The default, the best setting of each case, and the settings without a cost so far."""
    known = [setting for setting in settings if setting in costs]
    best = {DEFAULT, *costs[known].idxmin(axis=1)} if len(costs) else {DEFAULT}
    return [setting for setting in settings if setting in best or setting not in known]


def combinations_of(costs: "pd.DataFrame", settings: list[Setting]) -> list[Setting]:
    """For each case, and for the mean over the cases, the best setting of every variable in one
    combination. Each of its settings beats the default there."""
    costs = costs.reindex(columns=settings).fillna(1.0)
    together = list[Setting]()
    for by_setting in [*(row for _, row in costs.iterrows()), costs.mean()]:
        parts = list[Setting]()
        for setting in by_setting[by_setting * TOLERANCE < 1].sort_values().index:
            if not names_of(" ".join(parts)) & names_of(setting):
                parts.append(setting)
        if len(parts) > 1:
            together.append(" ".join(sorted(" ".join(parts).split())))
    return list(dict.fromkeys(together))


def names_of(setting: Setting) -> set[str]:
    """The variables and options that a setting sets."""
    return {word.partition("=")[0] for word in setting.split()}


def choose(costs: "pd.DataFrame", settings: Sequence[Setting]) -> list[Setting]:
    """The fewest settings, at most three, of which one is within 2 % of the best in every cell; if
    three are too few, those with the least mean loss beyond 2 %."""
    ranked = sorted(settings, key=lambda setting: (len(setting.split()), setting))
    known = costs.reindex(columns=ranked).fillna(UNKNOWN)
    ratios = known.div(known.min(axis=1), axis=0).to_numpy()
    group: tuple[int, ...] = ()

    def losses(group: tuple[int, ...]) -> list[float]:
        return [max(TOLERANCE, ratio) for ratio in ratios[:, group].min(axis=1)]

    for length in range(1, min(MOST_SETTINGS, len(ranked)) + 1):
        group = min(combinations(range(len(ranked)), length), key=lambda group: sum(losses(group)))
        if max(losses(group)) <= TOLERANCE:
            break
    return [ranked[place] for place in group]
