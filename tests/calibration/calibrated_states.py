"""Claims on the state of the link in `regress`: flags that the current side slows are judged, and a
machine that changes its state by itself fails no gate."""

from functools import partial

import numpy as np
import pandas as pd

from reports.verdicts import days, states, verdict
from reports.verdicts.verdict import DEFAULT_MARGIN as MARGIN
from tests.calibration.calibrated_gates import (
    CELLS,
    EVEN,
    GROUPS,
    NIGHT_LAUNCHES,
    NIGHT_SPREAD,
    PAIRS,
    SIZES,
    comparison_of,
    status_of,
)
from tests.calibration.synthetic import Figure, Floats, Ints, Rng, Simulation
from wiretax.record.blocks import main_state

TRIP_SPREAD = 0.02  # of a launch's round trip, in one state
STATE_TRIPS = 5.0  # times as long is the round trip in the slow state
DAY_SPREAD = 0.02
MIXED = 0.05, 0.2, 0.5  # shares of launches, or of days, in the slow state
FALSE, OPEN = (0.0, 0.05), (0.0, 1.0)
# Where one day in twenty is slow, 36 % of stores of 20 days have none: its first one is a change by
# all that the store knows. 4.3 % of 4,000 gates had status 1.
RARE = 0.0, 0.065
# What a cell's time takes of a change of the round trip: all at the smallest size, nothing at the
# largest; or all in every cell, if only small sizes are measured.
ALL_SIZES = np.tile(np.linspace(1.0, 0.0, SIZES), CELLS // SIZES)
SMALL_SIZES = np.ones(CELLS)


def states_in(rng: Rng, shape: tuple[int, ...], slow: float, stay: float) -> Ints:
    """The state in each launch, in order of time along the last axis: a share of `slow` is in the
    slow one. A launch has the state of the one before with a chance of `stay`, else a new one."""
    drawn = (rng.random(shape) < slow).astype(np.int64)
    keeps = rng.random(shape) < stay
    for launch in range(1, shape[-1]):
        drawn[..., launch] = np.where(
            keeps[..., launch], drawn[..., launch - 1], drawn[..., launch]
        )
    return drawn


def trips_of(rng: Rng, slow_state: Ints, is_variant: Floats | int, flag: float) -> Floats:
    """The logs of the round trips of launches."""
    logs = np.log(STATE_TRIPS) * slow_state + np.log(flag) * is_variant
    return np.asarray(logs + TRIP_SPREAD * rng.standard_normal(slow_state.shape))


def in_turn(
    flag: float, slow: float, stay: float, limits: tuple[float, float], rng: Rng, n: int
) -> list[Figure]:
    """Campaigns on a machine whose link changes between two states, with a variant whose flags are
    slower by `flag`: status 1, and how often the flags are told. Runs an eighth of the
    replications."""
    failed, shifted = list[bool](), list[bool]()
    for _ in range(n // 8):
        state = states_in(rng, (2 * PAIRS,), slow, stay).reshape(PAIRS, 2)
        first = np.repeat(rng.integers(2, size=-(-PAIRS // 2)), 2)[:PAIRS]
        first[1::2] = 1 - first[1::2]  # which side of a pair is launched first
        place = np.arange(PAIRS)
        trips = [trips_of(rng, state[place, (first + side) % 2], side, flag) for side in (0, 1)]
        log_trips = trips[1] - trips[0]
        shift = states.shift_of(log_trips)
        noise = np.sqrt(2) * EVEN.spread * rng.standard_normal((CELLS, PAIRS))
        ratios = noise + ALL_SIZES[:, None] * log_trips
        cells = verdict.once(ratios[:, ~states.is_apart(log_trips, shift)], MARGIN)
        comparison = comparison_of(cells)
        failed.append(status_of(comparison, MARGIN, comparison.resolved_slowdown) == 1)
        shifted.append(shift != 0)
    name = f"{flag:g} x, {100 * slow:g} %, stay {stay:g}"
    return [
        Figure(f"{name}: status 1", failed, *limits),
        Figure(f"{name}: flags told", shifted, *limits if flag != 1.3 else OPEN),
    ]


def beside_kept(
    flag: float,
    slow: float,
    of_launch: bool,
    n_days: int,
    shares: Floats,
    limits: tuple[float, float],
    rng: Rng,
    n: int,
) -> list[Figure]:
    """Launches of a day beside those of the first of `n_days` before it. The state belongs to the
    launch, or to the day: status 1, and how often slower flags are told. Runs a quarter of the
    replications."""
    failed, shifted = list[bool](), list[bool]()
    shape = (n_days + 1, NIGHT_LAUNCHES)
    for _ in range(n // 4):
        state = states_in(rng, shape, slow, 0.0)
        if not of_launch:
            state[:] = state[:, :1]
        is_variant = np.zeros((n_days + 1, 1))
        is_variant[-1] = 1
        trips = trips_of(rng, state, is_variant, flag)
        log_trips = trips[-1] - trips[0]
        shift = states.shift_of(log_trips)
        if states.is_mixed(np.exp(trips[:-1].ravel()), np.exp(trips[-1])):
            shift = 0.0
        levels = rng.standard_normal((1, n_days + 1)) + rng.standard_normal((CELLS, n_days + 1))
        scatter = rng.standard_normal((CELLS, *shape))
        logs = DAY_SPREAD * np.sqrt(0.5) * levels[..., None] + NIGHT_SPREAD * scatter
        logs += shares[:, None, None] * trips
        ratios = (logs[:, -1] - logs[:, 0])[:, ~states.is_apart(log_trips, shift)]
        key, day, _ = np.indices(logs[:, :-1].shape)
        columns = {"key": key, "day": day, "log_cost": logs[:, :-1]}
        _, is_in = main_state(np.exp(trips[:-1]).ravel())  # the other days do not count
        table = pd.DataFrame({name: values.ravel() for name, values in columns.items()})
        table = table[np.tile(is_in, CELLS)]
        between = days.spread_of(table) or days.assumed_spread(ratios, GROUPS)
        cells = verdict.decide(between.evidence(ratios, MARGIN), MARGIN, days.FAMILY_P)
        comparison = comparison_of(cells)
        failed.append(status_of(comparison, MARGIN, comparison.slowdown_to_exclude) == 1)
        shifted.append(shift != 0)
    owner, store = "launch" if of_launch else "day", f"{n_days} days" if n_days > 1 else "no store"
    sizes = "all sizes" if shares is ALL_SIZES else "small"
    if flag > 1:
        return [
            Figure(f"{flag:g} x, {store}: flags told", shifted, *limits),
            Figure(f"{flag:g} x, {store}: status 1", failed, *(limits if n_days > 1 else OPEN)),
        ]
    return [Figure(f"{100 * slow:g} % by {owner}, {store}, {sizes}", failed, *limits)]


CLAIMS: dict[str, list[Simulation]] = {
    "Flags are slower, launches in turn": [
        *(partial(in_turn, flag, 0.0, 0.0, (0.9, 1.0)) for flag in (1.3, 1.6, 2.5)),
        *(partial(in_turn, flag, 0.2, 0.0, (0.85, 1.0)) for flag in (1.3, 1.6, 2.5)),
    ],
    "The link changes its state by itself: 1": [
        partial(in_turn, 1.0, slow, stay, FALSE) for slow in MIXED for stay in (0.0, 0.5, 0.9)
    ],
    "Flags are slower, kept baseline": [
        partial(beside_kept, flag, 0.0, True, n_days, ALL_SIZES, (0.9, 1.0))
        for n_days in (1, 10)
        for flag in (1.6, 2.5)
    ],
    "The link changes its state, kept: 1": [
        *(partial(beside_kept, 1.0, slow, True, 1, SMALL_SIZES, FALSE) for slow in MIXED),
        partial(beside_kept, 1.0, 0.05, False, 20, SMALL_SIZES, RARE),
        *(partial(beside_kept, 1.0, slow, False, 20, SMALL_SIZES, FALSE) for slow in MIXED[1:]),
        partial(beside_kept, 1.0, 0.05, False, 10, SMALL_SIZES, OPEN),
        partial(beside_kept, 1.0, 0.2, False, 1, ALL_SIZES, OPEN),
        partial(beside_kept, 1.0, 0.2, False, 1, SMALL_SIZES, OPEN),
    ],
}
