"""`make calibrate`, or `python -m tests.calibration.selfcheck`: compares every rate that the
verdicts promise with its limit (docs/calibration.md). Synthetic launches go through statistics that
judge real launches; `calibrated_layers` checks runs of compute with communication,
`calibrated_links` chains without their links, `calibrated_breakdowns` bills of steps from traces,
`calibrated_gates` `regress`, `calibrated_states` its states of the link, `calibrated_tail_gates`
its tails, `calibrated_events` the same on a disturbed machine, `calibrated_trends` histories,
`calibrated_tail_days` percentiles from day to day, `calibrated_steps` how soon they raise an alarm,
`calibrated_fleets` fleets, `calibrated_fits` `fit`, `calibrated_tails` the intervals of
percentiles."""

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import chain, count

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.harness.run import LEAST_ROUNDS
from reports.verdicts import verdict
from tests.calibration import (
    calibrated_breakdowns,
    calibrated_events,
    calibrated_fits,
    calibrated_fleets,
    calibrated_gates,
    calibrated_layers,
    calibrated_links,
    calibrated_states,
    calibrated_steps,
    calibrated_tail_days,
    calibrated_tail_gates,
    calibrated_tails,
    calibrated_trends,
    synthetic,
)
from tests.calibration.synthetic import ROUNDS, Figure, Rng, Scenario, Simulation, blocks
from wiretax.record import stats
from wiretax.record.result import end_with_parent

REPLICATIONS, BATCH = 4000, 100  # of tables, and how many of them are simulated at once
CELLS, JUDGED_CASES = 84, 12  # of a campaign, and of a launch
STOPPED_CASES, MOST_ROUNDS = 24, 48  # of a run that stops when it is precise
PAIRS = 27  # of a campaign
EFFECT = 0.03
PLAIN = Scenario("spread 1.5 %")
DRIFT = Scenario("rho 0.9 and drift", rho=0.9, drift=0.004)
FLIPPING = Scenario("two states at 3x", rho=0.6, states=2)
OUTLIERS = Scenario("outliers", outliers=True)
NULLS = [
    Scenario("spread 0.5 %", spread=0.005),
    PLAIN,
    Scenario("spread 3 %", spread=0.03),
    DRIFT,
    FLIPPING,
    OUTLIERS,
    Scenario("cases hang together", shared=0.7),
    Scenario("recorded launches", recorded=True),
]


def tables(
    scenario: Scenario, rng: Rng, n: int, effect: float = 0.0
) -> tuple[NDArray[np.str_], verdict.Floats]:
    """The verdicts of `n` tables, (n, cells), and the effect that the first cell could detect."""
    launches = synthetic.launches_of(scenario, rng)
    judgements: list[pd.DataFrame] = []
    while len(judgements) < n:
        size = min(BATCH, n - len(judgements))
        medians = synthetic.campaigns(scenario, launches, rng, size, CELLS, PAIRS)
        medians[1, :, 0] += np.log1p(effect)
        judgements += map(verdict.once, synthetic.log_ratios(medians))
    return (
        np.array([judgement.verdict for judgement in judgements]),
        np.array([judgement.detectable[0] for judgement in judgements]),
    )


def false_alarms(scenario: Scenario, rng: Rng, n: int) -> list[Figure]:
    """The share of tables with FASTER or SLOWER if nothing differs."""
    verdicts, _ = tables(scenario, rng, n)
    called = np.isin(verdicts, (verdict.SLOWER, verdict.FASTER))
    return [Figure(scenario.name, np.any(called, axis=1), most=0.05)]


def power(spread: float, least: float, rng: Rng, n: int) -> list[Figure]:
    """The verdicts on a cell that is 3 % slower: SLOWER, or 3 % are said to be undetectable."""
    verdicts, detectable = tables(Scenario("", spread=spread), rng, n, EFFECT)
    first, is_slower = verdicts[:, 0], verdicts[:, 0] == verdict.SLOWER
    is_open = (first == verdict.AMBIGUOUS) & (detectable >= EFFECT)
    name = f"spread {spread * 100:g} %"
    return [
        Figure(f"{name}: SLOWER", is_slower, least),
        Figure(f"{name}: SLOWER, or MDE >= 3 %", is_slower | is_open, 0.90),
    ]


def sameness(rng: Rng, n: int) -> list[Figure]:
    """The share of cells with SAME if nothing differs."""
    verdicts, _ = tables(Scenario("", spread=0.01), rng, n)
    return [Figure("spread 1 %: SAME", np.mean(verdicts == verdict.SAME, axis=1), 0.90)]


def false_sameness(spread: float, rng: Rng, n: int) -> list[Figure]:
    """The share of tables with SAME for a cell that is slower by the margin."""
    verdicts, _ = tables(Scenario("", spread=spread), rng, n, verdict.DEFAULT_MARGIN)
    name = f"spread {spread * 100:g} %: SAME"
    return [Figure(name, verdicts[:, 0] == verdict.SAME, most=0.065)]


def campaign_coverage(scenario: Scenario, pairs: int, rng: Rng, n: int) -> list[Figure]:
    """How often the interval of a campaign's cell covers the truth."""
    launches = synthetic.launches_of(scenario, rng)
    medians = synthetic.campaigns(scenario, launches, rng, 10 * n, 1, pairs)
    evidence = verdict.evidence(synthetic.log_ratios(medians)[:, 0])
    covered = (evidence.log_low <= 0) & (evidence.log_high >= 0)
    return [
        Figure(
            f"{scenario.name}, {pairs} pairs",
            covered[evidence.pairs >= verdict.MIN_PAIRS].to_numpy(),
            0.93,
            0.97,
        )
    ]


def launch_coverage(scenario: Scenario, cases: int, rng: Rng, n: int) -> list[Figure]:
    """How often the interval of a launch's case covers the launch's own median. Launches of few
    cases have no limits and fewer replications."""
    shares = list[float]()
    for _ in range(n if cases == CELLS else n // 4):
        logs = scenario.spread * blocks(rng, (cases, ROUNDS), scenario.rho).astype(float)
        link = synthetic.link_sequences(rng, 1, ROUNDS, scenario.states)[0]
        runs = list(np.exp(logs)[:, link == np.argmax(np.bincount(link))])
        rho = stats.autocorrelation(runs)
        intervals = [stats.median_interval(case, rho=rho) for case in runs[:JUDGED_CASES]]
        covered = [(low or 0) <= 1 <= (high or np.inf) for _, low, high in intervals]
        shares.append(float(np.mean(covered)))
    limits = (0.93, 0.97) if cases == CELLS else (0.0, 1.0)
    return [
        Figure(f"{scenario.name}, {cases} {'case' if cases == 1 else 'cases'}", shares, *limits)
    ]


def one_launch_alarms(spread: float, rng: Rng, n: int) -> list[Figure]:
    """The share of equal cells that differ between two launches, judged by the intervals within
    them: why a verdict takes a campaign. It has no limit."""
    shares, shape = list[float](), (n, 2, JUDGED_CASES, ROUNDS)
    within = spread * blocks(rng, shape, PLAIN.rho).astype(float)
    own = synthetic.between_launches(within, spread) * rng.standard_normal((*shape[:3], 1))
    for baseline, variant in np.exp(within + own):
        ratios = variant / baseline
        rho = stats.autocorrelation(list(ratios))
        judged = [stats.median_interval(case, rho=rho) for case in ratios]
        called = [
            abs(np.log(ratio)) > np.log1p(verdict.DEFAULT_MARGIN)
            and not (low or 0) <= 1 <= (high or np.inf)
            for ratio, low, high in judged
        ]
        shares.append(float(np.mean(called)))
    return [Figure(f"spread {spread * 100:g} %: cells called", shares)]


def stopped_coverage(rho: float, least: float, rng: Rng, n: int) -> list[Figure]:
    """The same for runs whose cases have rounds until they are precise, as without -n: a case stops
    where its interval happens to be narrow, and so it contains the truth less often. Runs a tenth
    of the replications."""
    shares = list[float]()
    for _ in range(n // 10):
        logs = PLAIN.spread * blocks(rng, (STOPPED_CASES, MOST_ROUNDS), rho).astype(float)
        times, rounds = np.exp(logs), np.full(STOPPED_CASES, LEAST_ROUNDS)
        while True:
            runs = [case[:count] for case, count in zip(times, rounds, strict=True)]
            rho_found = stats.autocorrelation(runs)
            is_open = np.array([not stats.is_precise(case, rho_found) for case in runs])
            is_open &= rounds < MOST_ROUNDS
            if not is_open.any():
                break
            rounds[is_open] += 1
        intervals = [stats.median_interval(case, rho=rho_found) for case in runs]
        covered = [(low or 0) <= 1 <= (high or np.inf) for _, low, high in intervals]
        shares.append(float(np.mean(covered)))
    return [Figure(f"rho {rho}, {STOPPED_CASES} cases", shares, least, 0.97)]


RHOS = (0.0, 0.3, 0.6, 0.9)
CLAIMS: dict[str, list[Simulation]] = {
    "A/A: FASTER or SLOWER": [partial(false_alarms, scenario) for scenario in NULLS],
    "+3 % in one of 84 cells": [
        partial(power, *case)
        for case in (
            (0.015, 0.97),
            (0.02, 0.80),
            (0.025, 0.0),
            (0.03, 0.0),
        )
    ],
    "Nothing differs": [sameness],
    "95 % interval of a campaign": [
        partial(campaign_coverage, scenario, pairs)
        for scenario in (PLAIN, DRIFT, FLIPPING, OUTLIERS)
        for pairs in (10, PAIRS)
    ],
    "95 % interval of a launch": [
        *(
            partial(launch_coverage, Scenario(f"rho {rho}", rho=rho), cases)
            for cases in (CELLS, 1)
            for rho in RHOS
        ),
        partial(launch_coverage, FLIPPING, CELLS),
    ],
    "The same, if it stops when it is precise": [
        partial(stopped_coverage, rho, least)
        for rho, least in zip(RHOS, (0.93, 0.91, 0.88, 0.90), strict=True)
    ],
    **calibrated_layers.CLAIMS,
    **calibrated_gates.CLAIMS,
    **calibrated_states.CLAIMS,
    **calibrated_trends.CLAIMS,
    **calibrated_fleets.CLAIMS,
    **calibrated_fits.CLAIMS,
    "One launch against one, by the intervals within them": [
        partial(one_launch_alarms, spread) for spread in (0.005, 0.015, 0.03)
    ],
    "A cell is slower by the margin, 1 %": [
        partial(false_sameness, spread) for spread in (0.005, 0.015)
    ],
    **calibrated_events.CLAIMS,
    **calibrated_steps.CLAIMS,
    **calibrated_links.CLAIMS,
    **calibrated_breakdowns.CLAIMS,
    **calibrated_tail_gates.CLAIMS,
    **calibrated_tail_days.CLAIMS,
    **calibrated_tails.CLAIMS,
}


def selfcheck(seed: int, scale: float) -> int:
    """Prints the table as it grows, then the outcome. Returns 0 if every figure meets its limits,
    otherwise 1. `scale` is a share of the replications."""
    started_s = time.monotonic()
    n = max(BATCH, round(REPLICATIONS * scale))
    print(f"{f'seed {seed}, {n} replications':<38}    rate   95 % interval  limit, %")
    failed, n_limited, numbers = list[str](), 0, count()
    with ProcessPoolExecutor(os.cpu_count(), initializer=end_with_parent) as executor:
        futures = {
            title: [
                executor.submit(simulation, np.random.default_rng([seed, next(numbers)]), n)
                for simulation in simulations
            ]
            for title, simulations in CLAIMS.items()
        }
        for title, of_claim in futures.items():
            print(title)
            for figure in chain.from_iterable(future.result() for future in of_claim):
                passes, (low, high), (least, most) = figure.judge(n / REPLICATIONS)
                is_limited = (figure.least, figure.most) != (0.0, 1.0)
                limits = f"{100 * least:.3g}-{100 * most:.3g}" if is_limited else ""
                print(
                    f"  {figure.name:<36}{np.mean(figure.values):>8.2%}{low:>8.2%} {high:>7.2%}"
                    f"  {limits}{'' if passes else ' FAIL'}".rstrip(),
                    flush=True,
                )
                n_limited += is_limited
                if not passes:
                    failed.append(f"{title}, {figure.name}")
    outcome = (
        f"FAIL: {'; '.join(failed)}" if failed else f"pass: {n_limited} figures meet their limits"
    )
    print(f"{outcome} (seed {seed}, {time.monotonic() - started_s:.0f} s)")
    return 1 if failed else 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Simulates the verdicts' error rates.")
    parser.add_argument("--seed", type=int, help="of the random numbers (default: from the clock)")
    parser.add_argument(
        "--scale",
        type=float,
        default=1.0,
        metavar="X",
        help=f"a share of the {REPLICATIONS} replications; fewer widen the limits (default: 1)",
    )
    arguments = parser.parse_args(argv)
    if not 0 < arguments.scale <= 1000:
        parser.error(f"--scale {arguments.scale:g}: a share of the replications, such as 0.1")
    seed = time.time_ns() // 1_000_000 if arguments.seed is None else abs(arguments.seed)
    return selfcheck(seed, arguments.scale)


if __name__ == "__main__":
    sys.exit(main())
