"""The command `fleet`: the nodes of a store that are wrong, failed or slow, as a headline, a table
of at most 40 lines, and JSON."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from reports.store.report_json import write_json
from reports.tables.command import command_again
from reports.tables.sentences import size_text, some, wrapped
from reports.trends.fleet_groups import PAIR, SLOW, SUSPECT, Fleet, Group, load
from reports.verdicts.outliers import LEAST_LAUNCHES, LEAST_NODES, LEAST_PEERS

MOST_ROWS = 20  # named nodes in the table of a group, unless --long
MOST_GROUPS = 3
ROW = "{:<34.34} {:>5}  {:<24} {:<8} {}"


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
    for group in fleet.groups:
        parts += [
            f"rack {rack} SLOW {np.expm1(level):+.1%}"
            for rack, level in group.screen.slow_racks.items()
        ]
        parts += [
            f"{node} or its cable SLOW in {len(rows)} of {pairs_with(group, node)} pairs"
            for node, rows in group.explained
            if node
        ]
    for verdict in (SLOW, SUSPECT):
        rows = [(group, row) for group, row in fleet.named(verdict) if row not in explained(group)]
        texts = {
            group.names[row]: f"{group.names[row]} {verdict} {group.excess(row)}"
            for group, row in reversed(rows)
        }
        parts += [some([*texts.values()][::-1])] if texts else []
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
    return {row for node, rows in group.explained if node for row in rows}


def explanations(group: Group) -> Iterator[str]:
    """Sentences on what is slow beyond single nodes: racks and cables."""
    for rack, level in group.screen.slow_racks.items():
        names = [name for name in group.names if name.rpartition("-")[0] == rack]
        yield (
            f"Rack {rack}: its {len(names)} nodes are {np.expm1(level):+.1%} from the fleet's "
            "median; look at what they share: a switch, power or cooling."
        )
    for node, rows in group.explained:
        names = [group.names[row] for row in rows]
        if node:
            yield (
                f"{len(rows)} of {pairs_with(group, node)} pairs with {node} are slow: {node} "
                f"or its cable explains {some(names)}."
            )
        elif min(pairs_with(group, end) for end in names[0].split(PAIR)) > LEAST_PEERS:
            yield (
                f"{names[0]} is slow, and most other pairs of both are not: look at the cable "
                "or route between them."
            )
        else:
            yield (
                f"{names[0]} is slow; a node of {LEAST_PEERS} pairs or fewer does not tell "
                "whether a node or the cable is."
            )


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
        row for row in order(group) if group.verdict(row) == SUSPECT and row not in explained(group)
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


def order(group: Group) -> list[int]:
    """The rows, named ones first, then slowest first."""
    level = group.screen.level
    return sorted(
        range(len(group.names)), key=lambda row: (not group.screen.is_named[row], -level[row])
    )


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
        rows = order(group)
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
            "excess": np.expm1([screen.level[row], screen.low[row], screen.high[row]]),
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
        "slow_racks": {rack: np.expm1(level) for rack, level in screen.slow_racks.items()},
        "explanations": [*explanations(group)],
        "to_repeat": to_repeat(group, store),
    }
