"""Launches that never ran: made-up campaigns whose truth is known, for the calibration of the verdicts.

A block is log-normal around its launch's median, the blocks of a launch form an AR(1), launches scatter around the cost
of their case, the link flips between states in stretches and all cases of a launch with it, machines drift, blocks and
whole launches go astray. In place of such launches recorded ones can be drawn: those of `recorded.npz`, log medians of
an A/A campaign's launches as comparisons see them, (launches, cases, states).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reports.tables.rows import MIN_STATE_BLOCKS

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]

RECORDED = Path(__file__).with_name("recorded.npz")
ROUNDS = 12
MEMBERS = 1 << 17  # launches of a case that are simulated block by block; a campaign's are drawn from them
SEQUENCES = 64  # ways for the link to go through its states over a launch
STATE_RATIO = 3.0
STATE_CHANGES = 0.15  # a round
OUTLYING_BLOCKS, BLOCK_EXCESS = 0.03, 0.3
OUTLYING_LAUNCHES, LAUNCH_EXCESS = 0.03, 0.1


@dataclass(frozen=True)
class Scenario:
    """`spread` is the standard deviation of the log of a launch's median, before outliers: it is also that of a block
    within its launch, and launches scatter by what is missing. `drift` is the log cost gained over a campaign; `shared`
    the part of the variance between launches that all cases of a launch have in common."""

    name: str
    spread: float = 0.015
    rho: float = 0.3
    drift: float = 0.0
    states: int = 1
    outliers: bool = False
    shared: float = 0.0
    recorded: bool = False


def blocks(rng: np.random.Generator, shape: tuple[int, ...], rho: float) -> Floats:
    """AR(1) series along the last axis, each value normal with variance 1."""
    values = rng.standard_normal(shape, dtype=np.float32)
    for block in range(1, shape[-1]):
        values[..., block] = rho * values[..., block - 1] + np.sqrt(1 - rho**2) * values[..., block]
    return values


def link_sequences(rng: np.random.Generator, launches: int, rounds: int, states: int) -> Ints:
    """The state of the link in each round, (launches, rounds): it stays, or goes to the next one."""
    start = rng.integers(states, size=(launches, 1))
    changes = rng.random((launches, rounds - 1)) < STATE_CHANGES
    return np.asarray(np.cumsum(np.hstack([start, changes]), axis=-1) % states)


def launch_medians(costs: Floats, states: Ints, n_states: int) -> Floats:
    """Logs of the medians of one launch's blocks by state, (..., n_states), NaN where a state has fewer than five;
    `costs` is (..., rounds), `states` (rounds,), below 0 where a block was mixed."""
    medians = np.full((*costs.shape[:-1], n_states), np.nan, costs.dtype)
    for state in range(n_states):
        if np.sum(states == state) >= MIN_STATE_BLOCKS:
            medians[..., state] = np.log(np.median(costs[..., states == state], axis=-1))
    return medians


def between_launches(within: Floats, spread: float) -> float:
    """How far launches have to scatter besides, for medians of these blocks, (..., rounds), to scatter by `spread`."""
    return float(np.sqrt(max(0.0, spread**2 - float(np.var(np.median(within, axis=-1))))))


def launches_of(scenario: Scenario, rng: np.random.Generator) -> tuple[Floats, float]:
    """Launches to draw from, (sequences, members, states), and the standard deviation of what the cases of a launch
    share besides."""
    if scenario.recorded:
        return np.load(RECORDED)["log_medians"], 0.0
    sequences = 1 if scenario.states == 1 else SEQUENCES
    links = link_sequences(rng, sequences, ROUNDS, scenario.states)
    within = scenario.spread * blocks(rng, (sequences, MEMBERS // sequences, ROUNDS), scenario.rho)
    between = between_launches(within, scenario.spread)
    if scenario.outliers:
        within += rng.exponential(BLOCK_EXCESS, within.shape) * (rng.random(within.shape) < OUTLYING_BLOCKS)
    within += np.log(STATE_RATIO) * links[:, None, :]
    medians = np.stack([launch_medians(costs, link, scenario.states)
                        for costs, link in zip(np.exp(within), links, strict=True)])
    own = between * np.sqrt(1 - scenario.shared) * rng.standard_normal((*medians.shape[:2], 1), dtype=np.float32)
    return np.asarray(medians + own, np.float32), float(between * np.sqrt(scenario.shared))


def campaigns(scenario: Scenario, launches: tuple[Floats, float], rng: np.random.Generator, tables: int, cells: int,
              pairs: int) -> Floats:
    """Log medians of launches drawn from `launches`, (2, tables, cells, pairs, states): the baseline's, the variant's.

    Which launch of a pair ran first is drawn for every other one, with its mirror image between. The launches of a pair
    are never the same.
    """
    drawn, shared = launches
    sequences, members, _ = drawn.shape
    sequence = rng.integers(sequences, size=(2, tables, 1, pairs))
    if sequences > 1:
        sequence[1] = (sequence[0] + rng.integers(1, sequences, size=sequence[0].shape)) % sequences
    member = (np.resize(np.arange(members), (cells, 1)) if scenario.recorded
              else rng.integers(members, size=(2, tables, cells, pairs)))
    drawn_first = rng.integers(2, size=(tables, -(-pairs // 2)))
    variant_first = np.stack([drawn_first, 1 - drawn_first], axis=-1).reshape(tables, -1)[:, :pairs]
    place = 2 * np.arange(pairs) + np.stack([variant_first, 1 - variant_first])
    of_launch = scenario.drift * place + shared * rng.standard_normal(place.shape)
    if scenario.outliers:
        of_launch += rng.exponential(LAUNCH_EXCESS, place.shape) * (rng.random(place.shape) < OUTLYING_LAUNCHES)
    return np.asarray(drawn[sequence, member] + of_launch[:, :, None, :, None])


def log_ratios(medians: Floats) -> NDArray[np.float64]:
    """(tables, cells, pairs) of `campaigns`: each pair over a state that both launches have, of several the one that
    the most pairs share, NaN where there is none."""
    ratios = (medians[1] - medians[0]).astype(float)
    has = np.isfinite(ratios)
    rank = np.sum(has, axis=-2, keepdims=True) - np.arange(ratios.shape[-1]) / ratios.shape[-1]
    chosen = np.argmax(np.where(has, rank, -1.0), axis=-1)
    return np.asarray(np.take_along_axis(ratios, chosen[..., None], axis=-1)[..., 0])
