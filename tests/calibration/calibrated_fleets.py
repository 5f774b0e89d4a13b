"""Claims on `fleet`: how often equal nodes have an alarm, and how often slow nodes are named."""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd

from reports.trends.slow_nodes import EQUAL, REPORT_P, SLOW, screen
from tests.calibration.synthetic import (
    LAUNCH_EXCESS,
    OUTLYING,
    Figure,
    Floats,
    Rng,
    Simulation,
    outliers,
)

NODES, SIZES = 200, 12
SLOWER = 0.05


@dataclass(frozen=True)
class Machines:
    """How the launches of a fleet scatter. `spread` is the standard deviation of the log of a
    launch's median, 70 % of its variance common to all sizes; `between` is the one of nodes.
    `outliers`: 3 % of launches are slower by 10 % on average; `disturbed`: 3 % of launches are
    slower by this share. `heavy`: nodes differ by Student's t with 5 degrees of freedom."""

    launches: int
    spread: float = 0.015
    between: float = 0.005
    nodes: int = NODES
    outliers: bool = False
    heavy: bool = False
    disturbed: float = 0.0

    def __str__(self) -> str:
        words = {
            f"{self.nodes} nodes x {self.launches}": True,
            f"{self.spread * 100:g} %": self.spread != Machines.spread,
            "outliers": self.outliers,
            f"+{self.disturbed:.0%}": self.disturbed,
            "nodes vary by t with 5 df": self.heavy,
        }
        return ", ".join(word for word, holds in words.items() if holds)

    def draw(self, rng: Rng) -> Floats:
        """Log costs, (nodes, launches, sizes)."""
        shape = self.nodes, self.launches, SIZES
        logs = self.between * _common(rng, (self.nodes, 1, SIZES))
        if self.heavy:  # a normal value over a chi of 5 degrees of freedom, with variance 1
            logs *= np.sqrt(3 / rng.chisquare(5, (self.nodes, 1, 1)))
        logs = logs + self.spread * _common(rng, shape)
        if self.outliers:
            logs += outliers(rng, shape[:2], LAUNCH_EXCESS)[..., None]
        logs += (np.log1p(self.disturbed) * (rng.random(shape[:2]) < OUTLYING))[..., None]
        return np.asarray(logs)


def _common(rng: Rng, shape: tuple[int, ...]) -> Floats:
    """Deviates with variance 1, of which 0.7 is common along the last axis."""
    shared = rng.standard_normal((*shape[:-1], 1))
    return np.asarray(np.sqrt(0.7) * shared + np.sqrt(0.3) * rng.standard_normal(shape))


def screened(logs: Floats, p: float = REPORT_P) -> pd.DataFrame:
    """The nodes of (nodes, launches, sizes), screened."""
    n_nodes, launches, sizes = logs.shape
    index = pd.MultiIndex.from_product([range(n_nodes), range(launches)])
    rows = pd.DataFrame(logs.reshape(-1, sizes), index)
    screened: pd.DataFrame = screen(rows.dropna(how="all"), p)[0]
    return screened


def equal_nodes(machines: Machines, most: float, rng: Rng, n: int) -> list[Figure]:
    """The share of fleets with an alarm if no node is slow: any node is named; and those
    in which its launches agree. `most` limits the second if launches are disturbed, otherwise the
    first. Runs a fifth of the replications."""
    alarmed, replicated = list[bool](), list[bool]()
    for _ in range(n // 5):
        seen = screened(machines.draw(rng))
        alarmed.append(bool((seen.verdict != EQUAL).any()))
        replicated.append(bool((seen.verdict == SLOW).any()))
    limits = (1.0, most) if machines.outliers or machines.disturbed else (most, 1.0)
    return [
        Figure(f"{machines}: any", alarmed, most=limits[0]),
        Figure(f"{machines}: SLOW", replicated, most=limits[1]),
    ]


def slow_nodes(machines: Machines, number: int, least: float, rng: Rng, n: int) -> list[Figure]:
    """Some nodes are slower by 5 %: how often all of them are named, with no other, and their
    intervals cover the truth. Runs a fifth of the replications."""
    named, others, covered = list[bool](), list[bool](), list[float]()
    for _ in range(n // 5):
        levels = machines.between * _common(rng, (machines.nodes, 1, SIZES))
        levels[:number] += np.log1p(SLOWER)
        seen = screened(replace(machines, between=0.0).draw(rng) + levels)
        named.append(bool((seen.verdict[:number] != EQUAL).all()))
        others.append(bool((seen.verdict[number:] != EQUAL).any()))
        truth = np.expm1(levels[:number].mean(axis=(1, 2)))
        covers = (seen.low[:number] <= truth) & (truth <= seen.high[:number])
        covered.append(float(covers.mean()))
    name = f"{machines}, {number} slow"
    most = 0.10 if machines.outliers else 0.05
    return [
        Figure(f"{name}: named", named, least),
        Figure(f"{name}: another", others, most=most),
        Figure(f"{name}: interval", covered, 0.93),
    ]


CLAIMS: dict[str, list[Simulation]] = {
    "A fleet of equal nodes: any alarm": [
        *(
            partial(equal_nodes, machines, 0.05)
            for machines in (
                Machines(5),
                Machines(1),
                Machines(3, 0.005, 0.0),
                Machines(2, 0.03, 0.01),
                Machines(3, nodes=20),
                Machines(1, nodes=8),
                Machines(3, nodes=4),
            )
        ),
        partial(equal_nodes, Machines(5, heavy=True), 1.0),
        *(
            partial(equal_nodes, machines, 0.05)
            for machines in (
                Machines(5, outliers=True),
                Machines(3, outliers=True),
                Machines(1, outliers=True),
                Machines(5, disturbed=0.3),
                Machines(3, 0.03, disturbed=0.3),
                Machines(2, disturbed=0.3),
                Machines(1, disturbed=0.3),
            )
        ),
        partial(equal_nodes, Machines(5, 0.03, disturbed=0.3), 0.10),
    ],
    "Nodes slower by 5 %": [
        partial(slow_nodes, Machines(5), 1, 0.95),
        partial(slow_nodes, Machines(5), 2, 0.90),
        partial(slow_nodes, Machines(1, 0.005), 1, 0.95),
        partial(slow_nodes, Machines(5, outliers=True), 1, 0.90),
        partial(slow_nodes, Machines(1), 1, 0.0),
    ],
}
