"""A run of compute and communication together as a picture: what each form exposes, a panel for each shape."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

from reports.store.case import find_states
from reports.store.exposed import COMPUTE, FUSED, LIBRARY, costs_in, difference, forms, interval_text, shapes
from reports.store.result import ResultError
from reports.store.schema import Result
from reports.tables.exposed_table import title
from reports.tables.figure import figure
from reports.tables.sentences import machine, number

COLOURS = {LIBRARY: "black", FUSED: "#D55E00"}  # of Okabe and Ito's palette; ours one after the other is blue


def draw(result: Result, path: Path | IO[Any]) -> None:
    """Exposed communication in microseconds with its intervals, into an .svg or .png file. Raises ResultError for a run
    with nothing to draw, or a file that cannot be written."""
    states = find_states(result.blocks)
    costs = costs_in(result.blocks, states.of_block, states.longest)
    panels = []
    for cases in shapes(result):
        found = forms(cases, costs)
        alone = next((form for form in found if form.case.algorithm == COMPUTE), None)
        others = [form for form in found if alone and form is not alone and difference(form, alone)]
        if alone and others:
            panels.append((cases[0], alone, others))
    if not panels:
        raise ResultError(f"{result.path} has no measured case to draw")
    with figure(path, len(panels), 1, (9, 1.1 + 1.7 * len(panels))) as (made, axes):
        for place, (case, alone, others) in zip(axes[:, 0], panels, strict=True):
            for row, form in enumerate(others):
                exposed = difference(form, alone)
                assert exposed
                middle, low, high = exposed
                ends = [[middle - (middle if low is None else low)], [(middle if high is None else high) - middle]]
                colour = COLOURS.get(form.case.algorithm.partition("+")[0], "#0072B2")
                place.barh(row, middle, xerr=ends, color=colour, capsize=3, error_kw={"ecolor": "#777777"})
                beyond = max(middle, high or middle, 0)
                place.annotate(f" {interval_text(exposed)}", (beyond, row), va="center", fontsize=9, xytext=(4, 0),
                               textcoords="offset points")
            place.set_yticks(range(len(others)), [form.name for form in others])
            place.invert_yaxis()
            place.axvline(0, color="#444444", linewidth=0.8)
            place.margins(x=0.28)
            place.grid(True, axis="x", alpha=0.25)
            took = number(sorted(alone.costs.values())[len(alone.costs) // 2])
            named = title(case).replace("; ", "\n", 1)
            place.set_title(f"{named}; compute alone {took} us", fontsize=10, loc="left")
        axes[-1, 0].set_xlabel("exposed communication, us: what a form takes longer than the compute alone")
        made.suptitle(f"{machine(result)}{'' if result.complete else ' (INCOMPLETE)'}", fontsize=11)
