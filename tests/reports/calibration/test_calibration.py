"""The calibration: a new seed passes, broken statistics fail, and synthetic launches resemble real runs."""

from __future__ import annotations

import re
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from reports.__main__ import main
from reports.calibration import calibrated_trends, selfcheck, synthetic
from reports.calibration.calibrated_trends import (
    MONTH,
    NORMAL,
    SERIES_OUTLIERS,
    Launches,
    alarms,
    cache_ends,
    detect,
    one_line,
)
from reports.calibration.selfcheck import (
    FLIPPING,
    GROWING,
    TWO_STAGES,
    false_alarms,
    launch_coverage,
    power,
)
from reports.calibration.synthetic import (
    Figure,
    Scenario,
    blocks,
    campaigns,
    clopper_pearson,
    launch_medians,
    launches_of,
    link_sequences,
    log_ratios,
)
from reports.store import stats
from reports.store.case import find_states
from reports.trends import changes, lines
from reports.verdicts import verdict
from reports.verdicts.sides import Launch, find_ratios, key_of
from tests.launch import few
from tests.reports.calibration.record_launches import record
from tests.reports.synthetic_run import FAST_NS, SLOW_NS, write_run

WIDE = Scenario("spread 3 %", spread=0.03)
two_stages, evidence = verdict.two_stages, verdict.evidence


def test_a_new_seed_passes_at_reduced_scale(monkeypatch, capsys):
    claims = {title: few(simulations, 1) for title, simulations in selfcheck.CLAIMS.items()}
    monkeypatch.setattr(selfcheck, "CLAIMS", claims)
    status = main(["selfcheck", "--scale", "0.025"])
    printed = capsys.readouterr()
    *rows, outcome = printed.out.splitlines()
    assert (status, printed.err) == (0, ""), printed.out
    assert re.fullmatch(r"pass: \d+ figures meet their limits \(seed \d+, \d+ s\)", outcome)
    assert max(map(len, rows)) <= 80


def suspects_judged_on_their_own_data(monkeypatch):
    monkeypatch.setattr(verdict, "two_stages", lambda first, fresh: two_stages(first, first))


def no_correction_for_many_cells(monkeypatch):
    monkeypatch.setattr(verdict, "holm", lambda p, alpha: p <= alpha)


def blocks_taken_for_independent(monkeypatch):
    monkeypatch.setattr(stats, "autocorrelation", lambda series: 0.0)


def blocks_that_cannot_tell_their_correlation(monkeypatch):
    monkeypatch.setattr(
        stats,
        "autocorrelation",
        lambda series: max(0.0, np.corrcoef(series[0][1:], series[0][:-1])[0, 1]),
    )


def no_stage_but_the_first(monkeypatch):
    monkeypatch.setattr(verdict, "two_stages", lambda first, fresh: verdict.once(first))


def same_wherever_no_difference_was_found(monkeypatch):
    def with_wide_same(*arguments: Any, **options: Any) -> pd.DataFrame:
        judged = evidence(*arguments, **options)
        return judged.assign(is_same=(judged.low < 0) & (judged.high > 0))

    monkeypatch.setattr(verdict, "evidence", with_wide_same)


def no_word_of_what_could_hide(monkeypatch):
    monkeypatch.setattr(
        verdict,
        "left_open",
        lambda judged, *_: verdict.detectable(
            judged.standard_error / 2, judged.pairs, judged.alpha
        ),
    )


def any_break_that_looks_good(monkeypatch):
    monkeypatch.setattr(lines, "BREAK_P", 0.2)


def a_line_through_any_bend(monkeypatch):
    monkeypatch.setattr(lines, "BEND_P", 1e-9)


def few_launches_taken_for_many(monkeypatch):
    def normal(walsh: Any, launches: int, p: Any) -> tuple[Any, Any, Any]:
        own = walsh[..., np.cumsum([0, *range(launches, 1, -1)])]
        half = 1.96 * own.std(axis=-1, ddof=1) / np.sqrt(launches)
        return own.mean(axis=-1), own.mean(axis=-1) - half, own.mean(axis=-1) + half

    monkeypatch.setattr(calibrated_trends, "interval", normal)


def runs_taken_for_independent(monkeypatch):
    monkeypatch.setattr(changes, "correlations", lambda calm: np.zeros((len(calm), 1)))


def outliers_left_where_they_are(monkeypatch):
    monkeypatch.setattr(changes, "winsorise", lambda values, most: values)


def a_threshold_for_one_series_alone(monkeypatch):
    threshold = changes.threshold
    monkeypatch.setattr(changes, "threshold", lambda p, *more: threshold(84 * p, *more))


def thresholds_too_high_to_pass(monkeypatch):
    monkeypatch.setattr(changes, "LATEST_ALPHA", 1e-12)


BROKEN = [
    (runs_taken_for_independent, partial(alarms, NORMAL[2], MONTH, 0.05)),
    (outliers_left_where_they_are, partial(detect, SERIES_OUTLIERS, 84, 0.90, 8)),
    (a_threshold_for_one_series_alone, partial(alarms, NORMAL[0], MONTH, 0.05)),
    (thresholds_too_high_to_pass, partial(detect, NORMAL[2], 84, 0.80, 8)),
    (any_break_that_looks_good, partial(one_line, Launches(10, 0.1))),
    (a_line_through_any_bend, partial(cache_ends, Launches(10, 0.03))),
    (few_launches_taken_for_many, partial(one_line, Launches(5, 0.03))),
    (suspects_judged_on_their_own_data, partial(false_alarms, TWO_STAGES, WIDE)),
    (no_correction_for_many_cells, partial(false_alarms, TWO_STAGES, WIDE)),
    (no_correction_for_many_cells, partial(false_alarms, GROWING, WIDE)),
    (no_stage_but_the_first, partial(power, TWO_STAGES, 0.02, 0.80)),
    (same_wherever_no_difference_was_found, partial(power, TWO_STAGES, 0.03, 0.0)),
    (no_word_of_what_could_hide, partial(power, TWO_STAGES, 0.03, 0.0)),
    (blocks_taken_for_independent, partial(launch_coverage, Scenario("", rho=0.6), 84, False)),
    (
        blocks_that_cannot_tell_their_correlation,
        partial(launch_coverage, Scenario("", rho=0.6), 84, False),
    ),
]


# Just enough replications to fail; fewer replications widen the limits.
REPLICATIONS = {runs_taken_for_independent: 200, few_launches_taken_for_many: 1000}


CHECKED = few([*BROKEN[1::2], *BROKEN[::2]], 7)


@pytest.mark.parametrize(
    ("breaks", "claim"), CHECKED, ids=[breaks.__name__ for breaks, _ in CHECKED]
)
def test_a_broken_statistic_is_caught(breaks, claim, monkeypatch):
    breaks(monkeypatch)
    n = REPLICATIONS.get(breaks, 400)
    assert not all(
        figure.judge(n / selfcheck.REPLICATIONS)[0] for figure in claim(np.random.default_rng(1), n)
    )


def test_the_command_names_the_failed_figure_and_exits_with_1(monkeypatch, capsys):
    # Threads, so that the patch applies to the workers.
    monkeypatch.setattr(selfcheck, "ProcessPoolExecutor", ThreadPoolExecutor)
    coverage = partial(launch_coverage, Scenario("rho 0.6", rho=0.6), 84, False)
    monkeypatch.setattr(selfcheck, "CLAIMS", {"95 % interval of a launch": [coverage]})
    assert selfcheck.selfcheck(Namespace(seed=1, scale=0.025, json=False)) == 0
    assert (
        capsys.readouterr()
        .out.splitlines()[-1]
        .startswith("pass: 1 figures meet their limits (seed 1, ")
    )
    blocks_taken_for_independent(monkeypatch)
    assert selfcheck.selfcheck(Namespace(seed=1, scale=0.025, json=False)) == 1
    *_, row, outcome = capsys.readouterr().out.splitlines()
    assert row.endswith(" FAIL")
    assert outcome.startswith("FAIL: 95 % interval of a launch, rho 0.6, 84 cases (seed 1, ")


def test_a_seed_reproduces_its_table():
    values, again, other = (
        selfcheck.one_launch_alarms(0.015, np.random.default_rng([seed, 2]), 40)[0].values
        for seed in (5, 5, 6)
    )
    assert values == again
    assert values != other


def figure(hits: int, n: int, **limits: float) -> Figure:
    return Figure("", (np.arange(n) < hits).astype(float), **limits)


@pytest.mark.parametrize("limit", [0.05, 0.005, 0.10, 0.20, 0.07])
def test_a_figure_that_passes_in_full_hardly_ever_fails_over_fewer(limit):
    full, tenth = 4000, 400
    best = max(hits for hits in range(full) if clopper_pearson(hits / full, full)[1] <= limit)
    passing = [hits for hits in range(tenth) if figure(hits, tenth, most=limit).judge(0.1)[0]]
    assert binom.sf(max(passing), tenth, best / full) < 1.2e-5
    assert (
        binom.sf(max(passing) - 2, tenth, best / full) > 0.8e-5
    )  # and the limits are no wider than necessary
    assert figure(best, full, most=limit).judge()[0]
    assert not figure(best + 1, full, most=limit).judge()[0]
    assert figure(full - best, full, least=1 - limit).judge()[0]
    assert not figure(full - best - 1, full, least=1 - limit).judge()[0]


def test_the_weight_of_correlated_cells_is_the_number_of_tables():
    rng = np.random.default_rng(7)
    apart, together = (
        rng.random((2000, 84)) < 0.1,
        np.repeat(rng.random((2000, 1)) < 0.1, 84, axis=1),
    )
    assert Figure("", apart.mean(axis=1)).weight == pytest.approx(2000 * 84, rel=0.15)
    assert Figure("", together.mean(axis=1)).weight == pytest.approx(2000)
    assert Figure("", np.zeros(2000)).weight == 2000


@pytest.mark.parametrize(
    ("spread", "rho", "shared"), [(0.005, 0.0, 0.0), (0.03, 0.9, 0.0), (0.015, 0.3, 0.7)]
)
def test_launches_scatter_by_their_spread(spread, rho, shared):
    rng = np.random.default_rng(8)
    scenario = Scenario("", spread=spread, rho=rho, shared=shared)
    medians = campaigns(scenario, launches_of(scenario, rng), rng, 300, 84, 20)[..., 0]
    assert medians.std() == pytest.approx(spread, rel=0.03)
    # The variance of a launch's mean over its cells.
    assert np.mean(medians.mean(axis=2) ** 2) / spread**2 == pytest.approx(
        shared * 0.9 + 1 / 84, abs=0.1
    )
    series = blocks(rng, (2000, 40), rho)
    assert series.std() == pytest.approx(1, abs=0.02)
    assert np.mean(series[:, 1:] * series[:, :-1]) == pytest.approx(rho, abs=0.02)


def test_drift_affects_both_sides_equally_and_the_link_flips_in_stretches():
    rng = np.random.default_rng(9)
    still = np.zeros((1, 10, 1), np.float32), 0.0
    medians = campaigns(Scenario("", drift=0.01), still, rng, 50, 3, 10)
    ratios = log_ratios(medians)
    np.testing.assert_allclose(np.abs(ratios), 0.01, rtol=1e-5)
    np.testing.assert_allclose(ratios.sum(axis=-1), 0, atol=1e-6)
    assert (ratios[:, :, 0] > 0).any()
    assert (ratios[:, :, 0] < 0).any()
    links = link_sequences(rng, 1000, 12, 2)
    assert np.mean(links) == pytest.approx(0.5, abs=0.05)
    assert np.mean(links[:, 1:] != links[:, :-1]) == pytest.approx(0.15, abs=0.02)


@pytest.fixture(scope="module")
def launches(tmp_path_factory):
    """Twelve launches of four cases over two states as run files, with their log costs and states, (launches, cases,
    rounds).

    One block is mixed, and one launch has too few blocks in its second state.
    """
    rng = np.random.default_rng(10)
    links = link_sequences(rng, 12, 12, 2)
    links[:8] = 1  # so that most pairs share the second state, not the first
    links[3] = np.arange(12) >= 8
    states = np.repeat(links[:, None], 4, axis=1)
    states[5, 2, 4] = -1
    logs = 1 + 0.02 * blocks(rng, (12, 4, 12), 0.6) + np.log(3) * states
    results = []
    for number, (costs_us, states_of) in enumerate(zip(np.exp(logs), states, strict=True)):

        def change(block, costs_us=costs_us, states_of=states_of):
            mixed = states_of[block.case, block.round] < 0
            return replace_block(block, float(costs_us[block.case, block.round]), mixed)

        results.append(
            write_run(
                tmp_path_factory.mktemp("run"),
                sizes=[16384, 65536],
                modes=["isolated"],
                algorithms=["library", "two_shot"],
                n_blocks=12,
                n=4,
                seed=number,
                change=change,
                fast_rounds=np.flatnonzero(links[number] == 0).tolist(),
            )
        )
    return (
        [Launch(result, "first", number // 2) for number, result in enumerate(results)],
        logs,
        states,
    )


def replace_block(block, time_us, mixed):
    changed = {"time_us": time_us, "total_us": time_us} | (
        {"link_rtt_ns": (FAST_NS, SLOW_NS)} if mixed else {}
    )
    return msgspec.structs.replace(block, **changed)


def log_medians(logs, states):
    return np.stack(
        [
            [launch_medians(costs, link, 2) for costs, link in zip(*launch, strict=True)]
            for launch in zip(np.exp(logs), states, strict=True)
        ]
    )


def test_synthetic_launches_are_compared_like_real_launches(launches):
    real, logs, states = launches
    paired = log_medians(logs, states).reshape(6, 2, 4, 2).transpose(1, 2, 0, 3)[:, None]
    assert np.isnan(paired).any()
    expected = log_ratios(paired)[0]

    pairs = list(zip(real[::2], real[1::2], strict=True))
    ratios, _ = find_ratios(pairs, [key_of(case) for case in real[0].result.run.cases], ())
    np.testing.assert_allclose(expected, ratios, atol=1e-5)
    assert np.isfinite(ratios).sum() > 12


def test_recorded_launches_are_drawn_unchanged(launches, tmp_path, monkeypatch):
    real, logs, states = launches
    record(tmp_path / "recorded.npz", real)
    monkeypatch.setattr(synthetic, "RECORDED", tmp_path / "recorded.npz")
    recorded, shared = launches_of(Scenario("", recorded=True), np.random.default_rng())
    np.testing.assert_allclose(recorded, log_medians(logs, states), rtol=1e-5)
    drawn = campaigns(
        Scenario("", recorded=True), (recorded, shared), np.random.default_rng(11), 20, 84, 10
    )
    assert drawn.shape == (2, 20, 84, 10, 2)
    assert set(drawn[np.isfinite(drawn)]) <= set(recorded[np.isfinite(recorded)])
    same = np.isclose(drawn[0], drawn[1], equal_nan=True).all(axis=(1, 3))
    assert not same.any()  # a launch is never paired with itself


def test_synthetic_and_real_launches_have_the_same_interval(launches):
    result = launches[0][0].result
    link = np.array(find_states(result.blocks).of_block)[:: len(result.cases)]
    by_case = [
        [block.time_us for block in result.blocks if block.case == case.case]
        for case in result.cases
    ]
    chosen = [np.array(costs)[link == np.argmax(np.bincount(link))] for costs in by_case]
    rho = stats.autocorrelation(chosen)
    intervals = [stats.median_interval(costs, rho=rho) for costs in chosen]
    for case, (median, low, high) in zip(result.cases, intervals, strict=True):
        assert (case.time_us.median, case.time_us.ci_low, case.time_us.ci_high) == pytest.approx(
            (median, low, high)
        )


def test_flipping_states_cost_pairs_but_add_no_bias():
    rng = np.random.default_rng(12)
    ratios = log_ratios(campaigns(FLIPPING, launches_of(FLIPPING, rng), rng, 200, 4, 10))
    assert 0.5 < np.isfinite(ratios).mean() < 0.99
    assert np.nanmax(np.abs(ratios)) < 0.2
