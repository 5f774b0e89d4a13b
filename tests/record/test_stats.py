"""The statistics: an error in them reports a difference that does not exist, or one state of the
link instead of two."""

import numpy as np
import pytest

from wiretax.record.stats import is_precise, median_interval, warmup_length

pytestmark = pytest.mark.unit


def test_median_interval_covers_the_median_at_its_confidence():
    rng = np.random.default_rng(1)
    inside = []
    for n in (7, 11, 30):
        for _ in range(1000):
            _, low, high = median_interval(rng.lognormal(0.0, 1.0, n))
            assert low is not None
            assert high is not None
            inside.append(low <= 1.0 <= high)
    assert 0.94 < np.mean(inside) < 0.96


def test_median_interval_lies_within_the_tabulated_order_statistics():
    # Le Boudec, appendix A: x_(2) and x_(9) of 10 cover 97.9 %, x_(10) and x_(22) of 31 97.1 %.
    for n, rank in ((10, 2), (31, 10)):
        _, low, high = median_interval(range(1, n + 1))
        assert low is not None
        assert rank < low < rank + 1
        assert high == pytest.approx(n + 1 - low)
    assert median_interval([3, 1, 2, 5, 4]) == (3, None, None)
    with pytest.raises(ValueError, match="no values"):
        median_interval([])


def test_few_correlated_values_that_spread_widely_have_no_bounds():
    """Their bound was 1e15 and more, which no run file may contain: the run was lost."""
    assert median_interval([0.1, 0.2, 3000.0, 0.15, 8000.0, 4000.0], rho=0.95)[1:] == (None, None)


def test_an_interval_of_equal_values_is_the_value():
    """Rounded to beside it, it put a bar's median outside its interval, and matplotlib refused to
    draw the picture."""
    for value in (7.941999999999999, 1.146, 0.1, 128.937):
        for n in range(6, 60):
            assert median_interval([value] * n) == (value, value, value)


def test_warmup_is_only_the_slower_part_before_a_change():
    rng = np.random.default_rng(5)
    steady = rng.normal(10, 0.3, 200)
    slow_start = steady.copy()
    slow_start[:20] += 5
    two_steps = slow_start.copy()
    two_steps[:8] += 20
    assert warmup_length(steady) == 0
    assert warmup_length(slow_start) == 20
    assert warmup_length(two_steps) == 20
    assert warmup_length(slow_start[::-1]) == 0
    assert warmup_length(np.linspace(2, 1, 100)) <= 50
    assert warmup_length([]) == 0


def test_precise_needs_ten_blocks_and_one_percent():
    assert is_precise([100, 101.5] * 5)
    assert not is_precise([100, 100.5] * 4)
    assert not is_precise([100, 102.5] * 5)
