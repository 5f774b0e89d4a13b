"""`selfcheck`: the calibration of the verdicts. Launches whose truth is known go through the statistics that judge real
ones, and each rate that this program promises is measured and held against its limit.

`rate` tells how a rate is judged.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np
from numpy.typing import NDArray

from reports.calibration import calibrated_fit, calibrated_history, synthetic
from reports.calibration.rate import Figure
from reports.calibration.synthetic import ROUNDS, Scenario, blocks, campaigns, log_ratios
from reports.store import stats
from reports.store.result import ResultError
from reports.store.workers import end_with_parent
from reports.verdicts import verdict
from reports.verdicts.verdict import LOOKS, MARGIN, Verdict

Values = NDArray[np.float64]

REPLICATIONS = 4000
CELLS = 84
FIRST, FRESH, GROWN = 10, 25, 40  # pairs
EFFECT = 0.03
MOST_ROUNDS = 60
JUDGED_CASES = 12  # of a run
AT_A_TIME = 100  # tables
TWO_STAGES, GROWING = "two stages", "growing to 40 pairs"

PLAIN = Scenario("spread 1.5 %")
DRIFT = Scenario("rho 0.9 and drift", rho=0.9, drift=0.004)
FLIPPING = Scenario("two states at 3x", rho=0.6, states=2)
OUTLIERS = Scenario("outliers", outliers=True)
NULLS = [Scenario("spread 0.5 %", spread=0.005), PLAIN, Scenario("spread 3 %", spread=0.03), DRIFT, FLIPPING, OUTLIERS,
         Scenario("cases hang together", shared=0.7), Scenario("recorded launches", recorded=True)]


def tables(design: str, scenario: Scenario, rng: np.random.Generator, n: int,
           effect: float = 0.0) -> tuple[NDArray[np.str_], Values]:
    """The verdicts of `n` tables, (n, cells), the first cell of each slower by `effect`; and what those could show."""
    launches = synthetic.launches_of(scenario, rng)
    judged: list[verdict.Judgement] = []
    while len(judged) < n:
        medians = campaigns(scenario, launches, rng, min(AT_A_TIME, n - len(judged)), CELLS,
                            GROWN if design == GROWING else FIRST + FRESH)
        medians[1, :, 0] += np.log1p(effect)
        if design == GROWING:
            looks = [round(share * GROWN) for share in LOOKS]
            judged += [verdict.growing(ratios, looks) for ratios in log_ratios(medians)]
        else:
            judged += map(verdict.two_stages, log_ratios(medians[:, :, :, :FIRST]),
                          log_ratios(medians[:, :, :, FIRST:]))
    return np.array([one.verdicts for one in judged]), np.array([one.detectable[0] for one in judged])


def false_alarms(design: str, scenario: Scenario, rng: np.random.Generator, n: int) -> list[Figure]:
    """How often a table where nothing differs has a FASTER or SLOWER, and how many of its cells."""
    verdicts, _ = tables(design, scenario, rng, n)
    called = np.isin(verdicts, (Verdict.SLOWER.value, Verdict.FASTER.value))
    claim = f"A/A, {design}: FASTER or SLOWER"
    return [Figure(claim, f"{scenario.name}: tables", called.any(axis=1).astype(float), most=0.05),
            Figure(claim, f"{scenario.name}: cells", called.mean(axis=1), most=0.005)]


def power(design: str, spread: float, least: float, rng: np.random.Generator, n: int) -> list[Figure]:
    """What becomes of one cell that is 3 % slower: `least` are called, or cannot be, and then the table says so."""
    verdicts, detectable = tables(design, Scenario("", spread=spread), rng, n, EFFECT)
    is_slower, is_same = ((verdicts[:, 0] == one.value).astype(float) for one in (Verdict.SLOWER, Verdict.SAME))
    is_open = (verdicts[:, 0] == Verdict.AMBIGUOUS.value) & (detectable >= EFFECT)
    claim, name = f"+3 % in one of 84 cells, {design}", f"spread {spread * 100:g} %"
    return [Figure(claim, f"{name}: SLOWER", is_slower, least),
            Figure(claim, f"{name}: SLOWER, or MDE >= 3 %", is_slower + is_open, 0.90),
            Figure(claim, f"{name}: SAME", is_same, most=0.05)]


def sameness(rng: np.random.Generator, n: int) -> list[Figure]:
    """How many of the cells where nothing differs are found to be the SAME."""
    verdicts, _ = tables(GROWING, Scenario("", spread=0.01), rng, n)
    same = np.mean(verdicts == Verdict.SAME.value, axis=1)
    return [Figure(f"Nothing differs, {GROWING}", "spread 1 %: SAME", same, 0.90)]


def campaign_coverage(scenario: Scenario, pairs: int, rng: np.random.Generator, n: int) -> list[Figure]:
    """How often the interval of a campaign's cell has the truth in it."""
    medians = campaigns(scenario, synthetic.launches_of(scenario, rng), rng, 10 * n, 1, pairs)
    found = verdict.evidence(log_ratios(medians)[:, 0])
    inside = ((found.low <= 0) & (found.high >= 0))[found.pairs >= verdict.MIN_PAIRS]
    return [Figure("95 % interval of a campaign", f"{scenario.name}, {pairs} pairs", inside.astype(float), 0.93, 0.97)]


def launch_coverage(name: str, scenario: Scenario, cases: int, stops: bool, rng: np.random.Generator,
                    n: int) -> list[Figure]:
    """How often the interval of a launch's case has the launch's own median in it. With `stops` a case ends as soon as
    it is precise, as in a run without `-n`: that, and few cases, have no limit and a quarter of the replications."""
    values = []
    for _ in range(n if cases == CELLS else n // 4):
        rounds = MOST_ROUNDS if stops else ROUNDS
        costs = np.exp(scenario.spread * blocks(rng, (cases, rounds), scenario.rho).astype(float))
        link = synthetic.link_sequences(rng, 1, rounds, scenario.states)[0]
        costs = costs[:, link == np.argmax(np.bincount(link))]
        runs = [case[: _precise_after(case)] for case in costs] if stops else list(costs)
        values.append(np.mean([(low or 0) <= 1 <= (high or np.inf) for _, low, high in _intervals(runs)]))
    limits = (0.93, 0.97) if cases == CELLS else (0.0, 1.0)
    return [Figure("95 % interval of a launch", f"{name}, {cases} case{'s' * (cases > 1)}", np.array(values), *limits)]


def _intervals(runs: Sequence[Values]) -> list[stats.Interval]:
    rho = stats.autocorrelation(runs)
    return [stats.median_interval(case, rho=rho) for case in runs[:JUDGED_CASES]]


def _precise_after(costs: Values) -> int:
    return next((n for n in range(ROUNDS, len(costs)) if stats.is_precise(costs[:n])), len(costs))


def cries_of_wolf(spread: float, rng: np.random.Generator, n: int) -> list[Figure]:
    """How many cells of one launch against another of the same thing look different by the intervals within them."""
    values = []
    within = spread * blocks(rng, (n, 2, JUDGED_CASES, ROUNDS), PLAIN.rho).astype(float)
    own = synthetic.between_launches(within, spread) * rng.standard_normal((n, 2, JUDGED_CASES, 1))
    for one, other in np.exp(within + own):
        rho = stats.autocorrelation(list(other / one))
        found = [stats.ratio_interval(*costs, rho=rho) for costs in zip(other, one, strict=True)]
        values.append(np.mean([abs(np.log(ratio)) > np.log1p(MARGIN) and not (low or 0) <= 1 <= (high or np.inf)
                               for ratio, low, high in found]))
    return [Figure("One launch against one, by the intervals within them", f"spread {spread * 100:g} %: cells called",
                   np.array(values))]


RHOS = (0.0, 0.3, 0.6, 0.9)
CLAIMS: list[Callable[[np.random.Generator, int], list[Figure]]] = [
    *(partial(false_alarms, design, scenario) for design in (TWO_STAGES, GROWING) for scenario in NULLS),
    *(partial(power, design, *case) for design in (TWO_STAGES, GROWING)
      for case in ((0.015, 0.90), (0.02, 0.80), (0.025, 0.0), (0.03, 0.0))),
    sameness,
    *(partial(campaign_coverage, scenario, pairs) for scenario in (PLAIN, DRIFT, FLIPPING, OUTLIERS)
      for pairs in (FIRST, FRESH, GROWN)),
    *(partial(launch_coverage, f"rho {rho}", Scenario("", rho=rho), cases, False)
      for cases in (CELLS, 24, 1) for rho in RHOS),
    partial(launch_coverage, FLIPPING.name, FLIPPING, CELLS, False),
    *(partial(launch_coverage, f"rho {rho}, until precise", Scenario("", spread=0.02, rho=rho), 24, True)
      for rho in RHOS),
    *(partial(cries_of_wolf, spread) for spread in (0.005, 0.015, 0.03)),
    *calibrated_fit.CLAIMS,
    *calibrated_history.CLAIMS,
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `selfcheck`."""
    parser.add_argument("--seed", type=int, help="of the random numbers (default: from the clock)")
    parser.add_argument("--scale", type=float, default=1.0, metavar="X",
                        help=f"a share of the {REPLICATIONS} replications; fewer widen the limits (default: 1)")


def selfcheck(arguments: argparse.Namespace) -> int:
    """Prints the table as it grows and the outcome in its last line; 0 when every figure meets its limits, else 1.

    Raises ResultError for a scale that is none."""
    if not 0 < arguments.scale <= 1000:
        raise ResultError(f"--scale {arguments.scale:g}: a share of the replications, such as 0.1")
    started_s = time.monotonic()
    seed = time.time_ns() // 1_000_000 if arguments.seed is None else abs(arguments.seed)
    n = max(AT_A_TIME, round(REPLICATIONS * arguments.scale))
    scale = n / REPLICATIONS
    print(f"{f'seed {seed}, {n} replications':<38}    rate   95 % interval  limit, %")
    claim, failed, limited = "", [], 0
    with ProcessPoolExecutor(os.cpu_count(), initializer=end_with_parent) as executor:
        for figures in executor.map(_figures, range(len(CLAIMS)), [seed] * len(CLAIMS), [n] * len(CLAIMS)):
            for figure in figures:
                print(f"{figure.claim}\n" * (figure.claim != claim) + _row(figure, scale), flush=True)
                claim = figure.claim
                limited += (figure.least, figure.most) != (0.0, 1.0)
                if not figure.judge(scale)[0]:
                    failed.append(f"{claim}, {figure.name}")
    outcome = f"FAIL: {'; '.join(failed)}" if failed else f"pass: {limited} figures meet their limits"
    print(f"{outcome} (seed {seed}, {time.monotonic() - started_s:.0f} s)")
    return 1 if failed else 0


def _figures(number: int, seed: int, n: int) -> list[Figure]:
    return CLAIMS[number](np.random.default_rng([seed, number]), n)


def _row(figure: Figure, scale: float) -> str:
    passes, (low, high), (least, most) = figure.judge(scale)
    ends = [f"{100 * end:.3g}" for end in (least, most) if 0 < end < 1]
    limit = "-".join(ends) if len(ends) == 2 else f"{'>=' if least > 0 else '<='} {ends[0]}" if ends else ""
    return (f"  {figure.name:<36}{np.mean(figure.values):>8.2%}{low:>8.2%} {high:>7.2%}  {limit}"
            f"{'' if passes else ' FAIL'}").rstrip()
