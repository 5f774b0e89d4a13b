"""The series of a history: one for each case, machine, node, benchmark, world, dispatch and state
of the link. The launches of one side of a campaign ran close together in time: they are one point,
their median."""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reports.store.case import CASE_KEY, Key, key_of
from reports.store.observations import Costs, Entry
from reports.tables.sentences import number, size_text
from reports.trends.changes import Step
from reports.verdicts.sides import case_names
from reports.verdicts.verdict import Floats


@dataclass(eq=False)
class Series:
    """One case over runs, in order of time: `costs_us` are median costs in one state of the link.
    `steps` are the changes between them, and `word` is the verdict. `node` is the label of the
    host, if the runs have it."""

    label: str
    machine_id: str
    benchmark: str
    run_ids: Sequence[str]
    costs_us: Floats
    steps: list[Step] = field(default_factory=list)
    word: str = "too early"
    node: str | None = None

    @property
    def since(self) -> str | None:
        """The first run after the last change."""
        return self.run_ids[self.steps[-1].first] if self.steps else None

    def record(self) -> dict[str, Any]:
        """The series for `--json`; the change is a share of the cost, with its 95 % interval."""
        change = np.expm1(self.steps[-1].size).round(5).tolist() if self.steps else None
        return {
            "case": self.label,
            "machine_id": self.machine_id,
            "node": self.node,
            "benchmark": self.benchmark,
            "verdict": self.word,
            "since": self.since,
            "change": change,
            "runs": len(self.costs_us),
            "last_us": float(self.costs_us[-1]),
        }

    def row(self, step: Step) -> dict[str, str]:
        """A step as cells of a table by column; the costs are medians of up to eight runs."""
        costs_us = self.costs_us.tolist()
        estimate, low, high = np.exp(step.size) - 1
        return {
            "case": self.label,
            "verdict": step.word,
            "before, us": number(median(costs_us[: step.first][-8:])),
            "after, us": number(median(costs_us[step.first :][:8])),
            "change [95 %]": f"{estimate:+.1%} [{low:+.1%} {high:+.1%}]",
        }


def series_of(
    entries: Sequence[Entry],
    costs: Costs,
    variant: str,
    node: str | None,
    names: dict[tuple[Key, ...], list[str]],
) -> Iterator[Series]:
    """The series of runs that were measured alike on a `node`, of a `variant` of campaigns or, if
    it is empty, outside. `names` are names of cases by their keys, as far as they are known."""
    run, rtt_ns, columns = entries[0].run, costs.rtt_ns, _columns(costs)
    planned = tuple(columns)
    if planned not in names:
        plans = {id(entry.run.cases): entry.run.cases for entry in entries}
        cases = {key_of(case): case for plan in plans.values() for case in plan}
        names[planned] = case_names([cases[costs.keys[columns[key][-1]]] for key in planned])
    size = CASE_KEY.index("size_bytes")
    run_ids = [entry.run.run_id for entry in entries]
    sides = [
        entry.path.parent if variant else run_id
        for entry, run_id in zip(entries, run_ids, strict=True)
    ]
    ids: dict[Any, str] = {}
    for side, run_id in zip(sides, run_ids, strict=True):
        ids.setdefault(side, run_id)  # the first run of each side stands for it
    place = {side: number for number, side in enumerate(ids)}
    points, all_ids = np.array([place[side] for side in sides]), list(ids.values())
    label_of = dict(zip(planned, names[planned], strict=True))
    ids_of: dict[bytes, list[str]] = {}
    for key, state in sorted(
        product(columns, range(costs.us.shape[-1])), key=lambda item: (item[0][size], str(item))
    ):
        medians_us = _points_us(costs.us[:, columns[key], state], points)
        is_there = np.isfinite(medians_us)
        if not is_there.any():
            continue
        if is_there.tobytes() not in ids_of:
            ids_of[is_there.tobytes()] = [all_ids[place] for place in np.flatnonzero(is_there)]
        link = f"link {rtt_ns[state]:.0f} ns" if len(rtt_ns) > 1 else ""
        words = [size_text(key[size]), label_of[key], link, variant]
        yield Series(
            " ".join(filter(None, words)),
            run.machine_id,
            run.benchmark,
            ids_of[is_there.tobytes()],
            medians_us[is_there],
            node=node,
        )


def n_unjudged(costs: Costs) -> int:
    """The number of series that no run has enough blocks for."""
    has_cost: NDArray[np.bool_] = np.isfinite(costs.us).max(axis=(0, 2))
    is_measured: NDArray[np.bool_] = costs.is_measured.max(axis=0)
    if (has_cost >= is_measured).all():
        return 0
    return sum(
        bool(is_measured[own].any() and not has_cost[own].any()) for own in _columns(costs).values()
    )


def _columns(costs: Costs) -> dict[Key, list[int]]:
    """The columns of each series: the library's version, in the last value of a key, may change
    within a series."""
    columns: dict[Key, list[int]] = defaultdict(list)
    for column, key in enumerate(costs.keys):
        columns[(*key[:-1], re.split(r"\s*\d", key[-1] or "")[0])].append(column)
    return columns


def _points_us(costs_us: Floats, points: NDArray[np.int64]) -> Floats:
    """The median of costs, (runs, columns), at each point, or NaN; `points` has those of runs."""
    if costs_us.shape[1] == 1 and len(points) == points[-1] + 1:
        return costs_us[:, 0]
    of_points = [costs_us[points == point] for point in range(points.max() + 1)]
    return np.array(
        [
            np.median(costs[np.isfinite(costs)]) if np.isfinite(costs).any() else np.nan
            for costs in of_points
        ]
    )


@dataclass
class Event:
    """Steps of series of a machine and benchmark, the largest first. `run` is the first run after
    them; `sentences` say how certain that is, and what else changed there."""

    machine_id: str
    benchmark: str
    run: str
    changes: list[tuple[Series, Step]]
    sentences: list[str]
    node: str | None = None

    @property
    def machine(self) -> str:
        """The machine and, if it is known, the node."""
        return f"{self.machine_id}, node {self.node}" if self.node else self.machine_id
