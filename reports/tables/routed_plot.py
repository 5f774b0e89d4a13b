"""A routed all-to-all as a picture: time against the load of the busiest rank."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

from reports.store.result import ResultError
from reports.store.schema import Case, Result
from reports.tables.figure import (
    draw_legend,
    draw_lines,
    figure,
    figure_title,
    interval_us,
    lines_of,
)
from reports.tables.rows import cost_us, imbalance, shown_cases, views
from reports.tables.sentences import WAYS


def draw(result: Result, path: Path | IO[Any]) -> None:
    """Time in microseconds, a panel for each way, into an .svg or .png file. Raises ResultError for
    a run without a measured case, or a file that cannot be written."""
    panels: dict[str, list[Case]] = {}
    for view in views(result):
        # auto is one of the others.
        cases = [case for case in shown_cases(result, view)
                 if case.algorithm != "auto" and cost_us(case) is not None]
        if cases:
            chained = ", chained" if view[0] == "chained" else ""
            panels[WAYS[view[1]["way"]] + chained] = sorted(cases, key=_load)
    if not panels:
        raise ResultError(f"{result.path} has no measured case to draw")
    shape = next(iter(panels.values()))[0].shape
    with figure(path, 1, len(panels), (4.6 * len(panels) + 0.6, 5.4)) as (made, axes):
        for place, (title, cases) in zip(axes[0], panels.items(), strict=True):
            draw_lines(place, lines_of(cases), _load,
                       lambda case: interval_us(case.total_us or case.time_us))
            skews = {_load(case): case.shape["skew"] for case in cases}
            place.set_xticks(list(skews), [f"{load:.2f}\n{skew}" for load, skew in skews.items()])
            place.set_ylim(bottom=0)
            place.margins(x=0.12)
            place.grid(True, alpha=0.25)
            place.set_title(title, fontsize=11)
            place.set_xlabel("rows of the busiest rank / mean, and the skew")
        axes[0][0].set_ylabel("time, us: collective + reading its result")
        draw_legend(made, axes[0][0], 6)
        detail = ", ".join(f"{name} {value}" for name, value in shape.items()
                           if name not in ("way", "skew"))
        made.suptitle(f"{figure_title(result)}\n{detail}", fontsize=12)


def _load(case: Case) -> float:
    return imbalance(case) or 1.0
