"""What bench.tune decides: the best candidate for each size, variant and mode, by the blocks in the
run's state of the link. The untuned `auto` is a candidate: another wins only if it is clearly
faster, round by round."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from collectives.names import BuildName
from reports.store.blocks import paired
from reports.store.schema import CaseFields, Result, RoundCosts, Rounds, Winner
from reports.store.stats import Interval, autocorrelation, median_interval

FINALISTS = 4
LEAST_BLOCKS = 3  # of a finalist
ENOUGH_BLOCKS = 12  # enough for a finalist, however many another one has
UNTUNED = "auto", "auto_stable"  # the candidate that runs what it takes without a table


class Heat(NamedTuple):
    """What candidates compete for. Quantised ones have heats of their own."""

    variant: str
    size_bytes: int
    mode: str
    is_lossy: bool = False


@dataclass(frozen=True)
class Candidate:
    """A case of a heat: the build that it runs, and its cost in each round; `is_untuned`: that is
    the choice of `auto`."""

    number: int
    name: str
    rounds: Rounds
    is_untuned: bool

    @cached_property
    def cost_us(self) -> float:
        return median(self.rounds.values())


def find_winners(result: Result) -> list[Winner]:
    """The winner of each heat. Quantised candidates have their own, if it is faster than the exact
    one."""
    right = [case.case for case in result.cases if case.status == "ok"]
    heats = heats_of(result.cases, result.counted.costs_us, right)
    settled = {heat: settled_of(candidates) for heat, candidates in heats.items()}
    untuned = {
        heat: candidate
        for heat, candidates in heats.items()
        for candidate in candidates
        if candidate.is_untuned and candidate.rounds
    }
    rho = autocorrelation(
        [gains(default, settled[heat][0]) for heat, default in untuned.items() if settled[heat]]
    )
    winners = list[Winner]()
    for heat, candidates in sorted(settled.items()):
        exact = settled.get(heat._replace(is_lossy=False)) if heat.is_lossy else None
        if not candidates or (exact and exact[0].cost_us <= candidates[0].cost_us):
            continue
        best, gain, is_settled = candidates[0], None, True
        if default := untuned.get(heat):
            best, gain, is_settled = clear_winner(candidates, default, rho)
        winners.append(
            Winner(
                variant=heat.variant,
                size_bytes=heat.size_bytes,
                mode=heat.mode,
                name=best.name,
                cost_us=best.cost_us,
                gain=gain,
                is_settled=is_settled,
            )
        )
    return winners


def heats_of(
    cases: Sequence[CaseFields], costs_us: RoundCosts, numbers: Iterable[int] | None = None
) -> dict[Heat, list[Candidate]]:
    """The candidates that compete, of these numbers (default: all), with their costs by round, and
    without those that the untuned `auto` also runs."""
    several = len({case.memory for case in cases if not case.library}) > 1
    heats = dict[Heat, list[Candidate]]()
    for number in range(len(cases)) if numbers is None else numbers:
        case = cases[number]
        heat = Heat(case.variant, case.size_bytes, case.mode, case.snr_db is not None)
        name = BuildName.parse(case.algorithm)
        runs = str(name._replace(memory=case.memory if several else None))
        is_untuned = case.algorithm in UNTUNED
        if is_untuned:
            runs = case.chosen or case.algorithm
        candidate = Candidate(number, runs, costs_us.get(number, {}), is_untuned)
        heats.setdefault(heat, []).append(candidate)
    for candidates in heats.values():
        default = {candidate.name for candidate in candidates if candidate.is_untuned}
        candidates[:] = [
            candidate
            for candidate in candidates
            if candidate.is_untuned or candidate.name not in default
        ]
    return heats


def settled_of(candidates: list[Candidate]) -> list[Candidate]:
    """The candidates with enough blocks, the fastest first. Early losers have few blocks: the best
    of them would be luck."""
    most = max(len(candidate.rounds) for candidate in candidates)
    least = min(max(most / 2, LEAST_BLOCKS), ENOUGH_BLOCKS)
    return sorted(
        (candidate for candidate in candidates if len(candidate.rounds) >= least),
        key=lambda candidate: candidate.cost_us,
    )


def clear_winner(
    candidates: list[Candidate], default: Candidate, rho: float
) -> tuple[Candidate, Interval | None, bool]:
    """The fastest candidate whose gain over the default has an interval above 1, and this gain; or
    the default, and whether the gain of the fastest other candidate has an interval."""
    others = [candidate for candidate in candidates if not candidate.is_untuned]
    ratios = [gains(default, candidate) for candidate in others]
    intervals = [median_interval(each, rho=rho) if len(each) else None for each in ratios]
    for candidate, gain in zip(others, intervals, strict=True):
        if gain and (gain[1] or 0.0) > 1:
            return candidate, gain, True
    return default, None, all(gain and gain[1] is not None for gain in intervals[:1])


def gains(default: Candidate, candidate: Candidate) -> NDArray[np.float64]:
    """The default's cost over the candidate's, in their common rounds."""
    return np.asarray(np.divide(*paired(default.rounds, candidate.rounds)))
