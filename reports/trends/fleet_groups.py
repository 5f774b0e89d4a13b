"""The nodes of a store against their peers of equal hardware: which gave wrong results, failed or
are slow. Runs over two hosts compare pairs of nodes. `fleet` prints it."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from reports.store.case import CASE_KEY
from reports.store.foreign import printable
from reports.store.manifest import MANIFEST, run_files
from reports.store.result import ResultError, read
from reports.store.schema import Case, Result, Run
from reports.tables.rows import MIN_STATE_BLOCKS
from reports.tables.sentences import some
from reports.verdicts.outliers import (
    LEAST_NODES,
    Screen,
    by_launch,
    explain_pairs,
    mean,
    median,
    screen,
)
from reports.verdicts.sides import COMPARABLE, Key, Launch, find_costs, key_of

FINE, FOUND, UNDECIDED = 0, 1, 3  # exit statuses
VERDICTS = WRONG, FAILED, SLOW, SUSPECT, EQUAL = "WRONG", "FAILED", "SLOW", "SUSPECT", "fine"
Column = tuple[Key, int]  # a case in a state of the link
Costs = dict[Column, list[float]]  # of a launch, in us
PAIR = "+"  # between the labels of a pair, as in the column `node`


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
        return (f"{self.head.benchmark}, {self.head.world['size']} ranks, machine "
                f"{self.head.machine_id}")

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
    """The groups of a store; by node, the runs with wrong results, and those that did not finish
    on a node without any that did; sentences on what is left out."""

    groups: list[Group] = field(default_factory=list)
    wrong: dict[str, list[str]] = field(default_factory=dict)
    failed: dict[str, list[str]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)

    @property
    def nodes(self) -> list[str]:
        """Every node with a run, by name."""
        return sorted({node for run in self.runs for node in run.nodes})

    def named(self, verdict: str) -> list[tuple[Group, int]]:
        """The rows with a verdict, slowest first."""
        rows = [(group, row) for group in self.groups for row in range(len(group.names))
                if group.verdict(row) == verdict]
        return sorted(rows, key=lambda item: -item[0].size_of_excess(item[1]))

    @property
    def status(self) -> int:
        """FOUND if a node is wrong, failed or slow, or a rack slow; UNDECIDED if some node should
        run once more or no group has enough nodes."""
        has_rack = any(group.screen.slow_racks for group in self.groups)
        if self.wrong or self.failed or has_rack or self.named(SLOW):
            return FOUND
        is_judged = any(len(group.names) >= LEAST_NODES for group in self.groups)
        return FINE if is_judged and not self.named(SUSPECT) else UNDECIDED


def read_runs(folder: Path, left_out: dict[str, list[str]]) -> Iterator[Result]:
    """Each run below `folder` once; `left_out` gets the other files by reason."""
    run_ids = set[str]()
    for path, problem in run_files(folder):
        if path.name == MANIFEST:
            continue
        try:
            result = None if problem else read(path)
        except ResultError:
            result, problem = None, "not a run that can be read"
        if result and result.run.run_id in run_ids:
            result, problem = None, "a run once more"
        if result:
            run_ids.add(result.run.run_id)
            yield result
        else:
            left_out[problem].append(printable(path.name))


def load(folder: Path) -> Fleet:
    """The fleet whose runs lie below `folder`. Raises ResultError without a run of a labelled
    node."""
    left_out: dict[str, list[str]] = defaultdict(list)
    fleet, finished = Fleet(), set[str]()
    unfinished: dict[str, list[str]] = defaultdict(list)
    alike: dict[tuple[str, ...], list[Launch]] = defaultdict(list)
    for result in read_runs(folder, left_out):
        run = result.run
        if not run.nodes:
            left_out["without the label of a node"].append(printable(result.path.name))
            continue
        fleet.runs.append(run)
        if any(case.status == "wrong" for case in result.cases):
            for node in run.nodes:
                fleet.wrong.setdefault(node, []).append(run.run_id)
        elif not result.complete:
            for node in run.nodes:
                unfinished[node].append(run.run_id)
        else:
            finished.update(run.nodes)
            facts = (str(COMPARABLE[name](result)) for name in ("machine", "world", "statistic"))
            alike[tuple(facts)].append(Launch(result, "first", 0))
    fleet.failed = {node: runs for node, runs in unfinished.items() if node not in finished}
    for launches in alike.values():
        fleet.groups += _groups(launches, len(alike), left_out)
    some_left = sum(len(runs) for node, runs in unfinished.items() if node in finished)
    fleet.left_out = [f"left out, {reason}: {len(names)} ({some(names)})"
                      for reason, names in left_out.items()]
    if some_left:
        fleet.left_out.append(f"left out, unfinished on nodes with finished runs: {some_left}")
    if not fleet.runs:
        raise ResultError("; ".join([f"{folder} has no run with the label of a node: runs store it "
                                     "since this version, in containers with WIRETAX_NODE",
                                     *fleet.left_out]))
    fleet.groups.sort(key=lambda group: -len(group.names))
    return fleet


def place_of(case: Case, run: Run) -> tuple[str, Key] | None:
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
            key = tuple(msgspec.json.encode(rest).decode() if name == "shape" else value
                        for name, value in zip(CASE_KEY, key, strict=True))
    else:
        ends = sorted(run.nodes)
    return (PAIR.join(ends), key) if len(ends) <= 2 else None


def _groups(launches: Sequence[Launch], families: int,
            left_out: dict[str, list[str]]) -> list[Group]:
    """The groups of nodes and of pairs of launches that were measured alike; `left_out` gets the
    launches that no group can use."""
    find_costs(launches, ())
    rows: dict[tuple[str, int], Costs] = defaultdict(lambda: defaultdict(list))
    sizes: dict[Column, int] = {}
    for number, launch in enumerate(launches):
        for case in launch.result.cases:
            costs_us = launch.costs.get(key_of(case))
            if costs_us and (place := place_of(case, launch.result.run)):
                for state, cost_us in costs_us.items():
                    rows[place[0], number][place[1], state].append(cost_us)
                    sizes[place[1], state] = case.size_bytes
    used = {number for _, number in rows}
    for number, launch in enumerate(launches):
        if number not in used:
            reason = ("over more than two hosts" if any(launch.costs.values()) else
                      f"with fewer than {MIN_STATE_BLOCKS} blocks in one state of the link")
            left_out[reason].append(printable(launch.result.path.name))
    head = launches[-1].result.run
    of_kinds = ({row: costs for row, costs in rows.items() if (PAIR in row[0]) == is_pair}
                for is_pair in (False, True))
    return [_group(head, of_kind, sizes, families) for of_kind in of_kinds if of_kind]


def _group(head: Run, rows: Mapping[tuple[str, int], Costs], sizes: Mapping[Column, int],
           families: int) -> Group:
    """Screens the rows of a launch on a node or pair. A case counts in the state of the link that
    most nodes had."""
    nodes_of = Counter(column for column, _ in {
        (column, name) for (name, _), costs_us in rows.items() for column in costs_us})
    columns: dict[Key, Column] = {}
    for column in sorted(nodes_of, key=lambda column: (nodes_of[column], -column[1])):
        columns[column[0]] = column
    names = sorted({name for name, _ in rows})
    node_of = np.array([names.index(name) for name, _ in rows])
    logs = np.log([[np.median(costs_us.get(column, np.nan)) for column in columns.values()]
                   for costs_us in rows.values()])
    excess = logs - median(median(by_launch(logs, node_of), 1), 0)
    size_of = np.array([sizes[column] for column in columns.values()])
    sizes_bytes = sorted({*size_of.tolist()})
    by_size = np.column_stack([mean(excess[:, size_of == size], 1) for size in sizes_bytes])
    racks = [name.rpartition("-")[0] if PAIR not in name else "" for name in names]
    group = Group(head, names, sizes_bytes, screen(by_size, node_of, racks, families))
    if group.kind == "pair":
        pairs = [(name.split(PAIR)[0], name.split(PAIR)[1]) for name in names]
        group.explained = explain_pairs(pairs, group.screen.is_named, group.screen.level)
    return group
