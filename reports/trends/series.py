"""The series of a history: one for each case, machine, node, benchmark, world, dispatch and state
of the link. The launches of one side of a campaign ran close together in time: they are one point,
their median."""

import re
from collections import Counter, defaultdict
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, product
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reports.store.case import CASE_KEY, Key, key_of
from reports.store.observations import Costs, Entry
from reports.tables.sentences import number, size_text, some
from reports.trends.changes import Step
from reports.verdicts.sides import case_names
from reports.verdicts.verdict import Floats


@dataclass(eq=False)
class Series:
    """One case over runs, in order of time: `costs_us` are median costs in one state of the link.
    `steps` are the changes between them; `quiet` is the verdict without any. `node` is the label of
    the host, if the runs have it."""

    label: str
    machine_id: str
    benchmark: str
    run_ids: Sequence[str]
    costs_us: Floats
    steps: list[Step] = field(default_factory=list)
    quiet: str = "too early"
    node: str | None = None

    @property
    def last_step(self) -> Step | None:
        """The last change that does not rest on disturbed runs."""
        return next((step for step in reversed(self.steps) if step.is_alarm), None)

    @property
    def word(self) -> str:
        return self.last_step.word if self.last_step else self.quiet

    @property
    def since(self) -> str | None:
        """The first run after the last change."""
        return self.run_ids[self.last_step.first] if self.last_step else None

    def mark_disturbed(self, disturbed: Container[str]) -> None:
        """Marks the steps to or from a level with disturbed runs only: they are no alarms."""
        places = [0, *(step.first for step in self.steps), len(self.run_ids)]
        is_disturbed = [
            all(run_id in disturbed for run_id in self.run_ids[start:stop])
            for start, stop in pairwise(places)
        ]
        for step, ends in zip(self.steps, pairwise(is_disturbed), strict=True):
            step.is_alarm = not any(ends) or all(ends)

    def record(self) -> dict[str, Any]:
        """The series for `--json`; the change is a share of the cost, with its 95 % interval."""
        change = np.expm1(self.last_step.log_ratio).round(5).tolist() if self.last_step else None
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
        estimate, low, high = np.exp(step.log_ratio) - 1
        return {
            "case": self.label,
            "verdict": step.word if step.is_alarm else "disturbed",
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
    """Steps of series of a machine and benchmark, the largest first, out of `n_series`. `run` is
    the first run after them; `sentences` say how certain that is and what else changed there, and
    `changed` has the names of that."""

    machine_id: str
    benchmark: str
    run: str
    changes: list[tuple[Series, Step]]
    n_series: int
    sentences: list[str]
    changed: list[str]
    node: str | None = None

    @property
    def is_alarm(self) -> bool:
        return any(step.is_alarm for _, step in self.changes)

    @property
    def total(self) -> float:
        """The sum of its changes, as logarithms: the largest event has most of it."""
        return sum(abs(step.log_ratio[0]) for _, step in self.changes)

    @property
    def change(self) -> float:
        """The median change of its series, as a share of the cost."""
        return float(np.expm1(np.median([step.log_ratio[0] for _, step in self.changes])))

    @property
    def headline(self) -> str:
        """`2026-11-17: all 198 series worse, median +5.0 %, software_id changed`."""
        words = Counter(step.word for _, step in self.changes)
        (word, n), *others = words.most_common()
        number = f"all {n}" if n == self.n_series else f"{n} of {self.n_series}"
        mixed = "".join(f", {n} {word}" for word, n in others)
        facts = some(self.changed, 2) or "nothing recorded"
        end = "" if self.is_alarm else "; no alarm: its runs were disturbed"
        return (
            f"{self.run[:10]}: {number} series {word}{mixed}, median {100 * self.change:+.1f} %, "
            f"{facts} changed{end}"
        )

    @property
    def machine(self) -> str:
        """The machine and, if it is known, the node."""
        return f"{self.machine_id}, node {self.node}" if self.node else self.machine_id
