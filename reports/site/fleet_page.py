"""The page about the nodes of a store: a heat map of each against its equals, the worst first."""

from collections.abc import Collection
from itertools import chain

from reports.kit.chart import forest, heat
from reports.kit.page import Banner, Cell, Page, Row, Section, role_of
from reports.site.shared import file_name
from reports.tables.sentences import counted, size_text, some, start_time
from reports.trends.fleet import FINE, FOUND, EqualNodes, Fleet, headline, summary
from reports.trends.slow_nodes import EQUAL, LEAST_SLOWDOWN, PAIR
from wiretax.common.program import BENCH, RUN
from wiretax.record.folder import Contents

FLEET = "fleet.html"
TOO_FEW_NODES = "Too few nodes"  # the page finds nothing

Links = dict[str, tuple[str, str]]


def fleet_page(fleet: Fleet, contents: Contents) -> Page:
    """The nodes of these runs."""
    role = {FINE: "steady", FOUND: "worse"}.get(fleet.status, "unsure")
    sentence = headline(fleet)
    links = {
        node: (node, file_name("run", entry.run.run_id))
        for entry in contents.entries
        for node in entry.run.nodes
    }
    first, last = (start_time(contents.entries[at].run) for at in (0, -1))
    facts = [f"Runs from {first} to {last}."]
    facts += [line for group in fleet.groups for line in summary(group)][:2]
    if named := named_in(fleet):
        word = f"{counted(len(named), 'node')} to look at"
        facts.insert(
            0,
            f"Next: on {some(named)} run {RUN}{BENCH}doctor, compare the settings in the node's "
            "newest run with another's, and measure again; take out a node that stays slow or "
            "wrong.",
        )
    else:
        word = "No node differs" if fleet.groups else TOO_FEW_NODES
        sentence = sentence.capitalize()  # it names none

    bad: list[Cell] = [
        [verdict, *((node, file_name("run", runs[-1])) for node, runs in of_node.items())]
        for verdict, of_node in fleet.bad.items()
        if of_node
    ]
    wrong = fleet.bad["WRONG"]
    sections = [
        Section("Wrong or failed", bad),
        *(_section(group, links, wrong) for group in fleet.groups),
        Section("Left out", fleet.left_out, folded=True),
    ]
    return Page("Fleet", Banner(word, f"{sentence}.", facts, role), sections)


def named_in(fleet: Fleet) -> list[str]:
    """The nodes to look at, also those of a pair."""
    named = [*chain(*fleet.bad.values())]
    for group in fleet.groups:
        named += [node.node for node in group.nodes if node.verdict != EQUAL]

    return list(dict.fromkeys(named))


def _section(group: EqualNodes, links: Links, wrong: Collection[str]) -> Section:
    """A row for each node, which links to its newest run, with a column for each size. Of a node
    with `wrong` results no time is fine."""
    verdicts = ["WRONG" if node.node in wrong else node.verdict for node in group.nodes]
    sizes, nodes = list(map(size_text, group.sizes_bytes)), group.nodes
    heading, drawings = forest(
        [node.excess for node in nodes], [role_of(verdict) for verdict in verdicts], LEAST_SLOWDOWN
    )
    rows: list[Row] = [
        {
            group.kind: [links[name] for name in node.node.split(PAIR)],
            "verdict": verdict,
            "slower [95 %]": node.slower,
            heading: drawing,
            "runs": str(node.runs),
            **dict(zip(sizes, map(heat, node.by_size), strict=True)),
        }
        for node, verdict, drawing in zip(nodes, verdicts, drawings, strict=True)
    ]
    said = [
        f"{EQUAL}: at most {LEAST_SLOWDOWN:.0%} slower than the median {group.kind}, or no slower "
        "than nodes and launches differ anyway.",
    ]
    return Section(f"{group.title}: {group.kind}s", said, rows=rows)
