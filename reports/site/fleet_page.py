"""The page about the nodes of a store: each against its peers, over all sizes and at each size."""

from functools import partial
from pathlib import Path
from typing import IO

import numpy as np

from reports.site import shared
from reports.site.page import Page, Row, Section, draw_picture
from reports.store.folder import Contents
from reports.tables.figure import COLOURS, figure
from reports.tables.sentences import size_text
from reports.trends.fleet import Fleet, Group, Node, fleet_of, headline, summary
from reports.trends.slow_nodes import EQUAL

FLEET = "fleet.html"
LABEL = 1 / 6  # of the width of the picture, for the name of a node


def fleet_page(contents: Contents) -> Page:
    """The nodes of these runs. Raises ResultError without a labelled run."""
    fleet = fleet_of(contents)
    sections = [_bad_runs(fleet)]

    for number, group in enumerate(fleet.groups):
        picture = draw_picture(
            f"fleet-{number}",
            partial(plot, group),
            f"Each {group.kind} with its 95 % interval, {group.title}",
            f"fleet-{number}",
        )
        rows = [_row(group, node) for node in group.nodes]
        sections.append(
            Section(
                f"{group.title}: {group.kind}s",
                [*summary(group), *group.to_repeat],
                [picture],
                table=f"fleet-{number}",
                rows=rows,
            )
        )

    return Page(
        "Fleet",
        [f"{headline(fleet)}.", *fleet.left_out],
        sections,
    )


def _bad_runs(fleet: Fleet) -> Section:
    """The nodes with wrong results and those without a finished run."""
    rows: list[Row] = [
        {"node": node, "verdict": verdict, "run": (run_id, shared.file_name("run", run_id))}
        for verdict, of_node in (("WRONG", fleet.wrong), ("FAILED", fleet.failed))
        for node, run_ids in of_node.items()
        for run_id in run_ids
    ]
    return Section("Wrong or failed", table="wrong-nodes", rows=rows)


def _row(group: Group, node: Node) -> Row:
    """A node's cells; a column for each size."""
    sizes = {
        size_text(size): "-" if np.isnan(share) else f"{share:+.1%}"
        for size, share in zip(group.sizes_bytes, node.by_size, strict=True)
    }
    return {
        group.kind: node.node,
        "verdict": node.verdict,
        "slower": node.slower,
        "runs": str(node.runs),
        **sizes,
    }


def plot(group: Group, target: Path | IO[str]) -> None:
    """Draws the excess of each node with its interval, in the order of the names."""
    nodes = sorted(group.nodes, key=lambda node: node.node)
    places, named = np.arange(len(nodes)), np.array([node.verdict != EQUAL for node in nodes])
    excess, low, high = 100 * np.array([node.excess for node in nodes]).T

    with figure(target, 1, 1, (9.2, 3.4)) as (_, panels):
        axes = panels.flat[0]
        axes.axhline(0, color="black", linewidth=0.8)
        axes.vlines(places, low, high, color="#bbbbbb", linewidth=1.2)
        for is_named, colour in ((False, "#555555"), (True, COLOURS[0])):
            rows = np.flatnonzero(named == is_named)
            axes.plot(
                places[rows], excess[rows], "o", color=colour, markersize=5 if is_named else 2.6
            )
        has_room = named.copy()
        for row in (row for row in np.argsort(-excess) if has_room[row]):
            has_room[abs(places - row) < LABEL * len(places)] = False
            is_right = row > (1 - LABEL) * len(places)
            axes.annotate(
                f"{nodes[row].node} {excess[row]:+.1f} %",
                (row, excess[row]),
                xytext=(-7 if is_right else 7, 0),
                textcoords="offset points",
                ha="right" if is_right else "left",
                va="center",
                fontsize=8,
            )
        axes.set(xticks=[], xlabel=f"{group.kind}s by name", ylabel="slower than the median, %")
        axes.tick_params(axis="y", labelsize=8)
