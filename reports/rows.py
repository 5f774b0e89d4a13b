"""What the default table says at each size: the library beside ours, paired block by block, and what else is worth a
mark. Costs are the collective and the reading of its result together (`total_us`), over the blocks of the link's
longest state.

A best of several is chosen on odd rounds and reported on even ones, so that the choice does not flatter itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reports.case import LinkStates
from reports.schema import Case, Result
from reports.stats import Interval, ratio_interval

BEATEN_BY = 1.05
MARGIN = 1.01
MIN_STATE_BLOCKS = 5

# Cost in microseconds by round, by case number.
Costs = dict[int, dict[int, float]]


@dataclass
class Row:
    """One size; the library is the best of its variants. `ratio` is library over ours, above 1 where ours is faster;
    `better` another algorithm of ours that beat `auto`, and how many times; `n_wrong` counts over every case of the
    size, None where nothing was checked."""

    size_bytes: int
    library: Case | None
    ours: Case | None
    library_us: float | None
    ours_us: float | None
    ratio: Interval | None
    better: tuple[str, float] | None
    n_wrong: int | None

    @property
    def algorithm(self) -> str:
        """The algorithm that ours ran."""
        return (self.ours.chosen or self.ours.algorithm) if self.ours else "-"


@dataclass
class Flip:
    """A size where another state of the link has another winner; costs in that state, in microseconds."""

    size_bytes: int
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


def shown_cases(result: Result, mode: str) -> list[Case]:
    """The cases of this mode that a table of one row a size is about: of the first datatype and redop, out of place
    where that was run."""
    cases = [case for case in result.cases if case.mode == mode]
    if not cases:
        return []
    first = cases[0]
    cases = [case for case in cases if (case.datatype, case.redop, case.shape, case.collective)
             == (first.datatype, first.redop, first.shape, first.collective)]
    out_of_place = [case for case in cases if not case.in_place]
    return out_of_place or cases


def costs_in(result: Result, states: LinkStates, state: int | None) -> Costs:
    """The cost of every block that was in `state`; None stands for the mixed ones."""
    costs: Costs = {}
    for block, its in zip(result.blocks, states.of_block, strict=True):
        if its == state:
            total_us = block.time_us if block.total_us is None else block.total_us
            costs.setdefault(block.case, {})[block.round] = total_us
    return costs


def default_rows(result: Result, mode: str, states: LinkStates) -> list[Row]:
    """One row for each size of this mode, smallest first."""
    cases = shown_cases(result, mode)
    costs = costs_in(result, states, states.longest)
    by_size: dict[int, list[Case]] = {}
    for case in cases:
        by_size.setdefault(case.size_bytes, []).append(case)
    wrong: dict[int, list[int]] = {}
    for case in result.cases:
        if case.n_wrong is not None:
            wrong.setdefault(case.size_bytes, []).append(case.n_wrong)
    rows = []
    for size, here in sorted(by_size.items()):
        ours, rounds = _ours(here, costs)
        library, judged = _best_of([case for case in here if case.algorithm == "library"], costs)
        rounds = 0 if 0 in (rounds, judged) else None
        others = [case for case in here if case.algorithm not in ("library", "auto", ours and ours.chosen)]
        better = _beaten(ours, others, costs) if ours and ours.algorithm == "auto" else None
        rows.append(Row(size, library, ours, _median(library, costs, rounds), _median(ours, costs, rounds),
                        _ratio(library, ours, costs, rounds), better, sum(wrong[size]) if size in wrong else None))
    return rows


def _ours(cases: Sequence[Case], costs: Costs) -> tuple[Case | None, int | None]:
    """The case that stands for ours and the rounds it is reported on: all (None), or the even ones (0) of the best."""
    auto = next((case for case in cases if case.algorithm == "auto"), None)
    if auto:
        return auto, None
    return _best_of([case for case in cases if case.algorithm != "library"], costs)


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


def _ratio(library: Case | None, ours: Case | None, costs: Costs, parity: int | None) -> Interval | None:
    if library is None or ours is None or cost_us(library) is None or cost_us(ours) is None:
        return None
    theirs, mine = costs.get(library.case, {}), costs.get(ours.case, {})
    rounds = [turn for turn in sorted(theirs.keys() & mine.keys()) if parity is None or turn % 2 == parity]
    if rounds:
        return ratio_interval([theirs[turn] for turn in rounds], [mine[turn] for turn in rounds])
    if library.state != ours.state or ours.state == "own":
        return None
    a, b = cost_us(library), cost_us(ours)
    return (a / b, None, None) if a and b else None


def _beaten(auto: Case, others: Sequence[Case], costs: Costs) -> tuple[str, float] | None:
    """The other algorithm that beat `auto` by more than 5 %, and how many times."""
    candidates = _candidates(others)
    if not candidates or cost_us(auto) is None:
        return None
    best = _best(candidates, costs)
    ratio = _ratio(auto, best, costs, 0)
    name = best.algorithm if best.variant == auto.variant else f"{best.algorithm} {best.variant}"
    surely = ratio is not None and ratio[0] > BEATEN_BY and ratio[1] is not None and ratio[1] > 1
    return (name, ratio[0]) if ratio and surely else None


def flips(result: Result, rows: Sequence[Row], states: LinkStates, mode: str) -> list[Flip]:
    """Where another state of the link, with at least 5 blocks of each case, has another winner: library against ours,
    or another algorithm of ours well ahead of the one that ours runs."""
    found = []
    for state in range(len(states.rtt_ns)):
        if state != states.longest:
            costs = {number: by_round for number, by_round in costs_in(result, states, state).items()
                     if len(by_round) >= MIN_STATE_BLOCKS}
            cases = [case for case in shown_cases(result, mode) if case.case in costs and cost_us(case) is not None]
            found += [flip for row in rows if (flip := _flip(row, state, cases, costs))]
    return sorted(found, key=lambda flip: flip.size_bytes)


def _flip(row: Row, state: int, cases: Sequence[Case], costs: Costs) -> Flip | None:
    ours = [case for case in cases if case.size_bytes == row.size_bytes and case.algorithm != "library"]
    if row.ours not in ours:
        return None
    library = row.library if row.library in cases else None
    ratio = _ratio(library, row.ours, costs, None)
    crossed = ratio is not None and row.ratio is not None and (
        ratio[0] > MARGIN > 1 / MARGIN > row.ratio[0] or row.ratio[0] > MARGIN > 1 / MARGIN > ratio[0])
    rivals = [case for case in ours if case.algorithm != row.ours.chosen]
    best = _best(rivals, costs)
    gain = _ratio(row.ours, best, costs, 0)
    outrun = gain is not None and gain[0] > BEATEN_BY and row.better is None
    if not crossed and not outrun:
        return None
    ours_us, best_us, library_us = (_median(case, costs, None) for case in (row.ours, best, library))
    name = best.chosen or best.algorithm
    assert best_us is not None
    winner = "library" if library_us is not None and library_us < best_us else name
    return Flip(row.size_bytes, state, library_us, ours_us, best_us, winner)
