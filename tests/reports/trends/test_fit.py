"""Tests the fits: they recover known lines from synthetic runs, mark uncertain figures, and store
records."""

import json
import re
from functools import partial

import msgspec
import numpy as np
import pytest

from reports.trends.alpha_beta import Fit, half_bytes
from reports.trends.crossovers import Crossover, crossovers_of
from reports.trends.fit import fits_of, text
from tests.reports.synthetic_campaign import no_effect, write_launch
from tests.reports.synthetic_run import FAST_NS, cost_us, rewrite_head, run_id, write_run

pytestmark = pytest.mark.unit

SIZES = [16384 << step for step in range(10)]
STEP_BYTES = 1 << 20


def jumps(case):
    """The library takes half as long again from 1 MiB on."""
    return 1.5 if case.algorithm == "library" and case.size_bytes >= STEP_BYTES else 1.0


def launches(folder, count, **fields):
    """Launches that scatter by 1 % around lines (`cost_us`)."""
    made = {
        "effect": jumps,
        "spread": 0.01,
        "sizes": SIZES,
        "algorithms": ["two_shot", "ring", "library"],
        "n_blocks": 5,
        "n": 2,
        **fields,
    }
    return [write_launch(folder, number, **made) for number in range(count)]


@pytest.fixture(scope="module")
def six(tmp_path_factory):
    return launches(tmp_path_factory.mktemp("six"), 6, fast_rounds=range(6), n_blocks=10)


@pytest.fixture
def fit(reports):
    return partial(reports, "fit")


def named(fits, name):
    return next(fit for fit in fits if fit.name == name)


def has(estimate, truth):
    value, low, high = estimate
    assert value == pytest.approx(truth, rel=0.05)
    return low <= truth <= high


def test_a_fit_recovers_a_known_line_in_the_runs_state_of_the_link(six):
    """States of the link must not mix, and intervals must cover the truth."""
    fits, _ = fits_of(six)
    assert len(fits) == 3
    found = named(fits, "two_shot")
    assert len(set(found.run_ids)) == 6
    assert has(found.regimes[0].alpha_us, cost_us("two_shot", 0, FAST_NS, 2))
    for regime in found.regimes:
        assert has(regime.beta_gb_s, 7.1)
        assert regime.worst_residual < 0.02


def test_latency_bound_and_bandwidth_bound_sizes_have_a_line_each(six):
    """One line over a protocol switch predicts wrong times near it."""
    library = named(fits_of(six)[0], "MPICH 5.0.2")
    first, second = library.regimes
    assert (first.to_bytes, second.from_bytes) == (STEP_BYTES // 2, STEP_BYTES)
    assert has(first.beta_gb_s, 5.2)
    assert has(second.beta_gb_s, 5.2 / 1.5)


def test_a_start_up_that_is_not_resolved_has_no_figure(tmp_path, fit):
    """`up to -606 us` and `0.00 us` are no start-up times."""
    launches(tmp_path, 6, sizes=SIZES[6:], algorithms=["ring"], fast_rounds=range(5), spread=0.03)
    status, out, _ = fit(tmp_path)
    assert (status, len(re.findall("1M-8M +- ", out))) == (0, 1), out


def test_few_launches_give_no_interval(tmp_path):
    """An interval over one launch's blocks must not pass for an interval over launches."""
    fits, _ = fits_of(launches(tmp_path, 5))
    printed = text(fits, crossovers_of(fits))
    assert "Fewer than 6 launches have no intervals." in printed
    assert "Which is faster is not resolved at any size: two_shot and ring, " in printed
    regime = fits[0].regimes[0]
    assert regime.alpha_us
    assert regime.half_bytes
    assert regime.alpha_us[1:] == regime.half_bytes[1:] == (None, None)
    assert regime.beta_gb_s


def test_the_command_prints_and_stores_and_warns_across_days(six, fit, tmp_path):
    """Launches of two days lie in two groups, which no interval allows for."""
    folder, (fits, _) = six[0].path.parent, fits_of(six)
    found = crossovers_of(fits)
    assert fit(folder) == (0, text(fits, found), "")
    other = tmp_path / "other.jsonl"
    other.write_bytes(six[0].path.read_bytes())
    rewrite_head(other, run_id=f"2026-01-01{run_id(8)[10:]}")
    assert "the launches are of 2 days" in fit(folder, other)[2]
    answer = json.loads(fit(folder, "--json")[1])
    assert msgspec.convert(answer["fits"], list[Fit]) == fits
    assert msgspec.convert(answer["crossovers"], list[Crossover]) == found


def test_bad_input_is_refused_in_one_sentence(six, tmp_path, fit):
    """A fit over two machines describes neither."""
    other = tmp_path / "other.jsonl"
    other.write_bytes(six[0].path.read_bytes())
    rewrite_head(other, run_id=run_id(8), machine_id="another")
    status, _, err = fit(six[1].path, other)
    assert (status, " machine" in err) == (4, True), err
    fields = {"sizes": SIZES[:1], "algorithms": ["library"], "n_blocks": 2}
    cut = write_run(tmp_path, **fields, finish=False).path
    for words, sentence in (
        ((tmp_path / "none.jsonl",), "none.jsonl"),
        ((cut,), "left out, incomplete: 1"),
        ((six[0].path, "--plot", tmp_path / "fit.gif"), "a picture ends in .svg or .png"),
    ):
        status, _, err = fit(*words)
        assert (status, sentence in err, err.count("\n")) == (2, True, 1)


def test_half_of_the_bandwidth_is_reached_at_alpha_times_beta(six, tmp_path):
    """Where that size was not measured, the page must say so; where alpha has no figure, too."""
    small = launches(tmp_path, 6, sizes=[1024 << step for step in range(10)], fast_rounds=range(5))
    fits, _ = fits_of(small)
    (regime,) = named(fits, "two_shot").regimes
    assert has(regime.half_bytes, 7.1e3 * cost_us("two_shot", 0, FAST_NS, 2))
    assert not regime.is_half_extrapolated
    assert "extrapolated" not in text(fits, []).lower()
    fits, _ = fits_of(six)
    first, _ = named(fits, "two_shot").regimes
    assert has(first.half_bytes, 7.1e3 * cost_us("two_shot", 0, FAST_NS, 2))
    assert first.is_half_extrapolated
    printed = text(fits, [])
    assert re.search(r"two_shot +16K-512K +4\.\S+K \[\S+ \S+\] extrapolated", printed), printed
    assert "Extrapolated: this size is not among those of the line." in printed
    assert re.search(r"MPICH 5.0.2 +1M-8M +not resolved\n", printed), printed


def test_launches_whose_line_does_not_rise_leave_half_of_the_bandwidth_open():
    """A quotient by a slope of 0 or less was infinite or negative."""
    alphas_us, slopes = np.full(10, 2.0), np.full(10, 1e-4)
    slopes[0] = 0
    assert half_bytes(alphas_us, slopes) == pytest.approx((2e4, 2e4, 4e4))
    slopes[:6] = -1e-4
    assert half_bytes(alphas_us, slopes) is None


def crossing(below, above, below_gb_s, above_gb_s):
    """The size at which the lines of `cost_us` meet."""
    later_us = cost_us(above, 0, FAST_NS, 2) - cost_us(below, 0, FAST_NS, 2)
    return later_us * 1e3 / (1 / below_gb_s - 1 / above_gb_s)


def test_an_algorithm_that_overtakes_is_named_with_the_size(tmp_path, fit):
    """The best algorithm depends on the size; which pairs have no such size, and where an order is
    open, must be said too."""
    made = {"algorithms": ["library", "one_shot_push", "two_shot", "ring"], "fast_rounds": range(5)}
    fits, _ = fits_of(launches(tmp_path, 8, effect=no_effect, **made))
    found = crossovers_of(fits)
    first, second = (each for each in found if each.size_bytes)
    assert (first.faster_below, first.faster_above) == ("MPICH 5.0.2", "one_shot_push")
    assert (second.faster_below, second.faster_above) == ("two_shot", "ring")
    assert has(first.size_bytes, crossing("library", "one_shot_push", 5.2, 6.4))
    assert has(second.size_bytes, crossing("two_shot", "ring", 7.1, 7.6))
    pairs = {(each.first, each.second): each for each in found}
    never = pairs["one_shot_push", "two_shot"]
    assert (never.faster_below, never.faster_above) == ("two_shot", "two_shot")
    assert not never.open_bytes
    picture = tmp_path / "fit.svg"
    status, out, err = fit(tmp_path, "--plot", picture)
    assert (status, err) == (0, "")
    assert re.search(r"one_shot_push +MPICH 5.0.2 +\d\S+K \[\d\S+K \d\S+K\]\n", out), out
    assert "Never within the measured sizes is two_shot overtaken by: " in out
    drawn = picture.read_text()
    for words in ("one_shot_push overtakes MPICH 5.0.2 at ", "two_shot", "n_1/2", "8 launches"):
        assert words in drawn
