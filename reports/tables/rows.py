"""The rows of the default table: at each size the library beside our algorithm.

A cost is the time of the collective plus the reading of its result (`total_us`), over the blocks in
the link's longest state. Costs of the same round are paired. If several variants compete, odd
rounds choose the best and even rounds report it, so that the choice does not bias its result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reports.store.case import LinkStates, beside, late_us
from reports.store.exposed import costs_in
from reports.store.schema import Case, Result
from reports.store.stats import Interval, autocorrelation, median_interval

BEATEN_BY = 1.05
MARGIN = 1.01
MIN_STATE_BLOCKS = 5
EVEN, ODD = 0, 1  # the parity of rounds; None stands for all rounds

Costs = Mapping[int, Mapping[int, float]]  # microseconds by case and round
View = tuple[str, Any]  # a mode and a shape: one table
Key = tuple[int, str | None]  # a size and a routing skew: one row


@dataclass
class Row:
    """One size, or one skew of a routed all-to-all. `library` is the best variant of the library.
    `ratio` is the cost of the library over ours, above 1 if ours is faster; `better` is another
    algorithm of ours that beats `auto`, and by which factor; `n_wrong` counts wrong elements in all
    cases of the row, None if nothing was checked."""

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
        """The algorithm that ours ran, without its build."""
        name = (self.ours.chosen or self.ours.algorithm) if self.ours else "-"
        return name.partition("+")[0]


@dataclass
class Flip:
    """A row with another winner in another state of the link; costs in microseconds there."""

    size_bytes: int
    skew: str | None
    state: int
    library_us: float | None
    ours_us: float | None
    best_us: float
    winner: str


def cost_us(case: Case) -> float | None:
    """The cost of a case in microseconds; None if it is wrong or was not measured."""
    summary = case.total_us or case.time_us
    return summary.median if summary and case.status == "ok" else None


def view_of(case: Case) -> View:
    """The view that shows a case: its mode and its shape without the skew."""
    shape = {name: value for name, value in (case.shape or {}).items() if name != "skew"}
    return case.mode, shape or None


def views(result: Result) -> list[View]:
    """The views of a run: isolated before chained, then late ranks, then those beside a matmul.
    Unsupported cases have a view only if nothing else ran."""
    cases = [case for case in result.cases if case.status != "unsupported"] or result.cases
    distinct: list[View] = []
    for case in cases:
        if view_of(case) not in distinct:
            distinct.append(view_of(case))
    return sorted(distinct, key=lambda view: (
        beside(view[1]) is not None, view[0] != "isolated", late_us(view[1])))


def shown_cases(result: Result, view: View) -> list[Case]:
    """The cases of a view with its first datatype and redop, out of place if that was measured."""
    cases = [case for case in result.cases if view_of(case) == view]
    if not cases:
        return []
    shown = cases[0].datatype, cases[0].redop, cases[0].collective
    cases = [case for case in cases if (case.datatype, case.redop, case.collective) == shown]
    cases = [case for case in cases if not case.in_place] or cases
    # Quantised algorithms compete only if they are all there is, or `auto` chose one.
    lossless = [case for case in cases if case.snr_db is None or case.algorithm == "auto"]
    return lossless if any(case.algorithm != "library" for case in lossless) else cases


def row_key(case: Case) -> Key:
    return case.size_bytes, (case.shape or {}).get("skew")


def imbalance(case: Case) -> float | None:
    """The load of the busiest rank of a routed case over the mean load."""
    return case.routing["rank_max_over_mean"] if case.routing else None


def default_rows(result: Result, view: View, states: LinkStates) -> list[Row]:
    """The rows of a view by size; rows of one size by skew, the most even first."""
    costs = costs_in(result.blocks, states.of_block, states.longest)
    groups: dict[Key, list[Case]] = {}
    for case in sorted(shown_cases(result, view),
                       key=lambda case: (case.size_bytes, imbalance(case) or 1.0)):
        groups.setdefault(row_key(case), []).append(case)
    rivals = {key: _rivals(group, costs) for key, group in groups.items()}
    paired = [_pairs(*pair, costs) for pair in rivals.values()]
    rho = autocorrelation([np.divide(*pairs) for pairs in paired if pairs])
    wrong: dict[Key, int] = {}
    for case in result.cases:
        if case.n_wrong is not None and view_of(case) == view:
            wrong[row_key(case)] = wrong.get(row_key(case), 0) + case.n_wrong
    return [Row(*key, library, ours, _median(library, costs, parity), _median(ours, costs, parity),
                _ratio(library, ours, parity, costs, rho), _better(groups[key], ours, costs, rho),
                wrong.get(key))
            for key, (library, ours, parity) in rivals.items()]


def _rivals(cases: Sequence[Case], costs: Costs) -> tuple[Case | None, Case | None, int | None]:
    """The library's best case, our best case (`auto` if it ran), and the rounds of the report."""
    auto = [case for case in cases if case.algorithm == "auto"]
    ours, our_parity = _best_of(
        auto or [case for case in cases if case.algorithm != "library"], costs)
    library, parity = _best_of([case for case in cases if case.algorithm == "library"], costs)
    return library, ours, EVEN if EVEN in (our_parity, parity) else None


def _best_of(cases: Sequence[Case], costs: Costs) -> tuple[Case | None, int | None]:
    """The best case and the rounds that report it. A wrong case comes before any measured one."""
    wrong = next((case for case in cases if case.status == "wrong"), None)
    candidates = _candidates(cases)
    if wrong or len(candidates) < 2:
        return wrong or next(iter(candidates or cases), None), None
    return _best(candidates, costs), EVEN


def _candidates(cases: Sequence[Case]) -> list[Case]:
    """The measured cases, those in the link's longest state if there are any."""
    measured = [case for case in cases if cost_us(case) is not None]
    return [case for case in measured if case.state == "run"] or measured


def _best(cases: Sequence[Case], costs: Costs) -> Case:
    return min(cases, key=lambda case: _median(case, costs, ODD) or float("inf"))


def _median(case: Case | None, costs: Costs, parity: int | None) -> float | None:
    """Median cost over the rounds of this parity; without such a round, the cost of the case."""
    if case is None or cost_us(case) is None:
        return None
    rounds = [cost for number, cost in costs.get(case.case, {}).items()
              if parity is None or number % 2 == parity]
    return float(np.median(rounds)) if rounds else cost_us(case)


def _pairs(library: Case | None, ours: Case | None, parity: int | None,
           costs: Costs) -> tuple[list[float], list[float]] | None:
    """The costs of both cases in their common rounds of this parity, in order; None without any."""
    if library is None or ours is None or cost_us(library) is None or cost_us(ours) is None:
        return None
    library_us, ours_us = costs.get(library.case, {}), costs.get(ours.case, {})
    rounds = [number for number in sorted(library_us.keys() & ours_us.keys())
              if parity is None or number % 2 == parity]
    return ([library_us[r] for r in rounds], [ours_us[r] for r in rounds]) if rounds else None


def _ratio(library: Case | None, ours: Case | None, parity: int | None, costs: Costs,
           rho: float) -> Interval | None:
    """The paired ratio of two cases; of medians, without interval, if both kept no blocks."""
    pairs = _pairs(library, ours, parity, costs)
    if pairs:
        return median_interval(np.divide(*pairs), rho=rho)
    if library is None or ours is None or library.state != ours.state or ours.state == "own":
        return None
    library_us, ours_us = cost_us(library), cost_us(ours)
    return (library_us / ours_us, None, None) if library_us and ours_us else None


def _better(cases: Sequence[Case], auto: Case | None, costs: Costs,
            rho: float) -> tuple[str, float] | None:
    """The other algorithm that beats `auto` by more than 5 %, and by which factor."""
    if auto is None or auto.algorithm != "auto" or cost_us(auto) is None:
        return None
    candidates = _candidates([case for case in cases
                              if case.algorithm not in ("library", "auto", auto.chosen)])
    if not candidates:
        return None
    best = _best(candidates, costs)
    ratio = _ratio(auto, best, EVEN, costs, rho)
    if ratio is None or ratio[0] <= BEATEN_BY or ratio[1] is None or ratio[1] <= 1:
        return None
    variant = f" {best.variant}" * (best.variant != auto.variant)
    return f"{best.algorithm}{variant}", ratio[0]


def flips(result: Result, rows: Sequence[Row], states: LinkStates, view: View) -> list[Flip]:
    """The rows with another winner in another state of the link that has at least 5 blocks of each
    case: the library instead of ours, or an algorithm of ours clearly ahead of the one that ran."""
    flipped = []
    for state in range(len(states.rtt_ns)):
        if state == states.longest:
            continue
        costs = {number: by_round for number, by_round
                 in costs_in(result.blocks, states.of_block, state).items()
                 if len(by_round) >= MIN_STATE_BLOCKS}
        cases = [case for case in shown_cases(result, view)
                 if case.case in costs and cost_us(case) is not None]
        flipped += [_flip(row, state, cases, costs) for row in rows if row.ours in cases]
    return sorted(filter(None, flipped), key=lambda flip: flip.size_bytes)


def _flip(row: Row, state: int, cases: Sequence[Case], costs: Costs) -> Flip | None:
    assert row.ours
    library = row.library if row.library in cases else None
    rivals = [case for case in cases if row_key(case) == (row.size_bytes, row.skew)
              and case.algorithm not in ("library", row.ours.chosen)]
    best = _best(rivals, costs)
    ratio, gain = (_ratio(a, b, parity, costs, 0.0) for a, b, parity in (
        (library, row.ours, None), (row.ours, best, EVEN)))
    is_crossed = ratio is not None and row.ratio is not None and (
        min(ratio[0], row.ratio[0]) < 1 / MARGIN and max(ratio[0], row.ratio[0]) > MARGIN)
    is_outrun = gain is not None and gain[0] > BEATEN_BY and row.better is None
    if not is_crossed and not is_outrun:
        return None
    ours_us, best_us, library_us = (
        _median(case, costs, None) for case in (row.ours, best, library))
    assert best_us is not None
    library_wins = library_us is not None and library_us < best_us
    winner = "library" if library_wins else best.chosen or best.algorithm
    return Flip(row.size_bytes, row.skew, state, library_us, ours_us, best_us, winner)
