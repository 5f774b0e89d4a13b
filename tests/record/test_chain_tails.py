"""A chain's tail is told beside what its calls would give it, were each delayed by itself."""

import numpy as np
import pytest
from msgspec.structs import replace

from tests.calibration.calibrated_tails import blocks_of
from tests.record.test_tails import QUIET_US, drawn
from wiretax.record.chain_tails import beyond_middle_us, chain_beside_calls
from wiretax.record.histogram import tally

pytestmark = pytest.mark.unit

CALLS = 160


def modes(share: float, length: float):
    """Blocks of single calls and of chains, of which this share of calls is slow, in stretches of
    this mean length."""
    calls_us = drawn(2, 16, 80 * CALLS, share, length)
    chains_us = calls_us.reshape(16, 80, CALLS).sum(axis=2)
    return blocks_of(drawn(1, 16, 1000, share, length)), blocks_of(chains_us)


def test_a_chain_of_independent_calls_needs_no_sentence():
    for share in (0.0, 0.001, 0.01):
        single, chain = modes(share, 1.0)
        assert chain_beside_calls(single, chain, CALLS) == ""


def test_delays_that_outlast_a_call_are_told():
    single, chain = modes(0.01, 5.0)
    told = chain_beside_calls(single, chain, CALLS)
    assert "more than independent calls" in told
    assert told.startswith("A chain's P99 is 1.")


def test_a_chain_without_the_delays_of_single_calls_is_told():
    single, _ = modes(0.02, 1.0)
    _, chain = modes(0.0, 1.0)
    assert "less than independent calls" in chain_beside_calls(single, chain, CALLS)


def test_a_sum_of_independent_calls_is_that_of_draws():
    single = tally(modes(0.01, 1.0)[0])
    assert single
    low_us, found_us, high_us = beyond_middle_us(single, CALLS)
    calls_us = drawn(3, 1, 4000 * CALLS, 0.01, 1.0).reshape(4000, CALLS).sum(axis=1)
    drawn_us = np.quantile(calls_us, 0.99) - np.median(calls_us)
    assert found_us == pytest.approx(drawn_us, rel=0.1)
    assert low_us < found_us < high_us
    assert high_us < 2 * QUIET_US * CALLS


def test_what_too_few_blocks_or_chains_tell_is_no_sentence():
    single, chain = modes(0.01, 5.0)
    assert chain_beside_calls(single, chain, CALLS)
    assert chain_beside_calls(single[:8], chain, CALLS) == ""
    assert chain_beside_calls(single, chain[:11], CALLS) == ""
    assert chain_beside_calls([], chain, CALLS) == ""
    older = [replace(block, steps=None) for block in single]
    assert chain_beside_calls(older, chain, CALLS) == ""
