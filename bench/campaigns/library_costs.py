"""Compares the settings of an MPI library by their launches, for `bench.tune_library`.

The cost of a setting is its time over the default's in the same state of the link."""

from collections.abc import Sequence
from itertools import combinations
from statistics import fmean, median
from typing import Any

from bench.campaigns.library_settings import DEFAULT, Setting
from reports.store.case import CASE_KEY, Key
from reports.store.observations import entry_of, table
from reports.store.schema import Result

MOST_SETTINGS = 3  # each is another variant of a campaign
TOLERANCE = 1.02  # a setting within 2 % of the best one is as good
UNKNOWN = 10.0  # the cost of a setting that no launch measured

Launches = dict[Setting, list[Result]]
Cell = tuple[Key, float]  # a case, and a flag's round trip in ns in one state of the link
Costs = dict[Cell, dict[Setting, float]]  # over the default's


def schedule(settings: Sequence[Setting]) -> list[Setting]:
    """The settings, with the default before every eight others: the link may change its state."""
    others = [setting for setting in settings if setting]
    return [
        setting
        for place in range(0, max(len(others), 1), 8)
        for setting in (DEFAULT, *others[place : place + 8])
    ]


def costs_of(launches: Launches) -> Costs:
    """The time of each setting over the default's, for every case and state of the link in which
    another setting was measured too: the median over the launches there, or in other states."""
    ratios, everywhere = ratios_of(launches), dict[Key, dict[Setting, list[float]]]()
    for (key, _), by_setting in ratios.items():
        for setting, own in by_setting.items():
            everywhere.setdefault(key, {}).setdefault(setting, []).extend(own)
    return {
        cell: {
            setting: median(own) for setting, own in (everywhere[cell[0]] | ratios[cell]).items()
        }
        for cell in sorted(ratios, key=lambda cell: (cell[1], size_of(cell)))
    }


def ratios_of(launches: Launches) -> dict[Cell, dict[Setting, list[float]]]:
    """The time of each launch over the default's median in the same state of the link."""
    runs = [(setting, launch) for setting, own in launches.items() for launch in own]
    rows, keys, trips_ns = table([entry_of(launch) for _, launch in runs])
    times_us: dict[Cell, dict[Setting, list[float]]] = {}
    row: Any
    for row in rows.itertuples():
        setting, trip_ns = runs[row.run][0], trips_ns[row.state] if trips_ns else 0.0
        by_setting = times_us.setdefault((keys[row.key], trip_ns), {})
        by_setting.setdefault(setting, []).append(row.cost_us)
    return {
        cell: {
            setting: [cost_us / median(by_setting[DEFAULT]) for cost_us in own]
            for setting, own in by_setting.items()
        }
        for cell, by_setting in times_us.items()
        if DEFAULT in by_setting and len(by_setting) > 1
    }


def size_of(cell: Cell) -> int:
    """The size of a case in bytes."""
    return int(cell[0][CASE_KEY.index("size_bytes")])


def survivors(costs: Costs, settings: Sequence[Setting]) -> list[Setting]:
    """The default, the best setting of each case, and the settings without a cost so far."""
    best = {DEFAULT, *settings} - {setting for own in costs.values() for setting in own if setting}
    for by_setting in costs.values():
        best.add(min((each for each in settings if each in by_setting), key=by_setting.__getitem__))
    return [setting for setting in settings if setting in best]


def combinations_of(costs: Costs, settings: Sequence[Setting]) -> list[Setting]:
    """For each case, and for the mean over the cases, the best setting of every variable in one
    combination. Each of its settings beats the default there."""
    means = {
        setting: fmean([own.get(setting, 1.0) for own in costs.values()] or [1.0])
        for setting in settings
    }
    together = list[Setting]()
    for by_setting in (*costs.values(), means):
        better = [setting for setting in settings if by_setting.get(setting, 1.0) * TOLERANCE < 1]
        parts = list[Setting]()
        for setting in sorted(better, key=by_setting.__getitem__):
            if not names_of(sum(parts, DEFAULT)) & names_of(setting):
                parts.append(setting)
        if len(parts) > 1:
            together.append(tuple(sorted(sum(parts, DEFAULT))))
    return list(dict.fromkeys(together))


def names_of(setting: Setting) -> set[str]:
    """The names that a setting sets."""
    return {word.partition("=")[0] for word in setting}


def choose(costs: Costs, settings: Sequence[Setting]) -> tuple[Setting, ...]:
    """The fewest settings, at most three, of which one is within 2 % of the best in every cell; if
    three are too few, those with the least mean loss beyond 2 %."""
    ranked = sorted(settings, key=lambda setting: (len(setting), setting))
    group: tuple[Setting, ...] = (DEFAULT,)

    def losses(group: tuple[Setting, ...]) -> list[float]:
        return [
            max(
                TOLERANCE,
                min(by_setting.get(setting, UNKNOWN) for setting in group)
                / min(by_setting.get(setting, UNKNOWN) for setting in ranked),
            )
            for by_setting in costs.values()
        ]

    for length in range(1, min(MOST_SETTINGS, len(ranked)) + 1):
        group = min(combinations(ranked, length), key=lambda group: sum(losses(group)))
        if max(losses(group)) <= TOLERANCE:
            break
    return group
