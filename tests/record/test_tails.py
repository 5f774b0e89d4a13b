"""The tail of a case: percentiles and shares of its steps, and intervals that contain the truth."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import bdtrc, betaincinv

from tests.calibration.calibrated_tails import blocks_of, tallied
from wiretax.record.effective_steps import (
    LEAST_BLOCKS,
    LEAST_LAUNCHES,
    effective_needed,
    rank_bounds,
    share_bounds,
)
from wiretax.record.histogram import Tally, add
from wiretax.record.tails import (
    LEAST_APART,
    PERCENTILES,
    percentile,
    share_above,
    steps_needed,
    tail_of,
)

TABLES = 120
QUIET_US, SLOW_US = 20.0, 100.0

pytestmark = pytest.mark.unit


def drawn(seed: int, n_blocks: int, n: int, share: float, length: float):
    """Steps, (blocks, n), that are slow in stretches of this mean length, this share of them."""
    rng = np.random.default_rng(seed)
    times_us = QUIET_US * np.exp(rng.normal(0, 0.1, (n_blocks, n + 100)))
    for row in times_us:
        for start in np.flatnonzero(rng.random(len(row)) < -np.log1p(-share) / length):
            row[start : start + rng.geometric(1 / length)] *= SLOW_US / QUIET_US
    return times_us[:, 100:]


def covered(tables: Sequence[Tally], bounds, truth: float) -> float:
    """The share of tables whose interval, which may have no upper end, has the truth. Most tables
    have an interval."""
    held = list[bool]()
    for table in tables:
        low, high = bounds(table)
        if low is not None:
            held.append(low <= truth and (high is None or truth <= high))
    assert len(held) > 0.9 * len(tables)
    return float(np.mean(held))


def ends(steps: Tally, share: float) -> Any:
    """Both ends of the interval of a percentile."""
    found = percentile(steps, share)
    assert found
    return found.ci_low, found.ci_high


def of_p99(steps):
    return ends(steps, 0.99)


def of_slow(steps):
    share = share_above(steps, 2 * steps.quantile_us(0.5))
    return share.ci_low, share.ci_high


def of_independent_steps(steps):
    low, high = rank_bounds(steps.n, 0.99)
    return steps.quantile_us(low), steps.quantile_us(high)


def of_independent_slow_steps(steps):
    above = steps.above(2 * steps.quantile_us(0.5)).sum()
    return share_bounds(steps.n, above / steps.n)


@pytest.mark.parametrize(("length", "naive_holds"), [(1.0, True), (5.0, False)])
def test_intervals_contain_the_truth_also_where_slow_steps_come_together(length, naive_holds):
    tables = [tallied(drawn(seed, 16, 700, 0.015, length)) for seed in range(TABLES)]
    truth_us = np.quantile(drawn(TABLES, 2000, 700, 0.015, length), 0.99)
    assert covered(tables, of_p99, truth_us) >= 0.93
    assert covered(tables, of_slow, 0.015) >= 0.93
    assert (covered(tables, of_independent_steps, truth_us) >= 0.9) == naive_holds
    assert (covered(tables, of_independent_slow_steps, 0.015) >= 0.9) == naive_holds


def test_a_block_that_has_most_of_the_steps_does_not_hide_how_blocks_differ():
    lengths = np.geomspace(3, 8000, 16, dtype=int)
    tables = [
        tallied([row[:length] for row, length in zip(rows, lengths, strict=True)])
        for rows in (drawn(seed, 16, 8000, 0.015, 3.0) for seed in range(TABLES))
    ]
    assert covered(tables, of_slow, 0.015) >= 0.93


def test_intervals_are_no_wider_than_they_must_be():
    tables = [tallied(drawn(seed, 16, 100, 0.0, 1.0)) for seed in range(TABLES)]
    misses = 1 - covered(tables, lambda steps: ends(steps, 0.5), QUIET_US)
    assert 0.01 < misses < 0.08


def test_launches_differ_more_than_their_blocks_say():
    def launches(seed):
        rng = np.random.default_rng(seed)
        factors = np.exp(rng.normal(0, 0.1, 8))
        return [tallied(drawn(seed + at, 4, 50, 0.0, 1.0) * f) for at, f in enumerate(factors)]

    def held(steps):
        low, high = ends(steps, 0.5)
        return low is None or low <= QUIET_US <= high

    def shuffled(steps):
        order = np.random.default_rng(1).permutation(len(steps.counts))
        one = np.zeros(len(order), int)
        return replace(steps, counts=steps.counts[order], launches=one)

    many = [launches(100 * seed) for seed in range(TABLES)]
    assert np.mean([held(add(each)) for each in many]) >= 0.93
    as_blocks = [shuffled(add(each)) for each in many]
    assert np.mean([held(each) for each in as_blocks]) < 0.8


def test_bounds_are_those_of_a_binomial():
    for n, share in (
        (400, 0.99),
        (5000, 0.5),
        (3, 0.5),
        (100_000, 0.999),
    ):
        low, high = rank_bounds(n, share)
        if low:
            assert bdtrc(np.floor(low * n) - 1, n, share) >= 0.975
            assert bdtrc(np.ceil(low * n) - 1, n, share) <= 0.975
        if high < 1:
            assert bdtrc(np.floor(high * n) - 1, n, share) >= 0.025
            assert bdtrc(np.ceil(high * n) - 1, n, share) <= 0.025
    for n, found in (
        (1000, 0),
        (1000, 7),
        (50, 25),
        (200_000, 2000),
        (10, 10),
    ):
        low, high = share_bounds(n, found / n)
        true_low = betaincinv(found, n - found + 1, 0.025) if found else 0
        true_high = betaincinv(found + 1, n - found, 0.975) if found < n else 1
        assert (low, high) == pytest.approx((true_low, true_high), rel=1e-4)


def test_what_too_few_steps_or_blocks_cannot_tell_is_not_told():
    steady = np.random.default_rng(3).lognormal(3, 0.1, (LEAST_BLOCKS, 200))
    assert steps_needed(0.99) == 1000
    assert effective_needed(0.99) == 368
    assert percentile(tallied(steady[:, :83]), 0.99) is None
    assert None not in ends(tallied(steady), 0.99)
    assert ends(tallied(steady[1:, :91]), 0.99) == (None, None)


def test_no_interval_is_narrower_than_the_bins_of_which_counts_are_known():
    rng = np.random.default_rng(1)
    for spread in (0.0, 0.003):
        times_us = QUIET_US * np.exp(rng.normal(0, spread, (LEAST_BLOCKS, 5000)))
        low_us, high_us = ends(tallied(times_us), 0.5)
        assert low_us <= QUIET_US <= high_us
        assert high_us / low_us < 1.02


def test_launches_of_which_each_has_few_blocks_are_clusters_of_their_own():
    steady = np.random.default_rng(1).lognormal(3, 0.1, (4, 200))
    few = [tallied(steady) for _ in range(4)]
    assert ends(add(few), 0.9) == (None, None)
    assert None not in ends(add([*few, few[0]]), 0.9)


def test_slow_steps_of_one_block_are_worth_less_than_as_many_of_all_blocks():
    apart = np.full((LEAST_BLOCKS, 100), QUIET_US)
    apart[:, 0] = SLOW_US
    together = np.full((LEAST_BLOCKS, 100), QUIET_US)
    together[3, :LEAST_BLOCKS] = SLOW_US
    found: Any = [share_above(tallied(times), 2 * QUIET_US) for times in (apart, together)]
    assert [share.value for share in found] == [0.01, 0.01]
    assert found[0].ci_low > 3 * found[1].ci_low
    assert found[0].ci_high is not None
    assert found[1].ci_high is None  # one burst does not tell how many more come

    none: Any = share_above(tallied(np.full((16, 100), QUIET_US)), 2 * QUIET_US)
    assert (none.value, none.ci_low) == (0, 0)
    assert 3 / 1600 < none.ci_high < 5 / 1600


def test_a_case_has_the_percentiles_that_its_steps_support():
    tail = tail_of(blocks_of(drawn(1, 16, 100, 0.02, 1.0)))
    assert tail["n_steps"] == 1600
    assert [name for name in PERCENTILES if tail[name] is None] == ["step_p999_us"]
    assert tail["step_p50_us"].ci_low < tail["step_p50_us"].value < tail["step_p50_us"].ci_high
    assert tail["slow_share"].ci_low < 0.02 < tail["slow_share"].ci_high


def test_the_page_says_what_the_program_needs():
    page = (Path(__file__).parents[2] / "docs" / "tails.md").read_text()
    for share in PERCENTILES.values():
        numbers = rf"\| P{100 * share:g} \| {steps_needed(share):,}( steps)? \|"
        assert re.search(rf"{numbers} {effective_needed(share):,}( effective steps)? \|", page)
    written = {5: "five", 6: "six"}
    for words in (
        f"from {LEAST_BLOCKS} blocks on",
        f"from {written[LEAST_LAUNCHES]} on",
        f"from fewer than {written[LEAST_APART]} blocks",
    ):
        assert words in page.replace("\n", " ")
