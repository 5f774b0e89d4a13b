"""`selfcheck`: measures every rate that the verdicts promise, and compares it with its limit.

Synthetic launches go through the statistics that judge real launches. The claims on verdicts and
intervals are here, the claims on fits and histories in `calibrated_fit` and `calibrated_history`.
"""

import argparse
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import chain, count, islice

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reports.calibration import calibrated_fit, calibrated_history, synthetic
from reports.calibration.rate import Figure, Simulation
from reports.calibration.synthetic import ROUNDS, Scenario, blocks, campaigns, log_ratios
from reports.store import stats
from reports.store.result import ResultError
from reports.store.workers import end_with_parent
from reports.verdicts import verdict
from reports.verdicts.verdict import AMBIGUOUS, FASTER, LOOKS, MARGIN, SAME, SLOWER

Values = NDArray[np.float64]

REPLICATIONS = 4000
CELLS = 84
FIRST, FRESH, GROWN = 10, 25, 40  # pairs
EFFECT = 0.03
MOST_ROUNDS = 60
JUDGED_CASES = 12  # of a run
BATCH = 100  # tables that are simulated at once
DESIGNS = TWO_STAGES, GROWING = "two stages", "growing to 40 pairs"

PLAIN = Scenario("spread 1.5 %")
DRIFT = Scenario("rho 0.9 and drift", rho=0.9, drift=0.004)
FLIPPING = Scenario("two states at 3x", rho=0.6, states=2)
OUTLIERS = Scenario("outliers", outliers=True)
NULLS = [Scenario("spread 0.5 %", spread=0.005), PLAIN, Scenario("spread 3 %", spread=0.03), DRIFT,
         FLIPPING, OUTLIERS, Scenario("cases hang together", shared=0.7),
         Scenario("recorded launches", recorded=True)]


def tables(design: str, scenario: Scenario, rng: np.random.Generator, n: int,
           effect: float = 0.0) -> tuple[NDArray[np.str_], Values]:
    """The verdicts of `n` tables, (n, cells), and the effect that the first cell could detect. The
    variant's first cell is slower by `effect`."""
    launches = synthetic.launches_of(scenario, rng)
    pairs = GROWN if design == GROWING else FIRST + FRESH
    judgements: list[pd.DataFrame] = []
    while len(judgements) < n:
        size = min(BATCH, n - len(judgements))
        medians = campaigns(scenario, launches, rng, size, CELLS, pairs)
        medians[1, :, 0] += np.log1p(effect)
        if design == GROWING:
            looks = [round(share * GROWN) for share in LOOKS]
            judgements += [verdict.growing(ratios, looks) for ratios in log_ratios(medians)]
        else:
            judgements += map(verdict.two_stages, log_ratios(medians[:, :, :, :FIRST]),
                              log_ratios(medians[:, :, :, FIRST:]))
    return (np.array([judgement.verdict for judgement in judgements]),
            np.array([judgement.detectable[0] for judgement in judgements]))


def false_alarms(design: str, scenario: Scenario, rng: np.random.Generator, n: int) -> list[Figure]:
    """The shares of tables and of cells with FASTER or SLOWER if nothing differs."""
    verdicts, _ = tables(design, scenario, rng, n)
    called = np.isin(verdicts, (SLOWER, FASTER))
    return [Figure(f"{scenario.name}: tables", np.any(called, axis=1), most=0.05),
            Figure(f"{scenario.name}: cells", np.mean(called, axis=1), most=0.005)]


def power(design: str, spread: float, least: float, rng: np.random.Generator,
          n: int) -> list[Figure]:
    """The verdicts on one cell that is 3 % slower. At least the share `least` is SLOWER; otherwise
    the table must say that it cannot detect 3 %."""
    scenario = Scenario("", spread=spread)
    verdicts, detectable = tables(design, scenario, rng, n, EFFECT)
    first = verdicts[:, 0]
    is_slower, is_same = first == SLOWER, first == SAME
    is_open = (first == AMBIGUOUS) & (detectable >= EFFECT)
    name = f"spread {spread * 100:g} %"
    return [Figure(f"{name}: SLOWER", is_slower, least),
            Figure(f"{name}: SLOWER, or MDE >= 3 %", is_slower | is_open, 0.90),
            Figure(f"{name}: SAME", is_same, most=0.05)]


def sameness(rng: np.random.Generator, n: int) -> list[Figure]:
    """The share of cells with SAME if nothing differs."""
    verdicts, _ = tables(GROWING, Scenario("", spread=0.01), rng, n)
    same = np.mean(verdicts == SAME, axis=1)
    return [Figure("spread 1 %: SAME", same, 0.90)]


def campaign_coverage(scenario: Scenario, pairs: int, rng: np.random.Generator,
                      n: int) -> list[Figure]:
    """How often the interval of a campaign's cell covers the truth."""
    launches = synthetic.launches_of(scenario, rng)
    medians = campaigns(scenario, launches, rng, 10 * n, 1, pairs)
    evidence = verdict.evidence(log_ratios(medians)[:, 0])
    covered = ((evidence.low <= 0) & (evidence.high >= 0)).to_numpy()
    return [Figure(f"{scenario.name}, {pairs} pairs",
                   covered[evidence.pairs >= verdict.MIN_PAIRS], 0.93, 0.97)]


def launch_coverage(scenario: Scenario, cases: int, stops: bool, rng: np.random.Generator,
                    n: int) -> list[Figure]:
    """How often the interval of a launch's case covers the launch's own median.

    With `stops` a case ends as soon as it is precise, as in a run without `-n`. Launches of few
    cases have no limits and a quarter of the replications."""
    shares = list[float]()
    for _ in range(n if cases == CELLS else n // 4):
        rounds = MOST_ROUNDS if stops else ROUNDS
        logs = scenario.spread * blocks(rng, (cases, rounds), scenario.rho).astype(float)
        link = synthetic.link_sequences(rng, 1, rounds, scenario.states)[0]
        costs = np.exp(logs)[:, link == np.argmax(np.bincount(link))]
        runs = [case[: _precise_after(case)] for case in costs] if stops else list(costs)
        covered = [_covers(low, high) for _, low, high in _intervals(runs)]
        shares.append(float(np.mean(covered)))
    limits = (0.93, 0.97) if cases == CELLS else (0.0, 1.0)
    return [Figure(f"{scenario.name}, {cases} case{'s' * (cases > 1)}", shares, *limits)]


def _intervals(runs: Sequence[Values]) -> list[stats.Interval]:
    rho = stats.autocorrelation(runs)
    return [stats.median_interval(case, rho=rho) for case in runs[:JUDGED_CASES]]


def _covers(low: float | None, high: float | None) -> bool:
    return (low or 0) <= 1 <= (high or np.inf)


def _precise_after(costs: Values) -> int:
    return next((n for n in range(ROUNDS, len(costs)) if stats.is_precise(costs[:n])), len(costs))


def one_launch_alarms(spread: float, rng: np.random.Generator, n: int) -> list[Figure]:
    """The share of cells that look different between two launches of the same thing, by intervals
    over the blocks of one launch each."""
    shares = list[float]()
    shape = (n, 2, JUDGED_CASES, ROUNDS)
    within = spread * blocks(rng, shape, PLAIN.rho).astype(float)
    own = synthetic.between_launches(within, spread) * rng.standard_normal((*shape[:3], 1))
    for baseline, variant in np.exp(within + own):
        rho = stats.autocorrelation(list(variant / baseline))
        called = []
        for costs in zip(variant, baseline, strict=True):
            ratio, low, high = stats.median_interval(np.divide(*costs), rho=rho)
            called.append(abs(np.log(ratio)) > np.log1p(MARGIN) and not _covers(low, high))
        shares.append(float(np.mean(called)))
    return [Figure(f"spread {spread * 100:g} %: cells called", shares)]


RHOS = (0.0, 0.3, 0.6, 0.9)
EFFECT_SPREADS = ((0.015, 0.90), (0.02, 0.80), (0.025, 0.0), (0.03, 0.0))
CLAIMS: dict[str, list[Simulation]] = {
    **{f"A/A, {design}: FASTER or SLOWER": [
        partial(false_alarms, design, scenario) for scenario in NULLS] for design in DESIGNS},
    **{f"+3 % in one of 84 cells, {design}": [
        partial(power, design, *case) for case in EFFECT_SPREADS] for design in DESIGNS},
    f"Nothing differs, {GROWING}": [sameness],
    "95 % interval of a campaign": [
        partial(campaign_coverage, scenario, pairs)
        for scenario in (PLAIN, DRIFT, FLIPPING, OUTLIERS) for pairs in (FIRST, FRESH, GROWN)],
    "95 % interval of a launch": [
        *(partial(launch_coverage, Scenario(f"rho {rho}", rho=rho), cases, False)
          for cases in (CELLS, 24, 1) for rho in RHOS),
        partial(launch_coverage, FLIPPING, CELLS, False),
        *(partial(launch_coverage, Scenario(f"rho {rho}, until precise", 0.02, rho), 24, True)
          for rho in RHOS)],
    "One launch against one, by the intervals within them": [
        partial(one_launch_alarms, spread) for spread in (0.005, 0.015, 0.03)],
    **calibrated_fit.CLAIMS,
    **calibrated_history.CLAIMS,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, help="of the random numbers (default: from the clock)")
    parser.add_argument("--scale", type=float, default=1.0, metavar="X",
                        help=f"a share of the {REPLICATIONS} replications; "
                             "fewer widen the limits (default: 1)")


def selfcheck(arguments: argparse.Namespace) -> int:
    """Prints the table as it grows, and the outcome in its last line. Returns 0 if every figure
    meets its limits, otherwise 1. Raises ResultError for a scale out of range."""
    if not 0 < arguments.scale <= 1000:
        raise ResultError(f"--scale {arguments.scale:g}: a share of the replications, such as 0.1")
    started_s = time.monotonic()
    seed = time.time_ns() // 1_000_000 if arguments.seed is None else abs(arguments.seed)
    n = max(BATCH, round(REPLICATIONS * arguments.scale))
    scale = n / REPLICATIONS
    print(f"{f'seed {seed}, {n} replications':<38}    rate   95 % interval  limit, %")
    failed, n_limited = list[str](), 0
    simulations = list(chain.from_iterable(CLAIMS.values()))
    with ProcessPoolExecutor(os.cpu_count(), initializer=end_with_parent) as executor:
        figures = executor.map(partial(_figures, seed=seed, n=n), count(), simulations)
        for title, of_claim in CLAIMS.items():
            print(title)
            for figure in chain.from_iterable(islice(figures, len(of_claim))):
                print(_row(figure, scale), flush=True)
                n_limited += (figure.least, figure.most) != (0.0, 1.0)
                if not figure.judge(scale)[0]:
                    failed.append(f"{title}, {figure.name}")
    outcome = (f"FAIL: {'; '.join(failed)}" if failed
               else f"pass: {n_limited} figures meet their limits")
    print(f"{outcome} (seed {seed}, {time.monotonic() - started_s:.0f} s)")
    return 1 if failed else 0


def _figures(number: int, simulation: Simulation, seed: int, n: int) -> list[Figure]:
    return simulation(np.random.default_rng([seed, number]), n)


def _row(figure: Figure, scale: float) -> str:
    passes, (low, high), (least, most) = figure.judge(scale)
    limit = ""
    if least > 0 and most < 1:
        limit = f"{100 * least:.3g}-{100 * most:.3g}"
    elif least > 0:
        limit = f">= {100 * least:.3g}"
    elif most < 1:
        limit = f"<= {100 * most:.3g}"
    return (f"  {figure.name:<36}{np.mean(figure.values):>8.2%}{low:>8.2%} {high:>7.2%}  {limit}"
            f"{'' if passes else ' FAIL'}").rstrip()
