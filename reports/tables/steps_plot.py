"""A run of whole steps as a picture: a bar for each split, of which the communication left to see is hatched."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import numpy as np

from reports.store.case import find_states
from reports.store.exposed import COMPUTE, costs_in, shapes
from reports.store.result import ResultError
from reports.store.schema import Result
from reports.tables.figure import figure
from reports.tables.sentences import machine, number
from reports.tables.steps import LIBRARY, PIPELINE, SEQUENCE, TENSOR, best, title

COLOURS = {TENSOR: "#D55E00", LIBRARY: "#444444", PIPELINE: "#0072B2", SEQUENCE: "#009E73", COMPUTE: "#BBBBBB"}


def draw(result: Result, path: Path | IO[Any]) -> None:
    """Milliseconds a step, into an .svg or .png file. Raises ResultError for a run with nothing to draw, or a file that
    cannot be written."""
    states = find_states(result.blocks)
    costs = costs_in(result.blocks, states.of_block, states.longest)
    panels = [[case for case in best(cases, costs) if costs.get(case.case) and case.status == "ok"]
              for cases in shapes(result)]
    panels = [cases for cases in panels if cases]
    if not panels:
        raise ResultError(f"{result.path} has no measured case to draw")
    with figure(path, len(panels), 1, (9, 1.1 + 2.1 * len(panels))) as (made, axes):
        for place, cases in zip(axes[:, 0], panels, strict=True):
            took_ms = {case.algorithm: float(np.median(list(costs[case.case].values()))) / 1e3 for case in cases}
            alone_ms = took_ms.get(COMPUTE, 0.0)
            for row, case in enumerate(cases):
                name, ms = case.algorithm, took_ms[case.algorithm]
                shown = ms - alone_ms if name in (TENSOR, LIBRARY, SEQUENCE) and 0 < alone_ms < ms else 0.0
                colour = COLOURS.get(name, "#CC79A7")
                place.barh(row, ms - shown, color=colour)
                place.barh(row, shown, left=ms - shown, color=colour, alpha=0.5, hatch="///")
                place.annotate(f" {number(ms)}", (ms, row), va="center", fontsize=9)
            names = [f"{TENSOR}, {case.library}" if case.library else
                     f"{case.algorithm} ({case.chosen})" if case.chosen else case.algorithm for case in cases]
            place.set_yticks(range(len(cases)), names)
            place.invert_yaxis()
            place.margins(x=0.16)
            place.grid(True, axis="x", alpha=0.25)
            place.set_title(title(cases[0]), fontsize=10, loc="left")
        axes[-1, 0].set_xlabel("ms a step; hatched: communication left to see")
        made.suptitle(f"{machine(result)}{'' if result.complete else ' (INCOMPLETE)'}", fontsize=11)
