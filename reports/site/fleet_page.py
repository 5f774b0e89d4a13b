"""The page about the nodes of a store: a heat map of each against its peers, the worst first."""

from reports.kit.chart import heat, interval
from reports.kit.page import Banner, Page, Row, Section, role_of
from reports.site import shared
from reports.store.folder import Contents
from reports.tables.sentences import counted, size_text
from reports.trends.fleet import FINE, FOUND, EqualNodes, Fleet, fleet_of, headline, summary
from reports.trends.slow_nodes import EQUAL

FLEET = "fleet.html"
MOST_NODES = 200  # of a heat map


def fleet_page(contents: Contents) -> Page:
    """The nodes of these runs. Raises ResultError without a labelled run."""
    fleet = fleet_of(contents)
    named = [*fleet.wrong, *fleet.failed]
    named += [node.node for group in fleet.groups for node in group.nodes if node.verdict != EQUAL]
    role = {FINE: "steady", FOUND: "worse"}.get(fleet.status, "unsure")
    sentence = headline(fleet)
    if named:
        word = counted(len({*named}), "node") + " to look at"
    else:
        word = "No node differs" if fleet.groups else "Too few nodes"
        sentence = sentence[:1].upper() + sentence[1:]

    facts = [line for group in fleet.groups for line in summary(group)]
    banner = Banner(word, f"{sentence}.", facts[:2], role)
    left_out = Section("Left out", fleet.left_out, folded=True)
    return Page("Fleet", banner, [_bad_runs(fleet), *map(_section, fleet.groups), left_out])


def _section(group: EqualNodes) -> Section:
    """A row for each node, with a column for each size."""
    largest = max(abs(node.excess[0]) for node in group.nodes)
    sizes = list(map(size_text, group.sizes_bytes))
    rows = [
        {
            group.kind: node.node,
            "verdict": node.verdict,
            "slower": node.slower,
            "faster < median < slower": interval(node.excess, largest, role_of(node.verdict)),
            "runs": str(node.runs),
            **dict(zip(sizes, map(heat, node.by_size), strict=True)),
        }
        for node in group.nodes[:MOST_NODES]
    ]
    said = [*group.to_repeat]
    if more := len(group.nodes) - len(rows):
        said.append(f"{more} more {group.kind}s are not slower.")

    return Section(f"{group.title}: {group.kind}s", said, rows=rows)


def _bad_runs(fleet: Fleet) -> Section:
    """The nodes with wrong results and those without a finished run."""
    rows: list[Row] = [
        {"node": node, "verdict": verdict, "run": (run_id, shared.file_name("run", run_id))}
        for verdict, of_node in (("WRONG", fleet.wrong), ("FAILED", fleet.failed))
        for node, run_ids in of_node.items()
        for run_id in run_ids
    ]
    return Section("Wrong or failed", rows=rows)
