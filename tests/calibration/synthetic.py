"""Synthetic campaigns with a known truth, and rates over them. The blocks of a launch are
log-normal, an AR(1). The link changes its state in stretches, for all cases of a launch at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtrik, betainccinv, betaincinv

from wiretax.record.observations import MIN_BLOCKS

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]
Rng = np.random.Generator
Simulation = Callable[[Rng, int], "list[Figure]"]  # runs replications

# Log medians of an A/A campaign's launches as comparisons see them, (launches, cases, states).
RECORDED = Path(__file__).with_name("recorded.npz")
ROUNDS = 12
MEMBERS = 1 << 17  # launches of a case that are simulated by block; campaigns draw from them
OUTLYING, BLOCK_EXCESS, LAUNCH_EXCESS = 0.03, 0.3, 0.1  # share and mean excess of outliers


@dataclass(frozen=True)
class Scenario:
    """How launches scatter. `spread` is the standard deviation of the log of a launch's median,
    without outliers, and of a block within its launch; `drift` the increase of the log cost from
    one launch to the next; `shared` the part of the variance that all cases of a launch share.

    Each state of the link is three times as slow as the last. The log of a cell's spread is up to
    `unequal` above or below."""

    name: str
    spread: float = 0.015
    rho: float = 0.3
    drift: float = 0.0
    states: int = 1
    outliers: bool = False
    shared: float = 0.0
    unequal: float = 0.0
    recorded: bool = False


def deviates(rng: Rng, shape: tuple[int, ...], heavy: bool) -> Floats:
    """Values with variance 1: normal or, if `heavy`, Student's t with 3 degrees of freedom."""
    return rng.standard_t(3, shape) / np.sqrt(3) if heavy else rng.standard_normal(shape)


def outliers(rng: Rng, shape: tuple[int, ...], excess: float) -> Floats:
    """Nothing, or for a few the exponential excess of an outlier."""
    return np.asarray(rng.exponential(excess, shape) * (rng.random(shape) < OUTLYING))


def blocks(rng: Rng, shape: tuple[int, ...], rho: float) -> Floats:
    """AR(1) series along the last axis, each value normal with variance 1."""
    return ar1(rng.standard_normal(shape, dtype=np.float32), rho)


def ar1(noise: Floats, rho: Any) -> Floats:
    """Turns independent values of one variance, (..., n), into an AR(1) with it, in place."""
    innovation = np.sqrt(1 - np.square(rho))
    for i in range(1, noise.shape[-1]):
        noise[..., i] = rho * noise[..., i - 1] + innovation * noise[..., i]

    return noise


def link_sequences(rng: Rng, launches: int, rounds: int, states: int) -> Ints:
    """The link's state in each round, (launches, rounds): it stays, or goes to the next state."""
    start = rng.integers(states, size=(launches, 1))
    changes = rng.random((launches, rounds - 1)) < 0.15
    return np.asarray(np.cumsum(np.hstack([start, changes]), axis=-1) % states)


def launch_medians(costs: Floats, states: Ints) -> tuple[Floats, int]:
    """Logs of the medians of a launch's blocks in the state that most are in, (...,), NaN below
    five; and this state. `costs` is (..., rounds), `states` (rounds,)."""
    state = int(np.bincount(states).argmax())
    if np.sum(states == state) < MIN_BLOCKS:
        return np.full(costs.shape[:-1], np.nan, costs.dtype), state
    return np.log(np.median(costs[..., states == state], axis=-1)), state


def between_launches(within: Floats, spread: float) -> float:
    """The standard deviation between launches for medians of `within` that scatter by `spread`."""
    return float(np.sqrt(max(0.0, spread**2 - float(np.var(np.median(within, axis=-1))))))


@dataclass(frozen=True)
class Launches:
    """Log medians to draw from, (sequences, members); the state of the link of each sequence; and
    the spread that cases share."""

    medians: Floats
    states: Ints
    shared: float


def recorded() -> Launches:
    """The launches of a real campaign, each in the state that most of its cases have."""
    by_state = np.load(RECORDED)["log_medians"]
    n_cases = np.isfinite(by_state).sum(axis=1)
    states = n_cases.argmax(axis=1)
    medians = np.take_along_axis(by_state, states[:, None, None], axis=2)[..., 0]
    is_there = n_cases.any(axis=1)
    return Launches(medians[is_there], states[is_there], 0.0)


def launches_of(scenario: Scenario, rng: Rng) -> Launches:
    """The launches of a scenario, to draw from."""
    if scenario.recorded:
        return recorded()
    sequences = 1 if scenario.states == 1 else 64  # kinds of launches
    links = link_sequences(rng, sequences, ROUNDS, scenario.states)
    shape = (sequences, MEMBERS // sequences, ROUNDS)
    within = scenario.spread * blocks(rng, shape, scenario.rho)
    between = between_launches(within, scenario.spread)
    if scenario.outliers:
        within += outliers(rng, shape, BLOCK_EXCESS)
    within += np.log(3.0) * links[:, None, :]
    each = [launch_medians(costs, link) for costs, link in zip(np.exp(within), links, strict=True)]
    medians = np.stack([logs for logs, _ in each])
    own = rng.standard_normal(medians.shape, dtype=np.float32)
    medians = medians + between * np.sqrt(1 - scenario.shared) * own
    states = np.array([state for _, state in each])
    shared = float(between * np.sqrt(scenario.shared))
    return Launches(np.asarray(medians, np.float32), states, shared)


def campaigns(
    scenario: Scenario, launches: Launches, rng: Rng, tables: int, cells: int, pairs: int
) -> Floats:
    """Log medians, (2, tables, cells, pairs), baseline first, drawn from `launches`: both of a pair
    in one state of the link, since a campaign launches other pairs again. Which launch of a pair
    ran first is random for every other pair, and reversed for the next."""
    medians, states = launches.medians, launches.states
    sequences, members = medians.shape
    sequence = rng.integers(sequences, size=(2, tables, 1, pairs))
    for state in np.unique(states) if sequences > 1 else ():
        of_state = np.flatnonzero(states == state)
        is_first = states[sequence[0]] == state
        place = np.searchsorted(of_state, sequence[0][is_first])
        other = rng.integers(1, max(len(of_state), 2), size=len(place))
        sequence[1][is_first] = of_state[(place + other) % len(of_state)]
    member = (
        np.resize(np.arange(members), (cells, 1))
        if scenario.recorded
        else rng.integers(members, size=(2, tables, cells, pairs))
    )
    drawn = rng.integers(2, size=(tables, -(-pairs // 2)))
    variant_first = np.stack([drawn, 1 - drawn], axis=-1).reshape(tables, -1)[:, :pairs]
    place = 2 * np.arange(pairs) + np.stack([variant_first, 1 - variant_first])
    of_launch = scenario.drift * place + launches.shared * rng.standard_normal(place.shape)
    if scenario.outliers:
        of_launch += outliers(rng, place.shape, LAUNCH_EXCESS)
    scale = np.exp(scenario.unequal * np.sin(2.4 * np.arange(cells)))
    drawn_logs = medians[sequence, member] * np.float32(scale[:, None])
    return np.asarray(drawn_logs + of_launch[:, :, None, :])


def log_ratios(medians: Floats) -> NDArray[np.float64]:
    """The log ratio of each pair of `campaigns`, (tables, cells, pairs)."""
    return np.asarray(medians[1] - medians[0], dtype=np.float64)


@dataclass
class Figure:
    """A rate and its limits; `values`, from 0 to 1, has one for each independent replication."""

    name: str
    values: Sequence[float] | NDArray[Any]
    least: float = 0.0
    most: float = 1.0

    @property
    def weight(self) -> float:
        """The number of independent yes-or-no answers that vary as these replications do, with
        their correlated cells (Korn and Graubard, Survey Methodology 24, 1998)."""
        rate, variance = np.mean(self.values), np.var(self.values) / len(self.values)
        return float(rate * (1 - rate) / variance) if variance > 0 else len(self.values)

    def judge(self, scale: float = 1.0) -> tuple[bool, tuple[float, float], tuple[float, float]]:
        """Whether its whole interval meets the limits, its interval, and its limits, which are
        wider for `scale` < 1: the share of the replications that ran."""
        n = self.weight
        low, high = clopper_pearson(float(np.mean(self.values)), n)
        least, most = (
            _widened(limit, n / min(scale, 1.0), n) for limit in (1 - self.least, self.most)
        )
        return low >= 1 - least and high <= most, (low, high), (1 - least, most)


def clopper_pearson(rate: float, n: float) -> tuple[float, float]:
    """The 95 % interval (Biometrika 26, 1934); scipy's takes whole numbers only."""
    hits = rate * n
    low = float(betaincinv(hits, n - hits + 1, 0.025)) if hits > 0 else 0.0
    return low, float(betainccinv(hits + 1, n - hits, 0.025)) if hits < n else 1.0


def _widened(limit: float, full: float, n: float) -> float:
    """The limit over `n` tries: the upper bound of the most hits, except with a chance of 1e-5, of
    the highest rate whose upper bound over `full` tries is below `limit`."""
    if n >= full or limit >= 1 or clopper_pearson(0.0, full)[1] >= limit:
        return limit
    passing = bdtrik(0.025, full, limit) / full
    hits = bdtrik(1 - 1e-5, n, passing) + 1
    return clopper_pearson(float(hits / n), n)[1] if hits < n else 1.0
