"""How the runs of each benchmark are shown. A benchmark that is not a sweep over sizes has its text
and its headline's figures in a file of its own, and a line in KINDS."""

from collections.abc import Callable
from typing import NamedTuple

from reports.store.case import COMPUTE_BENCHMARKS
from reports.store.schema import Result
from reports.tables import exposed, link, tune
from reports.tables.headline import Point, points


class Kind(NamedTuple):
    """The table with its head and sentences, and the headline's figures; None stands for a sweep
    over sizes, which alone has a picture."""

    text: Callable[[Result], str] | None = None
    points: Callable[[Result], list[Point]] = points


SWEEP = Kind()
KINDS = {
    "link": Kind(link.render, link.points),
    "tune": Kind(tune.render, tune.points),
    **dict.fromkeys(COMPUTE_BENCHMARKS, Kind(exposed.render, exposed.points)),
}


def kind_of(result: Result) -> Kind:
    return SWEEP if result.run.imported_from else KINDS.get(result.run.benchmark, SWEEP)


def is_sweep(result: Result) -> bool:
    """Whether a run times sizes, and neither a link, layers nor routed calls."""
    return kind_of(result) is SWEEP and not any(case.routing for case in result.cases)
