"""The nodes of a store, or pairs of nodes by runs over two hosts, against their peers of equal
hardware: which gave wrong results, failed or are slow. `fleet` prints it."""

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from reports.store.case import CASE_KEY, MIN_STATE_BLOCKS, Key, key_of
from reports.store.observations import Contents, Costs, Entry, alike_of, costs_of, read_store
from reports.store.result import ResultError
from reports.store.schema import CaseFields, Run
from reports.store.untrusted import printable
from reports.tables.sentences import some
from reports.verdicts.outliers import (
    LEAST_NODES,
    Screen,
    by_launch,
    explain_pairs,
    mean,
    median,
    screen,
    shares,
)
from reports.verdicts.verdict import Floats

FINE, FOUND, UNDECIDED = 0, 1, 3  # exit statuses
WRONG, FAILED, RUNNING, SLOW, SUSPECT, EQUAL = (
    "WRONG",
    "FAILED",
    "RUNNING",
    "SLOW",
    "SUSPECT",
    "fine",
)
PAIR = "+"  # between the labels of a pair, as in the column `node`
QUIET_S = 900  # a run without an end that was not written to for so long was cut off


@dataclass
class Group:
    """Nodes, or pairs of nodes, with equal hardware that were measured alike, in the order of the
    rows of `screen`. `head` is the head of one of the runs; `explained` is of slow pairs."""

    head: Run
    names: list[str]
    sizes_bytes: list[int]
    screen: Screen
    explained: list[tuple[str, list[int]]] = field(default_factory=list)

    @property
    def kind(self) -> str:
        return "pair" if PAIR in self.names[0] else "node"

    @property
    def title(self) -> str:
        return (
            f"{self.head.benchmark}, {self.head.world['size']} ranks, machine "
            f"{self.head.machine_id}"
        )

    def verdict(self, row: int) -> str:
        if not self.screen.is_named[row]:
            return EQUAL
        return SLOW if self.screen.is_replicated[row] else SUSPECT

    def slow_sizes(self, row: int) -> list[int]:
        """The sizes at which it is slow, if it is not slow over all."""
        if self.screen.is_slow_overall[row]:
            return []
        return [self.sizes_bytes[size] for size in np.flatnonzero(self.screen.is_slow[row])]

    def size_of_excess(self, row: int) -> float:
        """The log excess over all sizes, or of its slowest size if only some are slow."""
        worst = np.nanmax(self.screen.excess[row])
        return float(worst if self.slow_sizes(row) else self.screen.level[row])

    def excess(self, row: int) -> str:
        """`+5.1% [3.9% 6.2%]` over all sizes, or of its slowest size without an interval."""
        if self.slow_sizes(row):
            return f"{np.expm1(self.size_of_excess(row)):+.1%}"
        ends = (array[row] for array in (self.screen.level, self.screen.low, self.screen.high))
        value, low, high = np.expm1(list(ends))
        return f"{value:+.1%} [{low:+.1%} {high:+.1%}]"


@dataclass
class Fleet:
    """The groups of a store; by node, the runs with wrong results, and those that failed or are
    still written on a node without any that finished; sentences on what is left out."""

    store: Path
    groups: list[Group] = field(default_factory=list)
    wrong: dict[str, list[str]] = field(default_factory=dict)
    failed: dict[str, list[str]] = field(default_factory=dict)
    running: dict[str, list[str]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)

    @property
    def nodes(self) -> list[str]:
        return sorted({node for run in self.runs for node in run.nodes})

    @property
    def bad_runs(self) -> list[tuple[str, dict[str, list[str]]]]:
        """The verdicts on runs, worst first, with the runs of each node."""
        return [(WRONG, self.wrong), (FAILED, self.failed), (RUNNING, self.running)]

    def named(self, verdict: str) -> list[tuple[Group, int]]:
        """The rows with a verdict, slowest first."""
        rows = [
            (group, row)
            for group in self.groups
            for row in range(len(group.names))
            if group.verdict(row) == verdict
        ]
        return sorted(rows, key=lambda item: -item[0].size_of_excess(item[1]))

    @property
    def status(self) -> int:
        """FOUND if a node is wrong, failed or slow, or a rack slow; UNDECIDED if some node should
        run once more or still runs, or no group has enough nodes."""
        is_replicated = any(
            group.screen.slow_racks or any(node for node, _ in group.explained)
            for group in self.groups
        )
        if self.wrong or self.failed or is_replicated or self.named(SLOW):
            return FOUND
        is_judged = any(len(group.names) >= LEAST_NODES for group in self.groups)
        is_open = self.running or self.named(SUSPECT)
        return FINE if is_judged and not is_open else UNDECIDED


def load(folder: Path) -> Fleet:
    """The fleet whose runs lie below `folder`. Raises ResultError without a run of a labelled
    node."""
    return fleet_of(read_store(folder))


def fleet_of(contents: Contents) -> Fleet:
    """The fleet of these runs, each once. Raises ResultError without a run of a labelled node."""
    left_out: dict[str, list[str]] = defaultdict(list)
    for path, problem in contents.problems:
        left_out[problem].append(printable(path.name))
    for path, _ in contents.refused:
        left_out["not a run that can be read"].append(printable(path.name))
    fleet, finished, run_ids = Fleet(contents.folder), set[str](), set[str]()
    failed, running = (defaultdict[str, list[str]](list) for _ in range(2))
    alike: dict[tuple[Any, ...], list[Entry]] = defaultdict(list)
    # Of copies of a run, a complete one counts.
    for entry in sorted(contents.entries, key=lambda entry: not entry.complete):
        run = entry.run
        if run.run_id in run_ids or not run.nodes:
            reason = "a run once more" if run.run_id in run_ids else "without the label of a node"
            left_out[reason].append(printable(entry.path.name))
            continue
        run_ids.add(run.run_id)
        fleet.runs.append(run)
        if entry.wrong:
            for node in run.nodes:
                fleet.wrong.setdefault(node, []).append(run.run_id)
        elif not entry.complete:
            for node in run.nodes:
                (running if is_running(entry) else failed)[node].append(run.run_id)
        else:
            finished.update(run.nodes)
            alike[alike_of(entry)].append(entry)
    fleet.failed = {node: runs for node, runs in failed.items() if node not in finished}
    fleet.running = {
        node: runs for node, runs in running.items() if node not in finished | failed.keys()
    }
    families = [
        family
        for entries in alike.values()
        for family in _families(entries, costs_of(entries), left_out)
    ]
    fleet.groups = judged(families)
    fleet.left_out = [
        f"left out, {reason}: {len(names)} ({some(names)})" for reason, names in left_out.items()
    ]
    for reason, all_of, named in (
        ("incomplete", failed, fleet.failed),
        ("still running", running, fleet.running),
    ):
        if rest := {run for node in all_of.keys() - named.keys() for run in all_of[node]}:
            fleet.left_out.append(f"left out, {reason}, on nodes with other runs: {len(rest)}")
    if not fleet.runs:
        problem = (
            f"{contents.folder} has no run with the label of a node: runs store it since "
            "this version, in containers with WIRETAX_NODE"
        )
        raise ResultError("; ".join([problem, *fleet.left_out]))
    return fleet


def is_running(entry: Entry) -> bool:
    """Whether a run may still be written: it has no end, and was written to a short time ago."""
    try:
        return entry.end is None and time.time() - entry.path.stat().st_mtime < QUIET_S
    except OSError:
        return False


def place_of(case: CaseFields, run: Run) -> tuple[str, Key] | None:
    """The node or the pair that a case measured, and the key that it shares with its peers; None
    if it spans more nodes."""
    key, shape = key_of(case), case.shape if isinstance(case.shape, dict) else {}
    if {"src", "dst"} <= shape.keys():
        ranks = run.world["ranks"]
        if max(shape["src"], shape["dst"]) >= len(ranks):
            return None
        ends = sorted({ranks[shape[end]]["node"] for end in ("src", "dst")})
        if len(ends) == 2:
            rest = {name: part for name, part in shape.items() if name not in ("src", "dst")}
            key = tuple(
                msgspec.json.encode(rest).decode() if name == "shape" else value
                for name, value in zip(CASE_KEY, key, strict=True)
            )
    else:
        ends = sorted(run.nodes)
    return (PAIR.join(ends), key) if len(ends) <= 2 else None


class Family(NamedTuple):
    """Runs on nodes, or on pairs of nodes, that were measured alike: the head of one, the name of
    each row of `costs_us` (rows, keys, states), and the sizes of the keys in bytes."""

    head: Run
    names: list[str]
    costs_us: Floats
    sizes: NDArray[Any]


def _families(
    entries: Sequence[Entry], costs: Costs, left_out: dict[str, list[str]]
) -> list[Family]:
    """The runs that were measured alike, on nodes and on pairs; `left_out` gets the runs that
    cannot be used."""
    numbers: dict[Key, int] = {}
    layouts: dict[Any, dict[str, dict[int, list[int]]]] = {}
    ids = [
        (id(entry.run.cases), *(rank.get("node") for rank in entry.run.world["ranks"]))
        for entry in entries
    ]
    for plan, entry in zip(ids, entries, strict=True):
        if plan not in layouts:
            layouts[plan] = _layout(entry.run, costs, numbers)
    names, rows = list[str](), list[Floats]()
    for entry, plan, costs_us in zip(entries, ids, costs.us, strict=True):
        former = len(rows)
        for name, layout in layouts[plan].items():
            row_us = np.full((len(numbers), costs_us.shape[1]), np.nan)
            own = [columns[0] for columns in layout.values()]
            row_us[list(layout)] = costs_us[own]
            for number, columns in layout.items():
                if len(columns) > 1:
                    row_us[number] = median(costs_us[columns], 0)
            if np.isfinite(row_us).any():
                names.append(name)
                rows.append(row_us)
        if len(rows) == former:
            reason = (
                "over more than two hosts"
                if np.isfinite(costs_us).any()
                else f"with fewer than {MIN_STATE_BLOCKS} blocks in one state of the link"
            )
            left_out[reason].append(printable(entry.path.name))
    sizes = np.array([key[CASE_KEY.index("size_bytes")] for key in numbers])
    is_pair = np.array([PAIR in name for name in names], dtype=bool)
    return [
        Family(
            entries[-1].run,
            [names[row] for row in of_kind],
            np.array([rows[row] for row in of_kind]),
            sizes,
        )
        for of_kind in (np.flatnonzero(~is_pair), np.flatnonzero(is_pair))
        if len(of_kind)
    ]


def _layout(run: Run, costs: Costs, numbers: dict[Key, int]) -> dict[str, dict[int, list[int]]]:
    """For each node or pair of a run the columns of `costs` that are its figures, by the number of
    the key that it shares with its peers. Adds new keys to `numbers`."""
    column_of = {key: column for column, key in enumerate(costs.keys)}
    layout: dict[str, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for case in run.cases:
        if place := place_of(case, run):
            number = numbers.setdefault(place[1], len(numbers))
            layout[place[0]][number].append(column_of[key_of(case)])
    return layout


def judged(families: Sequence[Family]) -> list[Group]:
    """The families, screened. Those with enough nodes share the false alarms of the report."""
    families = sorted(families, key=lambda family: -len({*family.names}))
    large = [family for family in families if len({*family.names}) >= LEAST_NODES]
    parts = shares([PAIR in family.names[0] for family in large])
    parts += [0.0] * (len(families) - len(large))
    return [_group(*family, p) for family, p in zip(families, parts, strict=True)]


def _group(
    head: Run, names_of_rows: Sequence[str], costs_us: Floats, sizes: NDArray[Any], p: float
) -> Group:
    """Screens a family, with the chance `p` of a false alarm. A case counts in the state of the
    link that most nodes had; of a node that never had it in its own, so that a node with a slow
    link shows."""
    names = sorted({*names_of_rows})
    node_of = np.array([names.index(name) for name in names_of_rows])
    counts = np.array(
        [np.isfinite(costs_us[node_of == node]).sum(axis=0) for node in range(len(names))]
    )  # (nodes, keys, states)
    common = np.argmax((counts > 0).sum(axis=0), axis=-1)  # the fastest of equally frequent ones
    had_it = np.take_along_axis(counts, common[None, :, None], axis=2)[:, :, 0] > 0
    state_of = np.where(had_it, common, np.argmax(counts, axis=-1))
    has_costs = (counts > 0).any(axis=(0, 2))
    of_state = np.take_along_axis(costs_us, state_of[node_of][:, :, None], axis=2)[:, :, 0]
    logs = np.log(of_state[:, has_costs])
    size_of = sizes[has_costs]
    excess = logs - median(median(by_launch(logs, node_of), 1), 0)
    sizes_bytes = sorted({*size_of.tolist()})
    by_size = np.column_stack([mean(excess[:, size_of == size], 1) for size in sizes_bytes])
    racks = [name.rpartition("-")[0] if PAIR not in name else "" for name in names]
    group = Group(head, names, sizes_bytes, screen(by_size, node_of, racks, p))
    if group.kind == "pair":
        pairs = [(name.split(PAIR)[0], name.split(PAIR)[1]) for name in names]
        group.explained = explain_pairs(pairs, group.screen)
    return group
