"""Synthetic campaigns with a known truth, for the calibration of the verdicts.

A block is log-normal around its launch's median; the blocks of a launch are an AR(1). Launches
scatter around the cost of their case. The link changes its state in stretches, for all cases of a
launch at once. Machines drift; blocks and whole launches can be outliers. Recorded launches can
take the place of synthetic ones: `recorded.npz` has log medians of an A/A campaign's launches as
comparisons see them, (launches, cases, states).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reports.tables.rows import MIN_STATE_BLOCKS
from reports.verdicts.sides import within_one_state

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]

RECORDED = Path(__file__).with_name("recorded.npz")
ROUNDS = 12
MEMBERS = 1 << 17  # launches of a case that are simulated by block; campaigns draw from them
SEQUENCES = 64  # sequences of the link's states over a launch
STATE_RATIO = 3.0  # of the costs in one state and in the state before
STATE_CHANGES = 0.15  # a round
OUTLYING_BLOCKS, BLOCK_EXCESS = 0.03, 0.3
OUTLYING_LAUNCHES, LAUNCH_EXCESS = 0.03, 0.1


@dataclass(frozen=True)
class Scenario:
    """How launches scatter. `spread` is the standard deviation of the log of a launch's median,
    without outliers, and of the log of a block within its launch. `drift` is the increase of the
    log cost from one launch to the next; `shared` the part of the variance between launches that is
    common to all cases of a launch."""

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
        new = np.sqrt(1 - rho**2) * values[..., block]
        values[..., block] = rho * values[..., block - 1] + new
    return values


def link_sequences(rng: np.random.Generator, launches: int, rounds: int, states: int) -> Ints:
    """The link's state in each round, (launches, rounds): it stays, or goes to the next state."""
    start = rng.integers(states, size=(launches, 1))
    changes = rng.random((launches, rounds - 1)) < STATE_CHANGES
    return np.asarray(np.cumsum(np.hstack([start, changes]), axis=-1) % states)


def launch_medians(costs: Floats, states: Ints, n_states: int) -> Floats:
    """Logs of the medians of a launch's blocks by state, (..., n_states), NaN for a state with
    fewer than five blocks. `costs` is (..., rounds), `states` (rounds,), below 0 for a mixed block.
    """
    medians = np.full((*costs.shape[:-1], n_states), np.nan, costs.dtype)
    for state in range(n_states):
        if np.sum(states == state) >= MIN_STATE_BLOCKS:
            medians[..., state] = np.log(np.median(costs[..., states == state], axis=-1))
    return medians


def between_launches(within: Floats, spread: float) -> float:
    """The standard deviation between launches with which medians of the blocks `within`,
    (..., rounds), scatter by `spread`."""
    variance = float(np.var(np.median(within, axis=-1)))
    return float(np.sqrt(max(0.0, spread**2 - variance)))


def launches_of(scenario: Scenario, rng: np.random.Generator) -> tuple[Floats, float]:
    """Log medians of launches to draw from, (sequences, members, states), and the standard
    deviation that the cases of a launch share."""
    if scenario.recorded:
        return np.load(RECORDED)["log_medians"], 0.0
    sequences = 1 if scenario.states == 1 else SEQUENCES
    links = link_sequences(rng, sequences, ROUNDS, scenario.states)
    shape = (sequences, MEMBERS // sequences, ROUNDS)
    within = scenario.spread * blocks(rng, shape, scenario.rho)
    between = between_launches(within, scenario.spread)
    if scenario.outliers:
        within += rng.exponential(BLOCK_EXCESS, shape) * (rng.random(shape) < OUTLYING_BLOCKS)
    within += np.log(STATE_RATIO) * links[:, None, :]
    medians = np.stack([launch_medians(costs, link, scenario.states)
                        for costs, link in zip(np.exp(within), links, strict=True)])
    own = rng.standard_normal((*medians.shape[:2], 1), dtype=np.float32)
    medians = medians + between * np.sqrt(1 - scenario.shared) * own
    return np.asarray(medians, np.float32), float(between * np.sqrt(scenario.shared))


def campaigns(scenario: Scenario, launches: tuple[Floats, float], rng: np.random.Generator,
              tables: int, cells: int, pairs: int) -> Floats:
    """Log medians, (2, tables, cells, pairs, states), baseline first, drawn from `launches_of`.

    The launches of a pair always differ. Which of them ran first is random for every other pair,
    and reversed for the pair after it."""
    medians, shared = launches
    sequences, members, _ = medians.shape
    sequence = rng.integers(sequences, size=(2, tables, 1, pairs))
    if sequences > 1:
        other = rng.integers(1, sequences, size=sequence[0].shape)
        sequence[1] = (sequence[0] + other) % sequences
    if scenario.recorded:
        member = np.resize(np.arange(members), (cells, 1))
    else:
        member = rng.integers(members, size=(2, tables, cells, pairs))
    drawn = rng.integers(2, size=(tables, -(-pairs // 2)))
    variant_first = np.stack([drawn, 1 - drawn], axis=-1).reshape(tables, -1)[:, :pairs]
    place = 2 * np.arange(pairs) + np.stack([variant_first, 1 - variant_first])
    of_launch = scenario.drift * place + shared * rng.standard_normal(place.shape)
    if scenario.outliers:
        excess = rng.exponential(LAUNCH_EXCESS, place.shape)
        of_launch += excess * (rng.random(place.shape) < OUTLYING_LAUNCHES)
    return np.asarray(medians[sequence, member] + of_launch[:, :, None, :, None])


def log_ratios(medians: Floats) -> NDArray[np.float64]:
    """The log ratio of each pair of `campaigns`, (tables, cells, pairs)."""
    return within_one_state((medians[1] - medians[0]).astype(float))[0]
