"""How the runs of each benchmark are shown. A benchmark that is not a sweep over sizes has its
text, its headline's figures and its picture in a file of its own, and a line in KINDS."""

from collections.abc import Callable
from dataclasses import dataclass

from reports.store.case import COMPUTE_BENCHMARKS
from reports.store.schema import Result
from reports.tables import exposed, link, tune
from reports.tables.figure import Target
from reports.tables.headline import Point, points
from reports.tables.plot import draw_routed


@dataclass(frozen=True)
class Kind:
    """The table with its head and sentences, the headline's figures, and the picture of a run; None
    for those of a sweep over sizes. A page has the own picture, or else the sweep's with its fits
    and iterations."""

    text: Callable[[Result], str] | None = None
    points: Callable[[Result], list[Point]] = points
    draw: Callable[[Result, Target], None] | None = None


SWEEP, ROUTED = Kind(), Kind(draw=draw_routed)
KINDS = {
    "link": Kind(link.render, link.points, link.draw),
    "tune": Kind(tune.render, tune.points),
    **dict.fromkeys(COMPUTE_BENCHMARKS, Kind(exposed.render, exposed.points, exposed.draw)),
}


def kind_of(result: Result) -> Kind:
    """The kind of a run, by its benchmark and by whether its calls are routed."""
    is_routed = any(case.routing for case in result.cases)
    return KINDS.get(result.run.benchmark, ROUTED if is_routed else SWEEP)
