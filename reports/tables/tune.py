"""The results of `bench.tune`: the best candidate for each size, mode and state of the link. The
untuned `auto` is a candidate: another wins only if it is clearly faster, round by round."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median

import numpy as np
from numpy.typing import NDArray

from reports.store.blocks import paired
from reports.store.schema import CaseFields, Result, Rounds
from reports.store.stats import Interval, autocorrelation, median_interval
from reports.tables.headline import Point, headline
from reports.tables.rows import ratio_text
from reports.tables.run_text import opening
from reports.tables.sentences import lay_out, number, plain_table, size_text

FINALISTS = 4
LEAST_BLOCKS = 3  # of a finalist in a state of the link
ENOUGH_BLOCKS = 12  # enough for a finalist, however many another one has
UNTUNED = "auto", "auto_stable"  # the candidate that runs what it takes without a table
Heat = tuple[str, int, str, float, bool]  # of a Winner's first four fields, and whether it is lossy


@dataclass(frozen=True)
class Candidate:
    """A build with its costs in one state of the link; `is_untuned`: the choice of `auto`."""

    name: str
    rounds: Rounds
    is_untuned: bool

    @cached_property
    def cost_us(self) -> float:
        return median(self.rounds.values())


@dataclass(frozen=True)
class Winner:
    """The best candidate for calls in a state of the link, with a flag round trip of `link_rtt_ns`;
    `gain` is the cost of the untuned choice over its own, None if it is that choice or if that was
    not measured. `is_settled`: the rounds sufficed to compare both."""

    variant: str
    size_bytes: int
    mode: str
    link_rtt_ns: float
    name: str
    cost_us: float
    gain: Interval | None
    is_settled: bool = True


def winners(result: Result) -> list[Winner]:
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
    best = list[Winner]()

    for heat, candidates in sorted(settled.items()):
        exact = settled.get((*heat[:4], False)) if heat[4] else None
        if not candidates or (exact and exact[0].cost_us <= candidates[0].cost_us):
            continue
        winner, gain, is_settled = candidates[0], None, True
        if default := untuned.get(heat):
            winner, gain, is_settled = clear_winner(candidates, default, rho)
        best.append(Winner(*heat[:4], winner.name, winner.cost_us, gain, is_settled))

    return best


def heats_of(result: Result) -> dict[Heat, list[Candidate]]:
    """The candidates that compete, without those that the untuned `auto` also runs."""
    heats, costs_us = dict[Heat, list[Candidate]](), result.counted.costs_us
    rtt_ns = result.counted.rtt_ns or 1.0
    for case, name in zip(result.cases, names_of(result.cases), strict=True):
        if case.status == "ok" and costs_us.get(case.case):
            heat = case.variant, case.size_bytes, case.mode, rtt_ns, case.snr_db is not None
            is_untuned = case.algorithm in UNTUNED
            its = case.chosen if is_untuned else name
            heats.setdefault(heat, []).append(
                Candidate(its or case.algorithm, costs_us[case.case], is_untuned)
            )

    for candidates in heats.values():
        default = {candidate.name for candidate in candidates if candidate.is_untuned}
        candidates[:] = [
            candidate
            for candidate in candidates
            if candidate.is_untuned or candidate.name not in default
        ]

    return heats


def names_of(cases: Sequence[CaseFields]) -> list[str]:
    """What each case runs, in the words of `chosen`: with its memory if the run has several
    kinds."""
    several = len({case.memory for case in cases if not case.library}) > 1
    return [f"{case.algorithm}{f' over {case.memory}' * several}" for case in cases]


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


def render(result: Result) -> str:
    """A table for each mode with a line for each size, variant and state of the link; ends with a
    newline."""
    head = [
        "the best in each state of the link (a flag's round trip); us with reading the",
        "result; gain: the choice of the untuned auto over the best, - if it is the best",
    ]
    best, tables = winners(result), []

    for calls in sorted({winner.mode for winner in best}, reverse=True):
        rows = [
            [
                size_text(winner.size_bytes),
                winner.variant,
                f"{winner.link_rtt_ns:.0f}",
                number(winner.cost_us),
                winner.name,
                ratio_text(winner.gain) if winner.is_settled else "too few rounds",
            ]
            for winner in best
            if winner.mode == calls
        ]
        title = calls + ": a call of a chain" * (calls == "chained")
        headings = ["size", "variant", "link ns", "us", "best", "gain [95 %]"]
        tables.append((title, plain_table(headings, rows)))

    return lay_out([*opening(result), headline([result], points)], head, tables, [])


def points(result: Result) -> list[Point]:
    """The headline's figures: the best at the smallest and the largest size, and its gain."""
    best = sorted(winners(result), key=lambda each: (each.size_bytes, each.mode != "isolated"))
    return [
        Point(size_text(each.size_bytes), each.cost_us, "us", each.gain and each.gain[0], "untuned")
        for each in (*best[:1], *best[1:][-1:])
    ]
