"""Claims on tails from day to day: changes of a P99 that `history --quantile 99` invents or misses,
and verdicts on P99s beside a kept baseline. Steps are log-normal, and a share of them takes five
times as long; the share may differ between days."""

from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import betainc

from reports.trends.changes import LevelChange, judge
from reports.trends.steady_percentiles import steady_us
from reports.trends.step_test import LATE_RUNS
from reports.trends.tail_changes import confirmed
from reports.verdicts import days, verdict
from reports.verdicts.judge import MOST_RESOLVABLE_TAIL
from reports.verdicts.verdict import DEFAULT_MARGIN as MARGIN
from reports.verdicts.verdict import Floats
from tests.calibration.calibrated_gates import comparison_of, status_of
from tests.calibration.synthetic import Figure, Rng, Simulation, ar1
from wiretax.record.observations import OBSERVED

STEP_SPREAD, SLOW_RATIO, QUIET = 0.03, 5.0, 0.001
DAY_SPREAD, CASE_SPREAD = 0.015, 0.01  # of all cases and of each, with the rho of days
RUNS, STEP, N_STEPS = 60, 30, 1000
MONTH = range(RUNS - 29, RUNS + 1)
CELLS, LAUNCHES, LAUNCH_STEPS = 12, 8, 800


def sorted_steps(rng: Rng, shares: Floats, n: int) -> Floats:
    """The steps of runs with these shares of slow ones, (..., n), ascending."""
    logs = STEP_SPREAD * rng.standard_normal((*shares.shape, n), dtype=np.float32)
    logs += np.log(SLOW_RATIO) * (rng.random(logs.shape, dtype=np.float32) < shares[..., None])
    return np.asarray(np.exp(np.sort(logs, axis=-1)))


def p99s_of_runs(rng: Rng, shares: Floats) -> Floats:
    """The logs of the steady P99s of runs with these shares of slow steps, (series, runs)."""
    steps = sorted_steps(rng, shares, N_STEPS).reshape(-1, N_STEPS)
    observed: Any = np.zeros(len(steps), OBSERVED)
    observed["n_steps"], observed["step_worst_us"] = N_STEPS, steps[:, -1]
    for name, place in (
        ("step_p50_us", 499),
        ("step_p90_us", 899),
        (
            "step_p99_us",
            989,
        ),
    ):
        observed[name] = steps[:, place]
    observed["step_p999_us"] = np.nan
    observed["slow_share"] = np.mean(steps > 2 * observed["step_p50_us"][:, None], axis=1)
    return np.asarray(np.log(steady_us(observed, "step_p99_us"))).reshape(shares.shape)


def differing(rng: Rng, shape: Any, vary: float) -> Floats:
    """Factors of days on the share of slow steps, log-normal."""
    return np.asarray(np.exp(vary * rng.standard_normal(shape)))


def noise_of_days(rng: Rng, series: int, rho: float) -> Floats:
    days_of = ar1(rng.standard_normal((series + 1, RUNS)), rho)
    return np.asarray(DAY_SPREAD * days_of[-1] + CASE_SPREAD * days_of[:-1])


def steps_in(logs: Floats) -> list[list[LevelChange]]:
    return confirmed(judge(logs, len(logs)), logs, len(logs)).steps


def months(
    share: float,
    vary: float,
    rho: float,
    series: int,
    rng: Rng,
    n: int,
    most: float = 0.05,
    follow: float = 0.0,
) -> list[Figure]:
    """Months in which nothing changes: whether the P99s have an alarm after any of 30 runs, and
    whether they or the medians have one. The shares of nights in a row have a correlation of
    `follow`."""
    tails, either = list[bool](), list[bool]()
    for _ in range(max(n // 20, 2)):
        medians = noise_of_days(rng, series, rho)
        factors = np.exp(vary * ar1(rng.standard_normal(RUNS), follow))
        shares = share * np.broadcast_to(factors, medians.shape)
        logs = medians + p99s_of_runs(rng, shares)
        tails.append(any(any(steps_in(logs[:, :runs])) for runs in MONTH))
        either.append(
            tails[-1]
            or any(
                not step.doubt
                for runs in MONTH
                for own in judge(medians[:, :runs], series).steps
                for step in own
            )
        )
    name = f"{share:.1%} slow, x{np.exp(vary):.1f}, rho {rho:g}, {series} series"
    name += f", share's rho {follow:g}" if follow else ""
    return [
        Figure(f"{name}: an alarm", tails, most=most),
        Figure(f"{name}: of either", either, most=most),
    ]


def found(share: float, series: int, rng: Rng, n: int) -> list[Figure]:
    """From a run on, this share of the steps of one series is slow: whether it is told by the
    eighth and by the fifteenth run, and whether the interval of its size has the truth."""
    quiet, slow = (p99s_of_runs(rng, np.full((1, 400), each))[0] for each in (QUIET, share))
    truth = np.median(slow[:, None] - quiet)
    told: dict[int, list[bool]] = {LATE_RUNS: [], 15: []}
    inside = list[bool]()
    for _ in range(max(n // 40, 2)):
        shares = np.full((series, RUNS), QUIET)
        shares[0, STEP:] = share
        logs = noise_of_days(rng, series, 0.3) + p99s_of_runs(rng, shares)
        for age, own in told.items():
            steps = [step for step in steps_in(logs[:, : STEP + age])[0] if step.word == "worse"]
            own.append(bool(steps))
        for step in steps:
            inside.append(bool(step.log_ratio[1] <= truth <= step.log_ratio[2]))
    name = f"{share:.1%} slow, {series} series"
    figures = [Figure(f"{name}: by run {age}", own) for age, own in told.items()]
    return [*figures, Figure(f"{name}: interval", inside)]


def kept(share: float, vary: float, n_days: int, times: float, rng: Rng, n: int) -> list[Figure]:
    """Launches of a day beside those of the last of `n_days` in a store, with so many times the
    share of slow steps: the exit status by their P99s, and the intervals."""
    statuses, covered = list[int](), list[float]()
    reached, n_steps = np.arange(LAUNCH_STEPS + 1) / LAUNCH_STEPS, LAUNCH_STEPS + 1
    weights = np.diff(betainc(0.99 * n_steps, 0.01 * n_steps, reached))  # `launch_quantile_us`
    for _ in range(max(n // 40, 2)):
        shares = share * differing(rng, n_days + 1, vary)
        shares[-1] *= times
        shape = CELLS, n_days + 1, LAUNCHES
        steps = sorted_steps(rng, np.broadcast_to(shares[None, :, None], shape), LAUNCH_STEPS)
        levels = DAY_SPREAD * rng.standard_normal(n_days + 1)
        levels = levels + CASE_SPREAD * rng.standard_normal((CELLS, n_days + 1))
        logs = np.log(steps @ weights) + levels[..., None]
        logs += CASE_SPREAD * rng.standard_normal(shape)
        key, day, _ = np.indices((CELLS, n_days, LAUNCHES))
        columns = {"key": key, "day": day, "log_cost": logs[:, :-1]}
        table = pd.DataFrame({name: values.ravel() for name, values in columns.items()})
        between = days.spread_of(table, is_tail=True)
        assert between
        evidence = between.evidence(logs[:, -1] - logs[:, -2], MARGIN)
        cells = verdict.decide(evidence, MARGIN, days.FAMILY_P)
        covered.append(float(np.mean((cells.log_low <= 0) & (cells.log_high >= 0))))
        statuses.append(status_of(comparison_of(cells), MARGIN, MOST_RESOLVABLE_TAIL))
    name = f"{share:.1%} slow, x{np.exp(vary):.1f}, {n_days} days"
    if times > 1:
        return [Figure(f"{name}, {times:g} times: status 1", np.array(statuses) == 1)]
    return [
        Figure(f"{name}: status 1", np.array(statuses) == 1, most=0.05),
        Figure(f"{name}: pass", np.array(statuses) == 0),
        Figure(f"{name}: intervals", covered, 0.90),
    ]


CLAIMS: dict[str, list[Simulation]] = {
    "P99s over nights, where nothing changes": [
        partial(months, share, vary, 0.3, series)
        for share, vary in (
            (0.0, 0.0),
            (0.006, 0.0),
            (0.01, 0.0),
            (0.006, 0.5),
            (0.02, 0.5),
        )
        for series in (6, 24)
    ],
    "The same, rho 0.4; 0.7": [
        partial(months, 0.006, 0.5, rho, 24, most=most) for rho, most in ((0.4, 0.05), (0.7, 1.0))
    ],
    "The same, the share of slow steps follows that of the night before": [
        partial(months, 0.008, 0.5, 0.3, series, most=0.15, follow=0.4) for series in (6, 24)
    ],
    "P99s over nights, of which one grows": [
        partial(found, share, 24) for share in (0.01, 0.012, 0.015, 0.03)
    ],
    "P99s beside a kept baseline, where nothing changes": [
        partial(kept, share, vary, days.MIN_TAIL_DAYS, 1.0)
        for share, vary in (
            (0.0005, 0.0),
            (0.002, 0.5),
            (0.003, 0.5),
            (0.006, 0.5),
            (0.03, 0.5),
        )
    ],
    "P99s beside a kept baseline, more slow steps": [
        partial(kept, share, vary, days.MIN_TAIL_DAYS, 5.0)
        for share, vary in (
            (0.003, 0.0),
            (0.003, 0.5),
            (0.006, 0.5),
        )
    ],
}
