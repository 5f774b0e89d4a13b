"""What the default table says at each size: the library beside ours, paired block by block, and what else is worth a
mark. Costs are the collective and the reading of its result together (`total_us`), over the blocks of the link's
longest state.

A best of several is chosen on odd rounds and reported on even ones, so that the choice does not flatter itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reports.store import exposed
from reports.store.case import LinkStates, beside, late_us
from reports.store.schema import Case, Result
from reports.store.stats import Interval, autocorrelation, ratio_interval

BEATEN_BY = 1.05
MARGIN = 1.01
MIN_STATE_BLOCKS = 5

# Cost in microseconds by round, by case number.
Costs = dict[int, dict[int, float]]


@dataclass
class Row:
    """One size, or one skew of a routed all-to-all; the library is the best of its variants. `ratio` is library over
    ours, above 1 where ours is faster; `better` another algorithm of ours that beat `auto`, and how many times;
    `n_wrong` counts over every case of its view, None where nothing was checked."""

    size_bytes: int
    skew: str | None
    library: Case | None
    ours: Case | None
    library_us: float | None
    ours_us: float | None
    ratio: Interval | None
    better: tuple[str, float] | None
    n_wrong: int | None

    @property
    def algorithm(self) -> str:
        """The algorithm that ours ran, without how it was built."""
        return (self.ours.chosen or self.ours.algorithm).partition("+")[0] if self.ours else "-"


@dataclass
class Flip:
    """A size where another state of the link has another winner; costs in that state, in microseconds."""

    size_bytes: int
    skew: str | None
    state: int
    library_us: float | None
    ours_us: float | None
    best_us: float
    winner: str


def cost_us(case: Case) -> float | None:
    """What a case is judged by, in microseconds; None where it was not measured or is wrong."""
    if case.status != "ok":
        return None
    summary = case.total_us or case.time_us
    return summary.median if summary else None


View = tuple[str, Any]  # a mode and a shape: what a table of one row a size, or a skew, is about


def view_of(case: Case) -> View:
    """The view that a case belongs to: all that makes it a case of its own but its skew."""
    return case.mode, {name: said for name, said in (case.shape or {}).items() if name != "skew"} or None


def views(result: Result) -> list[View]:
    """The views of a run, each once, the first case's first; late ranks come last, and behind them what has something
    beside it. Those where nothing can be measured are left out, unless nothing can."""
    found = [view_of(case) for case in result.cases if case.status != "unsupported"]
    found = found or [view_of(case) for case in result.cases]
    once = [view for number, view in enumerate(found) if view not in found[:number]]
    return sorted(once, key=lambda view: (beside(view[1]) is not None, view[0] != "isolated", late_us(view[1])))


def shown_cases(result: Result, view: View) -> list[Case]:
    """The cases of this view: of the first datatype and redop, out of place where that was run."""
    cases = [case for case in result.cases if view_of(case) == view]
    if not cases:
        return []
    first = cases[0]
    cases = [case for case in cases if (case.datatype, case.redop, case.collective)
             == (first.datatype, first.redop, first.collective)]
    cases = [case for case in cases if not case.in_place] or cases
    # What is lossy is no rival of what is not: it stands for ours only where it is all there is, or auto took it.
    lossless = [case for case in cases if case.snr_db is None or case.algorithm == "auto"]
    return lossless if any(case.algorithm != "library" for case in lossless) else cases


def costs_in(result: Result, states: LinkStates, state: int | None) -> Costs:
    """The cost of every block that was in `state`; None stands for the mixed ones."""
    return exposed.costs_in(result.blocks, states.of_block, state)


Key = tuple[int, str | None]  # what makes a row: a size, and a skew where there is one


def _key(case: Case) -> Key:
    return case.size_bytes, (case.shape or {}).get("skew")


def imbalance(case: Case) -> float | None:
    """Of a routed case, what the busiest rank's experts get over the mean."""
    return case.routing["rank_max_over_mean"] if case.routing else None


def default_rows(result: Result, view: View, states: LinkStates) -> list[Row]:
    """One row for each size of this view, smallest first; of a size one for each skew, the most even first."""
    cases = shown_cases(result, view)
    costs = costs_in(result, states, states.longest)
    by_size: dict[Key, list[Case]] = {}
    for case in sorted(cases, key=lambda case: (case.size_bytes, imbalance(case) or 1.0)):
        by_size.setdefault(_key(case), []).append(case)
    wrong: dict[Key, list[int]] = {}
    for case in result.cases:
        if case.n_wrong is not None and view_of(case) == view:
            wrong.setdefault(_key(case), []).append(case.n_wrong)
    compared: dict[Key, tuple[Case | None, Case | None, int | None]] = {}
    for size, here in by_size.items():
        ours, rounds = _ours(here, costs)
        library, judged = _best_of([case for case in here if case.algorithm == "library"], costs)
        compared[size] = library, ours, 0 if 0 in (rounds, judged) else None
    rho = autocorrelation([np.divide(*pairs) for pair in compared.values() if (pairs := _pairs(*pair, costs))])
    rows = []
    for size, (library, ours, rounds) in compared.items():
        others = [case for case in by_size[size] if case.algorithm not in ("library", "auto", ours and ours.chosen)]
        better = _beaten(ours, others, costs, rho) if ours and ours.algorithm == "auto" else None
        rows.append(Row(*size, library, ours, _median(library, costs, rounds), _median(ours, costs, rounds),
                        _ratio(library, ours, rounds, costs, rho), better,
                        sum(wrong[size]) if size in wrong else None))
    return rows


def _ours(cases: Sequence[Case], costs: Costs) -> tuple[Case | None, int | None]:
    """The case that stands for ours and the rounds it is reported on: all (None), or the even ones (0) of the best."""
    auto = [case for case in cases if case.algorithm == "auto"]
    return _best_of(auto or [case for case in cases if case.algorithm != "library"], costs)


def _best_of(cases: Sequence[Case], costs: Costs) -> tuple[Case | None, int | None]:
    """The best of several, with the rounds that it is reported on."""
    if wrong := next((case for case in cases if case.status == "wrong"), None):
        # A wrong result among the candidates is shown before any time is.
        return wrong, None
    candidates = _candidates(cases)
    if len(candidates) > 1:
        return _best(candidates, costs), 0
    return next(iter(candidates or cases), None), None


def _candidates(cases: Sequence[Case]) -> list[Case]:
    """The measured cases that can be compared: those of the link's longest state, where there are any."""
    measured = [case for case in cases if cost_us(case) is not None]
    return [case for case in measured if case.state == "run"] or measured


def _best(cases: Sequence[Case], costs: Costs) -> Case:
    return min(cases, key=lambda case: _median(case, costs, 1) or float("inf"))


def _median(case: Case | None, costs: Costs, parity: int | None) -> float | None:
    """Median cost over the rounds of this parity (None: all); the case's own figure where it has no such block."""
    if case is None or cost_us(case) is None:
        return None
    kept = [cost for turn, cost in costs.get(case.case, {}).items() if parity is None or turn % 2 == parity]
    return float(np.median(kept)) if kept else cost_us(case)


def _pairs(library: Case | None, ours: Case | None, parity: int | None,
           costs: Costs) -> tuple[list[float], list[float]] | None:
    """Costs of both in the rounds of this parity (None: all) that both were measured in, in order; None without any."""
    if library is None or ours is None or cost_us(library) is None or cost_us(ours) is None:
        return None
    theirs, mine = costs.get(library.case, {}), costs.get(ours.case, {})
    rounds = [turn for turn in sorted(theirs.keys() & mine.keys()) if parity is None or turn % 2 == parity]
    return ([theirs[turn] for turn in rounds], [mine[turn] for turn in rounds]) if rounds else None


def _ratio(library: Case | None, ours: Case | None, parity: int | None, costs: Costs, rho: float) -> Interval | None:
    if library is None or ours is None or cost_us(library) is None or cost_us(ours) is None:
        return None
    if pairs := _pairs(library, ours, parity, costs):
        return ratio_interval(*pairs, rho=rho)
    if library.state != ours.state or ours.state == "own":
        return None
    a, b = cost_us(library), cost_us(ours)
    return (a / b, None, None) if a and b else None


def _beaten(auto: Case, others: Sequence[Case], costs: Costs, rho: float) -> tuple[str, float] | None:
    """The other algorithm that beat `auto` by more than 5 %, and how many times."""
    candidates = _candidates(others)
    if not candidates or cost_us(auto) is None:
        return None
    best = _best(candidates, costs)
    ratio = _ratio(auto, best, 0, costs, rho)
    name = best.algorithm if best.variant == auto.variant else f"{best.algorithm} {best.variant}"
    surely = ratio is not None and ratio[0] > BEATEN_BY and ratio[1] is not None and ratio[1] > 1
    return (name, ratio[0]) if ratio and surely else None


def flips(result: Result, rows: Sequence[Row], states: LinkStates, view: View) -> list[Flip]:
    """Where another state of the link, with at least 5 blocks of each case, has another winner: library against ours,
    or another algorithm of ours well ahead of the one that ours runs."""
    found = []
    for state in range(len(states.rtt_ns)):
        if state != states.longest:
            costs = {number: by_round for number, by_round in costs_in(result, states, state).items()
                     if len(by_round) >= MIN_STATE_BLOCKS}
            cases = [case for case in shown_cases(result, view) if case.case in costs and cost_us(case) is not None]
            found += [flip for row in rows if (flip := _flip(row, state, cases, costs))]
    return sorted(found, key=lambda flip: flip.size_bytes)


def _flip(row: Row, state: int, cases: Sequence[Case], costs: Costs) -> Flip | None:
    here = row.size_bytes, row.skew
    ours = [case for case in cases if _key(case) == here and case.algorithm != "library"]
    if row.ours not in ours:
        return None
    library = row.library if row.library in cases else None
    ratio = _ratio(library, row.ours, None, costs, 0.0)
    crossed = ratio is not None and row.ratio is not None and (
        ratio[0] > MARGIN > 1 / MARGIN > row.ratio[0] or row.ratio[0] > MARGIN > 1 / MARGIN > ratio[0])
    rivals = [case for case in ours if case.algorithm != row.ours.chosen]
    best = _best(rivals, costs)
    gain = _ratio(row.ours, best, 0, costs, 0.0)
    outrun = gain is not None and gain[0] > BEATEN_BY and row.better is None
    if not crossed and not outrun:
        return None
    ours_us, best_us, library_us = (_median(case, costs, None) for case in (row.ours, best, library))
    name = best.chosen or best.algorithm
    assert best_us is not None
    winner = "library" if library_us is not None and library_us < best_us else name
    return Flip(*here, state, library_us, ours_us, best_us, winner)
