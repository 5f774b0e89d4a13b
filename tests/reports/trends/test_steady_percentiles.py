"""Percentiles that are steady from run to run, by what runs keep."""

import numpy as np
import pytest

from reports.trends.steady_percentiles import steady_us
from wiretax.record.observations import OBSERVED

N = 1000


def observed(*steps_us):
    """An observation of each of these steps, (n,) in us."""
    rows = []
    for own_us in steps_us:
        p50_us, p90_us, p99_us = np.quantile(own_us, (0.5, 0.9, 0.99), method="inverted_cdf")
        slow = np.mean(own_us > 2 * p50_us)
        kept = len(own_us), p50_us, p90_us, p99_us, np.nan, max(own_us), slow
        rows.append((0, 10, p50_us, p50_us, *kept))
    return np.array(rows, OBSERVED)


def steps_us(seed, share):
    rng = np.random.default_rng(seed)
    return 10 * rng.lognormal(0, 0.03, N) * np.where(rng.random(N) < share, 5.0, 1.0)


@pytest.mark.parametrize("share", [0.0, 0.05])
def test_it_is_the_percentile_where_few_steps_more_or_less_do_not_change_it(share):
    own = observed(steps_us(1, share))
    assert steady_us(own, "step_p99_us") == pytest.approx(own["step_p99_us"], rel=0.05)


def test_it_does_not_jump_where_the_percentile_does():
    """Nights of which each is alike would look as if half of them were five times slower."""
    nights = observed(*(steps_us(seed, 0.01) for seed in range(60)))
    plain, steady = (
        np.std(np.log(us)) for us in (nights["step_p99_us"], steady_us(nights, "step_p99_us"))
    )
    assert steady < 0.75 * plain


def test_runs_without_the_percentile_or_with_damaged_ones_have_none():
    """A P99 of 0 us, or a warning of numpy on a stranger's file."""
    none = np.array([(0, 10, 9.0, 9.0, *[np.nan] * 7)], OBSERVED)
    damaged = np.array([(0, 10, 9.0, 9.0, 0, 9.0, 0.0, 0.0, np.nan, 0.0, 7.0)], OBSERVED)
    with np.errstate(all="raise"):
        assert np.isnan(steady_us(none, "step_p99_us"))
        assert np.isnan(steady_us(damaged, "step_p99_us"))
