"""What bench.tune decides for each size, variant and mode, by the blocks in the run's state of the
link. The untuned `auto` is a candidate. The odd rounds choose another one, and the even rounds test
it: in those that chose it, luck would be a gain. A second launch confirms it, by all of its rounds:
the place of ranks and buffers favours builds too."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from collectives.build import BuildName
from wiretax.record.blocks import paired
from wiretax.record.schema import CaseFields, Result, RoundCosts, Rounds, Winner
from wiretax.record.stats import autocorrelation, median_interval

CONFIRMED = 1.645  # standard deviations between launches: 5 % of equal builds gain as much
FINALISTS = 4
LEAST_BLOCKS = 3  # of a finalist
ENOUGH_BLOCKS = 12  # enough for a finalist, however many another one has
UNTUNED = "auto", "auto_stable"  # the candidate that runs what it takes without a table


class Heat(NamedTuple):
    """What candidates compete for."""

    variant: str
    size_bytes: int
    mode: str


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


def find_winners(result: Result, found: Mapping[Heat, tuple[str, float]] = {}) -> list[Winner]:
    """The winner of each heat: the untuned choice of `auto`, unless a candidate was faster in two
    launches, by more than equal builds are by luck (CONFIRMED). `found` are the candidates of an
    earlier launch and their gains. A candidate that is faster here for the first time is named in
    its heat's winner, and the next launch tests it."""
    heats = heats_of(result.cases, result.counted.costs_us)
    settled = {heat: settled_of(candidates) for heat, candidates in heats.items()}
    untuned = {
        heat: candidate
        for heat, candidates in heats.items()
        for candidate in candidates
        if candidate.is_untuned and candidate.rounds
    }
    chosen = dict[Heat, Candidate]()
    for heat, default in untuned.items():
        others = [each for each in settled[heat] if each is not default and turns(each.rounds, 1)]
        named = [each for each in others if heat in found and each.name == found[heat][0]]
        if others:  # what was found is tested, or the fastest in the odd rounds
            chosen[heat] = min(
                named or others, key=lambda each: median(turns(each.rounds, 1).values())
            )
    again = {heat for heat in found.keys() & chosen if chosen[heat].name == found[heat][0]}
    series = {
        heat: gains(untuned[heat], candidate, heat in again) for heat, candidate in chosen.items()
    }
    rho = autocorrelation([*series.values()])
    tested = {heat: median_interval(each, rho=rho) for heat, each in series.items() if len(each)}
    again &= tested.keys()
    # The standard deviation between launches of the log of a gain.
    logs = np.log([tested[heat][0] / found[heat][1] for heat in again])
    spread = np.sqrt(np.mean(logs**2) / 2) if again else 0.0
    winners = list[Winner]()
    for heat, candidates in sorted(settled.items()):
        if not candidates:
            continue
        best, name, gain = untuned.get(heat, candidates[0]), None, tested.get(heat)
        is_settled = heat not in chosen or bool(gain and gain[1] is not None)
        if gain and (gain[1] or 0.0) > 1:
            if heat not in again:
                name = chosen[heat].name
            elif np.log(gain[0]) > CONFIRMED * spread:
                best, name = chosen[heat], chosen[heat].name
        winners.append(
            Winner(
                **heat._asdict(),
                name=best.name,
                cost_us=best.cost_us,
                candidate=name,
                gain=gain if name else None,
                is_settled=is_settled,
            )
        )
    return winners


def heats_of(cases: Sequence[CaseFields], costs_us: RoundCosts) -> dict[Heat, list[Candidate]]:
    """The candidates that compete, with their costs by round, without those that failed or that the
    untuned `auto` also runs."""
    several = len({case.memory for case in cases if not case.library}) > 1
    heats = dict[Heat, list[Candidate]]()
    for number, case in enumerate(cases):
        if case.status != "ok":
            continue
        heat = Heat(case.variant, case.size_bytes, case.mode)
        runs = str(BuildName(case.algorithm, memory=case.memory if several else None))
        is_untuned = case.algorithm in UNTUNED
        if is_untuned:
            runs = case.chosen or case.algorithm
        rounds = {turn: us for turn, us in costs_us.get(number, {}).items() if us > 0}
        candidate = Candidate(number, runs, rounds, is_untuned)
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


def turns(rounds: Rounds, remainder: int) -> Rounds:
    """The odd rounds (1), or the even ones (0)."""
    return {number: cost_us for number, cost_us in rounds.items() if number % 2 == remainder}


def gains(default: Candidate, candidate: Candidate, is_confirmed: bool) -> NDArray[np.float64]:
    """The default's cost over the candidate's in their common even rounds, or in all if an earlier
    launch chose the candidate: then no round here did."""
    own = default.rounds, candidate.rounds
    rounds = paired(*own if is_confirmed else (turns(each, 0) for each in own))
    return np.asarray(np.divide(*rounds))
