"""The calibration: a new seed passes, broken statistics fail, and synthetic launches resemble real
runs."""

import re
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pandas as pd
import pytest

from reports.tables import form_costs
from reports.trends import changes, noise, step_test
from reports.verdicts import verdict
from tests.calibration import selfcheck
from tests.calibration.calibrated_layers import LAYER, equal_forms
from tests.calibration.calibrated_steps import STEPS, alarms_in_time
from tests.calibration.calibrated_tails import NOISES, coverage
from tests.calibration.calibrated_trends import NORMAL, RUNS, alarms
from tests.calibration.selfcheck import (
    false_alarms,
    false_sameness,
    launch_coverage,
    stopped_coverage,
)
from tests.calibration.synthetic import Scenario
from tests.launch import FULL, ROOT, few
from wiretax.record import effective_steps, stats, summarise, tails

WIDE, CORRELATED = Scenario("spread 3 %", spread=0.03), Scenario("rho 0.6", rho=0.6)


def test_a_new_seed_passes_at_reduced_scale(monkeypatch, capsys):
    claims = {title: few(simulations, 1) for title, simulations in few(selfcheck.CLAIMS.items(), 3)}
    monkeypatch.setattr(selfcheck, "CLAIMS", claims)
    status = selfcheck.main(["--scale", "0.025" if FULL else "0.01"])
    printed = capsys.readouterr()
    *rows, outcome = printed.out.splitlines()
    assert (status, printed.err) == (0, ""), printed.out
    assert re.fullmatch(r"pass: \d+ figures meet their limits \(seed \d+, \d+ s\)", outcome)
    assert max(map(len, rows)) <= 80


def test_a_stored_rate_names_the_command_that_makes_it():
    """README quoted rates of claims that the calibration no longer had."""
    rates = pd.read_csv(ROOT / "docs/experiments/data/calibration_rates.csv", comment="#")
    assert {*rates[rates.made_by == "today"].group} <= selfcheck.CLAIMS.keys()
    others = {*rates.made_by} - {"today"}
    page = (ROOT / "docs/experiments/calibration.md").read_text()
    assert all(re.fullmatch(r"[0-9a-f]{8}", commit) and commit in page for commit in others)


def no_correction_for_many_cells(monkeypatch):
    monkeypatch.setattr(verdict, "holm", lambda p, alpha: p <= alpha)


def blocks_taken_for_independent(monkeypatch):
    monkeypatch.setattr(stats, "autocorrelation", lambda series: 0.0)


def runs_taken_for_independent(monkeypatch):
    noise_of = noise.noise_of

    def independent(values, *_):
        return noise_of(values)._replace(rho=np.zeros((len(values), 1)))

    for module in (changes, step_test):
        monkeypatch.setattr(module, "noise_of", independent)


def rounds_taken_for_independent(monkeypatch):
    for module in (summarise, form_costs):
        monkeypatch.setattr(module, "autocorrelation", lambda series: 0.0)


def any_narrow_interval_is_the_same(monkeypatch):
    monkeypatch.setattr(verdict, "SAME_P", 0.2)


def alarms_a_run_too_late(monkeypatch):
    monkeypatch.setattr(changes, "SHARED_EDGE", 4)


def students_quantile_left_out(monkeypatch):
    monkeypatch.setattr(effective_steps, "student_quantile", lambda freedom, sigmas: sigmas)


def steps_taken_for_independent(monkeypatch):
    monkeypatch.setattr(
        tails, "effective", lambda steps, below, *_: np.full(below.shape[1], float(steps.n))
    )


def noise_of_steps(name):
    (noise,) = [noise for noise in NOISES if noise.name == name]
    return partial(coverage, noise)


# With just enough replications to fail: fewer widen the limits.
BROKEN = [
    (blocks_taken_for_independent, partial(launch_coverage, CORRELATED, 84), 100),
    (rounds_taken_for_independent, partial(equal_forms, LAYER, 0.7, 12), 200),
    (runs_taken_for_independent, partial(alarms, NORMAL[2], [RUNS]), 120),
    (no_correction_for_many_cells, partial(false_alarms, WIDE), 200),
    (blocks_taken_for_independent, partial(stopped_coverage, 0.6, 0.88), 400),
    (any_narrow_interval_is_the_same, partial(false_sameness, 0.01), 400),
    (alarms_a_run_too_late, partial(alarms_in_time, NORMAL[0], STEPS[:1]), 400),
    (steps_taken_for_independent, noise_of_steps("1.5 % slow, 10 in a row"), 200),
    (students_quantile_left_out, noise_of_steps("5 launches, 4 x 200 each"), 1500),
]


@pytest.mark.parametrize(("breaks", "claim", "n"), few(BROKEN, 3))
def test_a_broken_statistic_is_caught_and_the_command_exits_with_1(
    breaks, claim, n, monkeypatch, capsys
):
    # Threads, so that the patch applies to the workers.
    monkeypatch.setattr(selfcheck, "ProcessPoolExecutor", ThreadPoolExecutor)
    monkeypatch.setattr(selfcheck, "CLAIMS", {"a claim": [claim]})
    scale = n / selfcheck.REPLICATIONS
    assert selfcheck.selfcheck(1, scale) == 0, capsys.readouterr().out
    breaks(monkeypatch)
    assert selfcheck.selfcheck(1, scale) == 1
    *rows, outcome = capsys.readouterr().out.splitlines()
    assert any(row.endswith(" FAIL") for row in rows)
    assert outcome.startswith("FAIL: a claim, ")
