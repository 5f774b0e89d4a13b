"""The command `fleet`: the nodes of a store, or pairs of nodes by runs over two hosts, against
others of equal hardware: which gave wrong results, failed or are slow. `slow_nodes` has the
statistics."""

import argparse
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd

from reports.tables.sentences import (
    counted,
    interval_text,
    lay_out,
    left_out_lines,
    plain_table,
    some,
)
from reports.trends.slow_nodes import (
    EQUAL,
    LEAST_LAUNCHES,
    LEAST_NODES,
    PAIR,
    REPORT_P,
    SLOW,
    SUSPECT,
    screen,
    slow_ends,
)
from wiretax.common.grouped import grouped
from wiretax.common.program import answer
from wiretax.record.case import Key, key_of
from wiretax.record.folder import INCOMPLETE, WRONG, Contents, read_store
from wiretax.record.observations import MIN_BLOCKS, Entry, alike_of, method_of, table
from wiretax.record.result import ResultError
from wiretax.record.schema import CaseFields, Run

FINE, FOUND, UNDECIDED = 0, 1, 3  # exit statuses


class Node(msgspec.Struct):
    """A node, or a pair of nodes. `excess` is (value, low, high), the share by which it is slower
    than the median node, over all sizes. `by_size` has that share at each size; NaN if it was not
    measured. `disturbed` are the shares of the CPU time that the hypervisor withheld from its
    disturbed launches."""

    node: str
    runs: int
    verdict: str
    excess: tuple[float, float, float]
    by_size: list[float]
    disturbed: list[float]

    @property
    def slower(self) -> str:
        """`+5.1% [+3.9% +6.2%]`."""
        return interval_text(self.excess, "{:+.1%}".format)


class EqualNodes(msgspec.Struct):
    """Nodes, or pairs of nodes, with equal hardware that were measured alike: named ones first,
    then the slowest. `detectable` is the slowdown that would be found in four of five fleets;
    `explained` has the slow pairs of nodes of which most pairs are slow."""

    machine_id: str
    benchmark: str
    world_size: int
    method: str
    kind: str
    sizes_bytes: list[int]
    detectable: float
    nodes: list[Node]
    explained: dict[str, list[str]]

    @property
    def title(self) -> str:
        measured = f"{self.benchmark} {self.method}".strip()
        return f"{measured}, {self.world_size} ranks, machine {self.machine_id}"

    def named(self, verdict: str) -> list[Node]:
        """The nodes with a verdict, slowest first, without the pairs that a slow node explains."""
        explained = {pair for pairs in self.explained.values() for pair in pairs}
        return [
            node for node in self.nodes if node.verdict == verdict and node.node not in explained
        ]


@dataclass
class Fleet:
    """The groups of a store; by node, `bad` has the runs with WRONG results, and those that FAILED
    on a node without any that finished; sentences on what is left out."""

    groups: list[EqualNodes]
    bad: dict[str, dict[str, list[str]]]
    left_out: list[str]
    nodes: set[str]

    @property
    def status(self) -> int:
        """FOUND if a node is wrong, failed or slow; UNDECIDED if some node should run once more, or
        no group has enough nodes."""
        is_slow = any(group.explained or group.named(SLOW) for group in self.groups)
        if any(self.bad.values()) or is_slow:
            return FOUND

        is_open = any(group.named(SUSPECT) for group in self.groups)
        return FINE if self.groups and not is_open else UNDECIDED


def fleet_of(contents: Contents) -> Fleet:
    """The fleet of these runs. Raises ResultError without a run of a labelled node."""
    left_out = [*contents.left_out]
    finished = {
        node for entry in contents.entries if not entry.left_out for node in entry.run.nodes
    }
    bad: dict[str, dict[str, list[str]]] = {"WRONG": defaultdict(list), "FAILED": defaultdict(list)}
    counting, nodes = list[Entry](), set[str]()

    for entry in contents.entries:
        run, reason = entry.run, entry.left_out
        if not run.nodes:
            reason = "without the label of a node"
        elif reason == INCOMPLETE and entry.running:
            reason = "still running"
        word = {WRONG: "WRONG", INCOMPLETE: "FAILED"}.get(reason, "")
        named = [node for node in run.nodes if word and (reason == WRONG or node not in finished)]
        for node in named:
            bad[word][node].append(run.run_id)
        if not reason:
            counting.append(entry)
        elif not named:
            left_out.append((entry.path, reason))
        if word or not reason:
            nodes.update(run.nodes)

    alike = grouped(counting, alike_of).values()
    families = [(entries, rows) for entries in alike for rows in _families(entries, left_out)]
    groups = [_group(entries, rows, REPORT_P / len(families)) for entries, rows in families]
    groups.sort(key=lambda group: -len(group.nodes))
    fleet = Fleet(groups, bad, left_out_lines(left_out), nodes)

    if not nodes:
        problem = (
            f"{contents.folder} has no run with the label of a node: in containers set WIRETAX_NODE"
        )
        raise ResultError("; ".join([problem, *fleet.left_out]))

    return fleet


def nodes_of(case: CaseFields, run: Run) -> list[str]:
    """The nodes that a case measured: of a link its ends, of another case all of its run."""
    shape, ranks = case.shape or {}, run.ranks
    if "src" not in shape or "dst" not in shape:
        return sorted(run.nodes)
    if max(shape["src"], shape["dst"]) >= len(ranks):
        return []
    return sorted({ranks[shape[end]]["node"] for end in ("src", "dst")})


def _families(entries: Sequence[Entry], left_out: list[tuple[Path, str]]) -> Iterator[pd.DataFrame]:
    """The observations of runs that were measured alike, those on single nodes and those on pairs
    of nodes each as a table: rows of `observations.table` with the `size`, the `node` or pair, and
    the `kind`, a number that cases with equal keys share. `left_out` gets the runs that cannot be
    used."""
    rows, _ = table(entries)
    kinds, measured = dict[Key, int](), []
    for at, entry in enumerate(entries):
        for number, case in enumerate(entry.run.cases):
            nodes = nodes_of(case, entry.run)
            if len(nodes) not in (1, 2):
                continue
            # The peers of a link between two nodes are other ranks.
            is_between = len(nodes) == 2 and "src" in (case.shape or {})
            key = key_of(case, ("shape",) if is_between else ())
            measured.append(
                {
                    "run": at,
                    "case": number,
                    "node": PAIR.join(nodes),
                    "kind": kinds.setdefault(key, len(kinds)),
                    "size": case.size_bytes,
                }
            )
    places = pd.DataFrame(measured, columns=["run", "case", "node", "kind", "size"])
    rows = rows.merge(places, on=["run", "case"])

    for run in sorted({*range(len(entries))} - {*rows.run}):
        reason = f"without a case of {MIN_BLOCKS} blocks on at most two nodes"
        left_out.append((entries[run].path, reason))

    for _, family in rows.groupby(rows.node.str.contains(PAIR, regex=False)):
        if family.node.nunique() >= LEAST_NODES:
            yield family
        else:
            reason = f"of fewer than {LEAST_NODES} nodes with equal hardware and runs"
            left_out += [(entries[run].path, reason) for run in family.run.unique()]


def _group(entries: Sequence[Entry], rows: pd.DataFrame, p: float) -> EqualNodes:
    """Screens a family, with the chance `p` of a false alarm. Each run counts in its own state of
    the link, so that a node with a slow link shows."""
    rows = rows.assign(log=np.log(rows.cost_us))
    logs = rows.groupby(["node", "run", "size", "kind"]).log.median()
    of_kind = logs.groupby(["node", "kind"]).median().groupby("kind").median()
    excess = logs.sub(of_kind, level="kind").groupby(["node", "run", "size"]).mean().unstack()
    seen = screen(excess, p)
    nodes = []
    for row in seen.nodes.itertuples():
        shares = [entries[at].disturbance for at in excess.loc[row.Index].index]
        nodes.append(
            Node(
                node=row.Index,
                runs=row.launches,
                verdict=row.verdict,
                excess=(row.slower, row.low, row.high),
                by_size=seen.by_size.loc[row.Index].tolist(),
                disturbed=[share for share in shares if share],
            )
        )
    run = entries[-1].run
    for node in nodes:
        if len(node.disturbed) == node.runs and node.verdict == SLOW:
            node.verdict = SUSPECT

    nodes.sort(key=lambda node: (node.verdict == EQUAL, -node.excess[0]))
    kind, explained = "node", dict[str, list[str]]()

    if PAIR in nodes[0].node:
        slow = [n.node for n in nodes if n.verdict != EQUAL and len(n.disturbed) < n.runs]
        kind, explained = "pair", slow_ends(slow, [*seen.nodes.index])

    return EqualNodes(
        machine_id=run.machine_id,
        benchmark=run.benchmark,
        world_size=run.world_size,
        method=method_of(run),
        kind=kind,
        sizes_bytes=seen.by_size.columns.tolist(),
        detectable=seen.detectable,
        nodes=nodes,
        explained=explained,
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", metavar="STORE", type=Path, help="runs of all nodes, at any depth"
    )
    parser.epilog = (
        f"{parser.epilog}; exit status: 0 no node differs, 1 a node is wrong, failed "
        "or slow, 2 the command line or a file, 3 a suspect to measure again, or fewer "
        f"than {LEAST_NODES} equal nodes"
    )


def fleet(arguments: argparse.Namespace) -> int:
    """Prints the fleet and returns its exit status. Raises ResultError without a labelled run."""
    fleet = fleet_of(read_store(arguments.folder))
    answer(
        arguments,
        text_of(fleet),
        status=fleet.status,
        headline=headline(fleet),
        wrong=fleet.bad["WRONG"],
        failed=fleet.bad["FAILED"],
        groups=fleet.groups,
        left_out=fleet.left_out,
    )
    return fleet.status


def headline(fleet: Fleet) -> str:
    """`n07 WRONG; n31 SLOW +5.1% [+3.9% +6.2%]; of 200 nodes`, worst first."""
    parts = [f"{some([*nodes])} {verdict}" for verdict, nodes in fleet.bad.items() if nodes]

    for group in fleet.groups:
        for node, slow in group.explained.items():
            n_pairs = sum(node in pair.node.split(PAIR) for pair in group.nodes)
            parts.append(f"{node} SLOW in {len(slow)} of {n_pairs} pairs")

    for verdict in (SLOW, SUSPECT):
        texts = [
            f"{node.node} {verdict} {node.slower}"
            for group in fleet.groups
            for node in group.named(verdict)
        ]
        parts += [some(texts)] if texts else []

    if not fleet.groups:
        parts.append(
            f"too few nodes to compare, which takes {LEAST_NODES} with equal hardware and runs"
        )

    found = "; ".join(dict.fromkeys(parts)) or "no node differs"
    return f"{found}; of {counted(len(fleet.nodes), 'node')}"


def summary(group: EqualNodes) -> list[str]:
    """What was compared, what would be found, and which nodes should be measured again."""
    runs = [node.runs for node in group.nodes]
    said = [
        f"{group.title}; {group.kind}s {len(runs)}, runs {sum(runs)}, sizes "
        f"{len(group.sizes_bytes)}. A {group.kind} that is {group.detectable:.1%} slower than its "
        "equals is found four times in five."
    ]
    if suspects := group.named(SUSPECT):
        names = some([node.node for node in suspects])
        said.append(
            f"{SUSPECT}: some launches may have been disturbed, and {LEAST_LAUNCHES} that agree "
            f"decide. Measure again on {names}."
        )
    return said


def text_of(fleet: Fleet) -> str:
    head = [
        f"{verdict}: {some([f'{node} ({some(runs, 1)})' for node, runs in of_node.items()])}"
        for verdict, of_node in fleet.bad.items()
        if of_node
    ]
    tables = []
    for group in fleet.groups:
        said, named = summary(group), [node for node in group.nodes if node.verdict != EQUAL]
        if rest := [node.excess[0] for node in group.nodes[len(named) :]]:
            other = f"{len(rest)} other {group.kind}s" if named else f"all {group.kind}s"
            said.append(f"{other}: {min(rest):+.1%} to {max(rest):+.1%} slower than the median")
        headings = ["", "runs", "", "slower [95 %]"] if named else []
        rows = [[node.node, str(node.runs), node.verdict, node.slower] for node in named]
        tables.append(("\n".join(said), plain_table(headings, rows)))

    return lay_out([headline(fleet)], head, tables, fleet.left_out)
