"""The rows of the default table: at each size the library beside our algorithm.

A cost is the time of the collective plus the reading of its result (`total_us`), over the blocks in
the link's longest state. Costs of the same round are paired. If several variants compete, odd
rounds choose the best and even rounds report it, so that the choice does not bias its result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reports.store.case import LinkStates, beside, costs_in, find_states, late_us
from reports.store.schema import Case, Result
from reports.store.stats import Interval, autocorrelation, median_interval
from reports.tables.sentences import MARGIN, size_text

BEATEN_BY = 1.05
MIN_STATE_BLOCKS = 5

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
    def label(self) -> str:
        """The first cell of the row: its skew or its size."""
        return self.skew or size_text(self.size_bytes)

    @property
    def algorithm(self) -> str:
        """The algorithm that ours ran, without its build."""
        name = (self.ours.chosen or self.ours.algorithm) if self.ours else "-"
        return name.partition("+")[0]


@dataclass
class Flip:
    """A row with another winner in another state of the link; costs in microseconds there."""

    row: Row
    rtt_ns: float
    library_us: float | None
    ours_us: float | None
    best_us: float | None
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


def imbalance(case: Case) -> float:
    """The load of the busiest rank over the mean load; 1 for a case without routing."""
    return (case.routing["rank_max_over_mean"] if case.routing else None) or 1.0


def costs_of(result: Result, states: LinkStates, state: int | None) -> pd.DataFrame:
    """The costs in microseconds in a state of the link: a row for each round, a column for each
    case, NaN if it has no block there."""
    costs = costs_in(result.blocks, states.of_block, state)
    frame = pd.DataFrame(costs, columns=[case.case for case in result.cases], dtype=float)
    return frame.sort_index()


def costs_in_longest(result: Result) -> pd.DataFrame:
    """The costs in the state with most blocks."""
    states = find_states(result.blocks)
    return costs_of(result, states, states.longest)


def ratios_of(case: Case | None, other: Case | None, costs: pd.DataFrame) -> NDArray[np.float64]:
    """The cost of one case over the cost of another in their common rounds, in order."""
    if case is None or other is None or cost_us(case) is None or cost_us(other) is None:
        return np.array([])
    return (costs[case.case] / costs[other.case]).dropna().to_numpy()


def default_rows(result: Result, view: View, states: LinkStates) -> list[Row]:
    """The rows of a view by size; rows of one size by skew, the most even first."""
    costs = costs_of(result, states, states.longest)
    groups: dict[Key, list[Case]] = {}
    for case in sorted(shown_cases(result, view),
                       key=lambda case: (case.size_bytes, imbalance(case))):
        groups.setdefault(row_key(case), []).append(case)
    rivals = {key: _rivals(group, costs) for key, group in groups.items()}
    rho = autocorrelation([ratios_of(*pair) for pair in rivals.values()])
    rows = []
    for key, (library, ours, report) in rivals.items():
        wrong = [case.n_wrong for case in result.cases if case.n_wrong is not None
                 and row_key(case) == key and view_of(case) == view]
        rows.append(Row(
            *key, library, ours, _median_us(library, report), _median_us(ours, report),
            _ratio(library, ours, report, rho), _better(groups[key], ours, costs, rho),
            sum(wrong) if wrong else None))
    return rows


def _rivals(cases: Sequence[Case],
            costs: pd.DataFrame) -> tuple[Case | None, Case | None, pd.DataFrame]:
    """The library's best case, our best case (`auto` if it ran), and the costs to report."""
    library = _candidates([case for case in cases if case.algorithm == "library"])
    auto = [case for case in cases if case.algorithm == "auto"]
    ours = _candidates(auto or [case for case in cases if case.algorithm != "library"])
    is_chosen = max(len(library), len(ours)) > 1
    return best(library, costs), best(ours, costs), _rounds(costs, 0) if is_chosen else costs


def _candidates(cases: Sequence[Case]) -> Sequence[Case]:
    """A wrong case, so that readers see it; else the measured cases, those in the link's longest
    state if there are any; else the first case."""
    wrong = [case for case in cases if case.status == "wrong"]
    measured = [case for case in cases if cost_us(case) is not None]
    in_state = [case for case in measured if case.state == "run"]
    return wrong[:1] or in_state or measured or cases[:1]


def _rounds(costs: pd.DataFrame, parity: int) -> pd.DataFrame:
    return costs[costs.index % 2 == parity]


def best(cases: Sequence[Case], costs: pd.DataFrame) -> Case | None:
    """The case with the lowest median over odd rounds."""
    odd = _rounds(costs, 1)
    return min(cases, key=lambda case: _median_us(case, odd) or float("inf"), default=None)


def _median_us(case: Case | None, costs: pd.DataFrame) -> float | None:
    """Median cost over these rounds; without a round, the cost of the case."""
    if case is None or cost_us(case) is None:
        return None
    median_us = float(costs[case.case].median())
    return cost_us(case) if np.isnan(median_us) else median_us


def _ratio(case: Case | None, other: Case | None, costs: pd.DataFrame,
           rho: float = 0.0) -> Interval | None:
    """The paired ratio of two cases; of medians, without interval, if both kept no blocks."""
    ratios = ratios_of(case, other, costs)
    if len(ratios):
        return median_interval(ratios, rho=rho)
    if case is None or other is None or case.state != other.state or other.state == "own":
        return None
    case_us, other_us = cost_us(case), cost_us(other)
    return (case_us / other_us, None, None) if case_us and other_us else None


def _better(cases: Sequence[Case], auto: Case | None, costs: pd.DataFrame,
            rho: float) -> tuple[str, float] | None:
    """The other algorithm that beats `auto` by more than 5 %, and by which factor."""
    if auto is None or auto.algorithm != "auto" or cost_us(auto) is None:
        return None
    others = [case for case in cases if cost_us(case) is not None
              and case.algorithm not in ("library", "auto", auto.chosen)]
    fastest = best(_candidates(others), costs)
    ratio = _ratio(auto, fastest, _rounds(costs, 0), rho)
    if fastest is None or ratio is None or ratio[0] <= BEATEN_BY or (ratio[1] or 0) <= 1:
        return None
    variant = f" {fastest.variant}" * (fastest.variant != auto.variant)
    return f"{fastest.algorithm}{variant}", ratio[0]


def flips(result: Result, rows: Sequence[Row], states: LinkStates, view: View) -> list[Flip]:
    """The rows with another winner in another state of the link that has at least 5 blocks of each
    case: the library instead of ours, or an algorithm of ours clearly ahead of the one that ran."""
    flipped = []
    for state, rtt_ns in enumerate(states.rtt_ns):
        costs = costs_of(result, states, state)
        counts = costs.count()
        cases = [case for case in shown_cases(result, view)
                 if counts[case.case] >= MIN_STATE_BLOCKS and cost_us(case) is not None]
        if state != states.longest:
            flipped += [_flip(row, rtt_ns, cases, costs) for row in rows if row.ours in cases]
    return sorted(filter(None, flipped), key=lambda flip: flip.row.size_bytes)


def _flip(row: Row, rtt_ns: float, cases: Sequence[Case], costs: pd.DataFrame) -> Flip | None:
    assert row.ours
    library = row.library if row.library in cases else None
    fastest = best([case for case in cases if row_key(case) == (row.size_bytes, row.skew)
                  and case.algorithm not in ("library", row.ours.chosen)], costs)
    assert fastest
    ratio, gain = _ratio(library, row.ours, costs), _ratio(row.ours, fastest, _rounds(costs, 0))
    is_crossed = ratio is not None and row.ratio is not None and (
        min(ratio[0], row.ratio[0]) < 1 / MARGIN and max(ratio[0], row.ratio[0]) > MARGIN)
    is_outrun = gain is not None and gain[0] > BEATEN_BY and row.better is None
    if not is_crossed and not is_outrun:
        return None
    library_us, ours_us, best_us = (
        _median_us(case, costs) for case in (library, row.ours, fastest))
    library_wins = library_us is not None and best_us is not None and library_us < best_us
    winner = "library" if library_wins else fastest.chosen or fastest.algorithm
    return Flip(row, rtt_ns, library_us, ours_us, best_us, winner)
