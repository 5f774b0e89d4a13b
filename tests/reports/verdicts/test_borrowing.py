"""What cells learn from each other, and sides from other days: a slow cell must stay visible, and another day must not
be taken for a slowdown."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from reports.verdicts import days
from reports.verdicts.shrinkage import borrow, moderated, shrunken
from reports.verdicts.verdict import evidence, once, two_stages
from tests.launch import count
from tests.reports.synthetic_campaign import no_effect, rewrite_head, write_launch, write_launches
from tests.reports.verdicts.test_regress import gate

pytestmark = pytest.mark.unit

CELLS, GROUPS = 24, [0] * 12 + [1] * 12


def judged(rng, spread: float, slower: float = 0.0, pairs: int = 12):
    """The cells of a table of launches of this spread; the sixth is slower."""
    ratios = np.sqrt(2) * spread * rng.standard_normal((CELLS, pairs))
    ratios[5] += np.log1p(slower)
    return borrow(two_stages(ratios, np.zeros((CELLS, 0))), GROUPS)


def test_similar_variances_are_pooled_and_a_far_one_is_not():
    freedom = np.full(24, 10.0)
    alike = np.random.default_rng(1).chisquare(10, 24) / 10
    drawn, known = moderated(alike, freedom)
    assert np.ptp(drawn) < 0.5 * np.ptp(alike)
    assert (known > 20).all()
    alike[3] = 9.0
    drawn, known = moderated(alike, freedom)
    assert (drawn[3], known[3]) == (9.0, 10.0)
    assert moderated(alike[:3], freedom[:3])[0].tolist() == alike[:3].tolist()


def test_estimates_shrink_to_their_mean_unless_they_differ():
    rng = np.random.default_rng(2)
    alike, apart = 0.01 + 0.01 * rng.standard_normal(12), 0.2 * rng.standard_normal(12)
    for estimates, least, most in ((alike, 0.5, 1.0), (apart, 0.0, 0.01)):
        centers, errors = shrunken(estimates, np.full(12, 1e-4))
        gaps = estimates.mean() - estimates
        assert (
            ((centers - estimates) / gaps >= least) & ((centers - estimates) / gaps <= most)
        ).all()
        assert (errors <= 0.0101).all() or least


def test_the_interval_never_excludes_more_than_the_cells_own_pairs_do():
    """Otherwise 23 equal cells would hide a slow one."""
    for seed in range(5):
        cells = judged(np.random.default_rng(seed), 0.015, slower=0.05)
        assert (cells.high - cells.estimate >= 1.28 * cells.standard_error).all()
        assert (cells.estimate - cells.low >= 1.28 * cells.standard_error).all()
        assert (cells.high - cells.low <= 2 * 2.3 * cells.standard_error).all()


def test_equal_variants_pass_and_one_slow_cell_does_not():
    rng, passed, hidden = np.random.default_rng(3), [], []
    for _ in range(count(600)):
        passed.append((judged(rng, 0.0125).high < np.log1p(0.03)).all())
        hidden.append((judged(rng, 0.0125, slower=0.03).high < np.log1p(0.03)).all())
    assert np.mean(passed) > 0.85
    assert np.mean(hidden) < 0.2  # 10 % of 100 tables, by chance at most 20 %


def test_few_cells_and_few_pairs_keep_their_own_interval():
    ratios = 0.01 * np.random.default_rng(4).standard_normal((3, 12))
    ratios[2, 4:] = np.nan
    cells = borrow(two_stages(ratios, np.zeros((3, 0))), [0, 0, 0])
    assert np.isfinite(cells.high).tolist() == [True, True, False]
    np.testing.assert_allclose(cells.standard_error[:2], evidence(ratios).standard_error[:2])


@pytest.mark.parametrize(("common", "own"), [(0.02, 0.02), (0.0, 0.03), (0.04, 0.0)])
def test_the_spread_between_days_is_estimated_from_many_days(common, own):
    rng = np.random.default_rng(5)
    levels = common * rng.standard_normal(60) + own * rng.standard_normal((40, 60))
    ratios = np.zeros((CELLS, 12))
    spread = days.spread_of(levels + 0.01 * rng.standard_normal((40, 60)), 1e-4, ratios, GROUPS)
    assert spread.sd == pytest.approx(np.hypot(common, own), rel=0.15)
    assert (spread.freedom < 500) == (common > 0)  # of 59 x 39
    assert days.spread_of(levels[:, :2], 0.0, ratios, GROUPS) is days.PRIOR


def test_another_day_is_no_slowdown():
    """Days differ by 2 %. By the launches alone, 3 of 4 comparisons of the same code would be called slower."""
    rng, alone, called = np.random.default_rng(6), [], []
    for _ in range(count(300)):
        shift = 0.02 * np.sqrt(2) * rng.standard_normal((CELLS, 1))
        ratios = shift + 0.018 * rng.standard_normal((CELLS, 12))
        alone.append("SLOWER" in set(once(ratios).verdict))
        called.append("SLOWER" in set(once(ratios, 0.01, days.PRIOR.test).verdict))
    assert np.mean(alone) > 0.7
    assert np.mean(called) < 0.12


def test_cells_that_scatter_widen_the_assumed_spread_and_a_slow_algorithm_does_not():
    rng = np.random.default_rng(7)
    scatter = 0.018 * rng.standard_normal((CELLS, 12))
    slow = np.log1p(0.3) * (np.arange(CELLS) >= 12)[:, None]
    assert days.assumed_spread(scatter, GROUPS) is days.PRIOR
    assert days.assumed_spread(scatter + slow, GROUPS) is days.PRIOR
    assert days.assumed_spread(scatter[:1], GROUPS[:1]) is days.PRIOR
    own = 0.04 * rng.standard_normal(
        (CELLS, 1)
    )  # of a day with 4 %, half of its variance in common
    spread = days.assumed_spread(scatter + own + slow, GROUPS)
    assert spread.sd == pytest.approx(0.04, rel=0.4)
    assert "cells of an algorithm differ more" in spread.source


def on_day(day: int, folder, seed: int, shift: float = 1.0):
    """Eight launches of a day; `shift` is the factor on their times."""
    for number in range(8):
        run = write_launch(folder, number, seed=seed, effect=lambda case: shift)
        run_id = run.run.run_id.replace("2026-11-20", f"2026-11-{day:02d}")
        rewrite_head(run.path, run_id=run_id)
        run.path.rename(run.path.with_name(f"{run_id}.jsonl"))
    return f"{folder}/2026-11-{day:02d}*.jsonl"


def test_regress_takes_the_spread_from_three_other_days_or_says_what_it_assumes(tmp_path, capsys):
    """Nightly runs in one folder differ by 4 % between days, so that a night of 6 % is none of the code's; a night of
    50 % is told. The slow night itself is not one of the days."""
    store = tmp_path / "nightly"
    nights = [
        on_day(day, store, seed=day, shift=shift)
        for day, shift in enumerate((1.0, 1.04, 0.96, 1.02), 1)
    ]
    status, printed = gate(capsys, nights[0], on_day(5, store, seed=5, shift=1.06))
    assert (status in (0, 3), "estimated from 4 other days" in printed) == (True, True)
    status, printed = gate(capsys, nights[0], on_day(6, store, seed=6, shift=1.5))
    assert (status, "estimated from 5 other days" in printed) == (1, True)
    assert re.match(r"REGRESSION: 6 of 6 cells slower by 1.0% or more, by machine or code", printed)
    assert re.search(r"16 KiB \w+: 1\.\d+ \[[\d. ]+\] differs", printed)
    base, new = (
        write_launches(tmp_path / "a", 8),
        write_launches(tmp_path / "b", 8, seed=1, effect=no_effect),
    )
    assert "Days are assumed to differ by 2.0%" in gate(capsys, base, new)[1]


def test_days_that_differ_by_no_more_than_their_launches_give_a_verdict():
    rng = np.random.default_rng(8)
    levels, ratios = (
        0.003 * rng.standard_normal((CELLS, 3)),
        0.01 * rng.standard_normal((CELLS, 12)),
    )
    spread = days.spread_of(levels, 1e-4, ratios, GROUPS)
    cells = spread.judge(ratios, 0.01)
    assert (spread.sd, {"SLOWER", "FASTER"} & {*cells.verdict}) == (0.0, set())
    np.testing.assert_allclose(cells.standard_error, evidence(ratios).standard_error)
    assert "SLOWER" in {*spread.judge(ratios + 0.05, 0.01).verdict}


def test_slowed_runs_tell_nothing_of_the_days(tmp_path, capsys):
    store = tmp_path / "nightly"
    nights = [on_day(day, store, seed=day) for day in (1, 2, 3)]
    for day in (4, 5, 6):
        on_day(day, store, seed=day, shift=3.0)
        for path in store.glob(f"2026-11-{day:02d}*"):
            world = json.loads(path.read_text().split("\n", 1)[0])["world"]
            rewrite_head(path, world=world | {"slowed_percent": 200})
    status, printed = gate(capsys, nights[0], on_day(7, store, seed=7, shift=1.5))
    assert (status, "estimated from 3 other days" in printed) == (1, True)


def test_the_newest_launches_of_a_longer_baseline_are_compared(tmp_path, capsys):
    store = tmp_path / "nightly"
    on_day(1, store, seed=1, shift=1.5)
    on_day(2, store, seed=2)
    status, printed = gate(capsys, store, on_day(3, tmp_path / "tonight", seed=3, shift=1.5))
    assert (status, "Only the newest 8 of 16 launches of" in printed) == (1, True)


@pytest.mark.parametrize("spread", [0.3, 0.0])
def test_a_gate_that_decides_little_does_not_pass(tmp_path, capsys, spread):
    """Launches that scatter by 30 %, or cells that are slower by 0 to 60 %: a margin that only follows them would
    pass both."""

    def grows(case):
        return 1.0 if spread else 1 + 0.6 * (case.size_bytes > 16384)

    base = write_launches(tmp_path / "base", 8, spread=spread or 0.01)
    new = write_launches(tmp_path / "new", 8, seed=1, spread=spread or 0.01, effect=grows)
    status, printed = gate(capsys, base, new)
    assert status == 3
    assert "the slowdown to exclude: 25.0%, the most by default; these launches decide" in printed
