"""The page about the nodes of a store: a heat map of each against its peers, the worst first."""

from reports.site import shared
from reports.site.chart import heat, interval
from reports.site.page import Banner, Page, Row, Section
from reports.store.folder import Contents
from reports.tables.sentences import counted, size_text
from reports.trends.fleet import FINE, FOUND, Fleet, Group, Node, fleet_of, headline, summary
from reports.trends.slow_nodes import EQUAL

FLEET = "fleet.html"
MOST_NODES = 200  # of a heat map
LEAST_REACH = 0.03  # of the scale of intervals


def fleet_page(contents: Contents) -> Page:
    """The nodes of these runs. Raises ResultError without a labelled run."""
    fleet = fleet_of(contents)
    named = [*fleet.wrong, *fleet.failed]
    named += [node.node for group in fleet.groups for node in group.nodes if node.verdict != EQUAL]
    role = {FINE: "steady", FOUND: "worse"}.get(fleet.status, "unsure")
    word, sentence = "No node differs" if fleet.groups else "Too few nodes", headline(fleet)
    sentence = sentence[:1].upper() + sentence[1:]
    if named:
        word, sentence = counted(len({*named}), "node") + " to look at", headline(fleet)

    facts = [line for group in fleet.groups for line in summary(group)]
    banner = Banner(word, f"{sentence}.", facts[:2], role)
    left_out = Section("Left out", fleet.left_out, folded=True)
    return Page("Fleet", banner, [_bad_runs(fleet), *map(_section, fleet.groups), left_out])


def _section(group: Group) -> Section:
    reach = max(LEAST_REACH, *(1.2 * abs(node.excess[0]) for node in group.nodes))
    rows = [_row(group, node, reach) for node in group.nodes[:MOST_NODES]]
    more = len(group.nodes) - len(rows)
    return Section(
        f"{group.title}: {group.kind}s",
        [*group.to_repeat, *[f"{more} more {group.kind}s are not slower."] * (more > 0)],
        table=f"fleet-{group.machine_id}-{group.benchmark}-{group.method}".replace(" ", "-"),
        rows=rows,
    )


def _row(group: Group, node: Node, reach: float) -> Row:
    """A node's cells; a column for each size."""
    sizes = zip(map(size_text, group.sizes_bytes), map(heat, node.by_size), strict=True)
    role = {"SLOW": "worse", "SUSPECT": "unsure"}.get(node.verdict, "steady")
    return {
        group.kind: node.node,
        "verdict": node.verdict,
        "slower": node.slower,
        "faster < median < slower": interval(node.excess, (-reach, reach), 0.0, role),
        "runs": str(node.runs),
        **dict(sizes),
    }


def _bad_runs(fleet: Fleet) -> Section:
    """The nodes with wrong results and those without a finished run."""
    rows: list[Row] = [
        {"node": node, "verdict": verdict, "run": (run_id, shared.file_name("run", run_id))}
        for verdict, of_node in (("WRONG", fleet.wrong), ("FAILED", fleet.failed))
        for node, run_ids in of_node.items()
        for run_id in run_ids
    ]
    return Section("Wrong or failed", table="wrong-nodes", rows=rows)
