"""What bench.tune decides: the best candidate for each size, variant and mode, by the blocks in the
run's state of the link. The untuned `auto` is a candidate: another wins only if it is clearly
faster, round by round."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reports.store.blocks import paired
from reports.store.names import BuildName
from reports.store.schema import CaseFields, Result, Rounds, Winner
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
    """A build with its cost in each round; `is_untuned`: the choice of `auto`."""

    name: str
    rounds: Rounds
    is_untuned: bool

    @cached_property
    def cost_us(self) -> float:
        return median(self.rounds.values())


def find_winners(result: Result) -> list[Winner]:
    """The winner of each heat. Quantised candidates have their own, if it is faster than the exact
    one."""
    heats = heats_of(result)
    settled = {heat: settled_of(candidates) for heat, candidates in heats.items()}
    untuned = {
        heat: candidate
        for heat, candidates in heats.items()
        for candidate in candidates
        if candidate.is_untuned
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


def heats_of(result: Result) -> dict[Heat, list[Candidate]]:
    """The candidates that compete, without those that the untuned `auto` also runs."""
    costs_us = result.counted.costs_us
    heats = dict[Heat, list[Candidate]]()
    for case, name in zip(result.cases, names_of(result.cases), strict=True):
        if case.status != "ok" or not costs_us.get(case.case):
            continue
        heat = Heat(case.variant, case.size_bytes, case.mode, case.snr_db is not None)
        is_untuned = case.algorithm in UNTUNED
        runs = (case.chosen or case.algorithm) if is_untuned else name
        heats.setdefault(heat, []).append(Candidate(runs, costs_us[case.case], is_untuned))
    for candidates in heats.values():
        default = {candidate.name for candidate in candidates if candidate.is_untuned}
        candidates[:] = [
            candidate
            for candidate in candidates
            if candidate.is_untuned or candidate.name not in default
        ]
    return heats


def names_of(cases: Iterable[CaseFields]) -> list[str]:
    """What each case runs, in the words of `chosen`: with its memory if the run has several
    kinds."""
    cases = list(cases)
    several = len({case.memory for case in cases if not case.library}) > 1
    names = [BuildName.parse(case.algorithm) for case in cases]
    if several:
        names = [name._replace(memory=case.memory) for name, case in zip(names, cases, strict=True)]
    return [str(name) for name in names]


def settled_of(candidates: list[Candidate]) -> list[Candidate]:
    """The candidates with enough blocks, the fastest first. Early losers have few blocks: the best
    of them would be luck."""
    half = max(len(candidate.rounds) for candidate in candidates) / 2
    least = min(max(half, LEAST_BLOCKS), ENOUGH_BLOCKS)
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
