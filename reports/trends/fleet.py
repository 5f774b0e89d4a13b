"""The command `fleet`: the nodes of a store, or pairs of nodes by runs over two hosts, against
their peers of equal hardware: which gave wrong results, failed or are slow. `slow_nodes` has the
statistics."""

import argparse
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from reports.store.case import CASE_KEY, MIN_STATE_BLOCKS, Key, key_of
from reports.store.folder import COPY, SLOWED, Contents, read_store
from reports.store.observations import Costs, Entry, alike_of, costs_of
from reports.store.report_json import write_json
from reports.store.result import ResultError
from reports.store.schema import CaseFields, Run
from reports.store.untrusted import printable
from reports.tables.command import command_again
from reports.tables.sentences import size_text, some, wrapped
from reports.trends.slow_nodes import (
    LEAST_LAUNCHES,
    LEAST_NODES,
    PAIR,
    SLOW,
    SUSPECT,
    Family,
    Group,
    judged,
    median,
)
from reports.verdicts.verdict import Floats

FINE, FOUND, UNDECIDED = 0, 1, 3  # exit statuses
WRONG, FAILED, RUNNING = "WRONG", "FAILED", "RUNNING"
QUIET_S = 900  # a run without an end that was not written to for so long was cut off
MOST_ROWS = 20  # named nodes in the table of a group, unless --long
MOST_GROUPS = 3
ROW = "{:<34.34} {:>5}  {:<24} {:<8} {}"


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
        """The rows with a verdict, slowest first, without the pairs that a slow node explains."""
        rows = [
            (group, row)
            for group in self.groups
            for row in group.order
            if group.verdict(row) == verdict and row not in explained(group)
        ]
        return sorted(rows, key=lambda item: -item[0].figures[item[1], 0])

    @property
    def status(self) -> int:
        """FOUND if a node is wrong, failed or slow; UNDECIDED if some node should run once more or
        still runs, or no group has enough nodes."""
        if self.wrong or self.failed or self.named(SLOW) or any(map(explained, self.groups)):
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
    fleet, finished = Fleet(contents.folder), set[str]()
    failed, running = (defaultdict[str, list[str]](list) for _ in range(2))
    alike: dict[tuple[Any, ...], list[Entry]] = defaultdict(list)
    for entry in contents.entries:
        run = entry.run
        if entry.left_out in (COPY, SLOWED) or not run.nodes:
            reason = entry.left_out if run.nodes else "without the label of a node"
            left_out[reason].append(printable(entry.path.name))
            continue
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
    names, rows, disturbance = list[str](), list[Floats](), list[float]()
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
                disturbance.append(entry.disturbance)
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
            [disturbance[row] for row in of_kind],
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", metavar="STORE", type=Path, help="runs of all nodes, at any depth"
    )
    parser.add_argument("--long", action="store_true", help="a row for every node")
    parser.epilog = (
        f"{parser.epilog}; exit status: 0 no node differs, 1 a node is wrong, failed "
        "or slow, 2 the command line or a file, 3 a suspect to measure again, a "
        f"node that still runs, or fewer than {LEAST_NODES} equal nodes"
    )


def fleet(arguments: argparse.Namespace) -> int:
    """Prints the fleet and returns its exit status. Raises ResultError without a labelled run."""
    fleet = load(arguments.folder)
    if arguments.json:
        write_json(
            "fleet",
            status=fleet.status,
            headline=headline(fleet),
            wrong=fleet.wrong,
            failed=fleet.failed,
            running=fleet.running,
            groups=[record(group, fleet.store) for group in fleet.groups],
            left_out=fleet.left_out,
        )
    else:
        print("\n".join(text_of(fleet, arguments.long)))
    return fleet.status


def headline(fleet: Fleet) -> str:
    """`n07 WRONG; n31 SLOW +5.1% [+3.9% +6.2%]; of 200 nodes`, worst first."""
    parts = [f"{some([*of_node])} {verdict}" for verdict, of_node in fleet.bad_runs if of_node]
    parts += [
        f"{node} SLOW in {len(rows)} of {pairs_with(group, node)} pairs"
        for group in fleet.groups
        for node, rows in group.explained.items()
    ]
    for verdict in (SLOW, SUSPECT):
        texts: dict[str, str] = {}
        for group, row in fleet.named(verdict):
            _, _, excess, _, at_sizes = cells(group, row)
            name = group.names[row]
            texts.setdefault(name, " ".join(filter(None, [name, verdict, excess, at_sizes])))
        parts += [some([*texts.values()])] if texts else []
    nodes = counted(len(fleet.nodes), "node")
    if parts:
        return f"{'; '.join(dict.fromkeys(parts))}; of {nodes}"
    if max((len(group.names) for group in fleet.groups), default=0) < LEAST_NODES:
        return f"{nodes}: too few to tell, {LEAST_NODES} with equal hardware and runs are needed"
    return f"no node differs, of {nodes}"


def counted(number: int, name: str) -> str:
    """`1 node`, `2 nodes`."""
    return f"{number} {name}{'s' * (number != 1)}"


def pairs_with(group: Group, node: str) -> int:
    return sum(node in name.split(PAIR) for name in group.names)


def explained(group: Group) -> set[int]:
    """The slow pairs that a slow node explains."""
    return {row for rows in group.explained.values() for row in rows}


def explanations(group: Group) -> list[str]:
    """Sentences on the nodes that slow pairs name, and on disturbed launches."""
    texts = []
    for node, rows in group.explained.items():
        names = some([group.names[row] for row in rows])
        pairs = pairs_with(group, node)
        texts.append(f"{len(rows)} of {pairs} pairs with {node} are slow: it explains {names}.")
    if group.disturbed:
        launches = group.screen.launches
        nodes = [
            f"{group.names[row]} (up to {max(shares):.0%}, {len(shares)} of {launches[row]} runs)"
            for row, shares in group.disturbed.items()
        ]
        texts.append(f"Disturbed, the hypervisor withheld CPU time: {some(nodes)}.")
    return texts


def summary(group: Group) -> list[str]:
    """What was compared, what would be found, and the nodes that lack sizes."""
    screen, launches = group.screen, int(np.median(group.screen.launches))
    runs, sizes = int(screen.launches.sum()), len(group.sizes_bytes)
    lines = [
        f"{group.title}: {counted(len(group.names), group.kind)}, {counted(runs, 'run')}, "
        f"{counted(sizes, 'size')}."
    ]
    if np.isfinite(screen.detectable):
        lines[0] += (
            f" With {counted(launches, 'run')} each, a {group.kind} that is "
            f"{screen.detectable:.1%} slower than its peers is found four times in five."
        )
    else:
        lines[0] += f" Fewer than {LEAST_NODES}: no verdict."
    lacking = np.flatnonzero(np.isnan(screen.excess).any(axis=1))
    if len(lacking):
        lines.append(f"Without some sizes: {some([group.names[row] for row in lacking])}.")
    return [*lines, *explanations(group)]


def to_repeat(group: Group, store: Path) -> list[str]:
    """A sentence on the suspects that should be measured again, and the line to type there."""
    rows = [
        row for row in group.order if group.verdict(row) == SUSPECT and row not in explained(group)
    ]
    if not rows:
        return []
    fewest = group.screen.launches[rows].min()
    times = "twice" if fewest % 2 else "once"  # an odd number of launches has a majority
    return [
        f"{SUSPECT}: some launches may have been disturbed, and {LEAST_LAUNCHES} that agree "
        f"decide. Measure {times} more on {some([group.names[row] for row in rows])}:",
        command_again(group.head, store),
    ]


def cells(group: Group, row: int) -> list[str]:
    """Name, launches, excess, verdict and the sizes at which alone it is slow."""
    sizes = [size_text(size) for size in group.slow_sizes(row)]
    return [
        group.names[row],
        str(group.screen.launches[row]),
        group.excess(row),
        group.verdict(row),
        f"at {some(sizes, 2)}" if sizes else "",
    ]


def span(group: Group, rows: list[int]) -> str:
    """`198 other nodes: -1.2% to +1.4% from the median`."""
    low, high = np.expm1([group.screen.level[rows].min(), group.screen.level[rows].max()])
    other = "other " * (len(rows) < len(group.names))
    return (
        f"{counted(len(rows), other + group.kind)}: {low:+.1%} to {high:+.1%} slower than the "
        "median"
    )


def text_of(fleet: Fleet, long: bool = False) -> list[str]:
    lines = wrapped([headline(fleet)])
    for verdict, of_node in fleet.bad_runs:
        texts = [f"{node} ({some(runs, 1)})" for node, runs in of_node.items()]
        lines += wrapped([f"{verdict}: {some(texts)}"] if texts else [])
    groups = fleet.groups if long else fleet.groups[:MOST_GROUPS]
    most = MOST_ROWS // max(len(groups), 1)
    for group in groups:
        rows = group.order
        shown = rows if long else [row for row in rows if group.screen.is_named[row]][:most]
        rest = rows[len(shown) :]
        lines += ["", *wrapped(summary(group))]
        lines += [ROW.format(group.kind, "runs", "slower [95 %]", "", "").rstrip()] * bool(shown)
        lines += [ROW.format(*cells(group, row)).rstrip() for row in shown]
        lines += [span(group, rest)] if rest else []
        repeat = to_repeat(group, fleet.store)
        lines += [*wrapped(repeat[:1]), *(f"  {command}" for command in repeat[1:])]
    if len(groups) < len(fleet.groups):
        lines += [f"{len(fleet.groups) - len(groups)} more groups of equal nodes: --long"]
    return [*lines, *wrapped(fleet.left_out)]


def record(group: Group, store: Path) -> dict[str, Any]:
    """A group for `--json`; differences are shares, NaN becomes null."""
    screen = group.screen
    nodes = [
        {
            "node": name,
            "verdict": group.verdict(row),
            "runs": int(screen.launches[row]),
            "excess": group.figures[row],
            "by_size": np.expm1(screen.excess[row]),
            "slow_sizes_bytes": group.slow_sizes(row),
        }
        for row, name in enumerate(group.names)
    ]
    return {
        "machine_id": group.head.machine_id,
        "benchmark": group.head.benchmark,
        "world_size": group.head.world["size"],
        "kind": group.kind,
        "sizes_bytes": group.sizes_bytes,
        "detectable": screen.detectable,
        "nodes": nodes,
        "explanations": explanations(group),
        "to_repeat": to_repeat(group, store),
    }
