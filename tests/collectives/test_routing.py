"""The experts that tokens choose, and the load of experts and ranks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.layers.experts import CHAIN_ROUND_TRIPS, source_and_target
from collectives.collective import DATATYPES
from collectives.experts.routing import MOST_CHOICES, draw, weights_of

pytestmark = pytest.mark.unit


@settings(deadline=None, max_examples=60, database=None, derandomize=True)
@given(st.integers(1, 70), st.integers(1, MOST_CHOICES), st.integers(1, 90), st.integers(0, 99))
def test_no_token_chooses_an_expert_twice(experts, top_k, tokens, seed):
    top_k = min(top_k, experts)
    for skew in ("uniform", "zipf:0", "zipf:1.2", "zipf:99"):
        chosen = draw(skew, 1, experts, tokens, top_k, seed).chosen
        assert chosen.shape == (tokens, top_k)
        assert 0 <= chosen.min() <= chosen.max() < experts
        assert all(len(set(of_token)) == top_k for of_token in chosen.tolist())


def test_experts_are_as_likely_as_the_skew_says():
    def counts(skew, top_k):
        chosen = draw(skew, 1, 4, 10_000, top_k, seed=0).chosen
        return np.bincount(chosen.ravel(), minlength=4).tolist()

    assert counts("uniform", 2) == pytest.approx([5000] * 4, rel=0.05)
    assert counts("zipf:1", 1) == pytest.approx([4800, 2400, 1600, 1200], rel=0.05)
    assert counts("zipf:99", 2) == [10_000, 10_000, 0, 0]


def test_imbalance_and_traffic_follow_from_the_routes():
    routes = draw("zipf:99", 2, 8, 1024, 2, seed=0)
    assert routes.imbalance() == {"expert_max_over_mean": 4.0, "rank_max_over_mean": 2.0}
    # Rank 0 has both experts of each token, so each token of rank 1 goes to rank 0 once.
    assert routes.between.tolist() == [[0, 0], [512, 0]]


def test_tokens_and_experts_are_split_in_order_and_some_ranks_may_have_none():
    routes = draw("uniform", 4, 2, 3, 1, seed=0)
    assert routes.tokens_of.tolist() == [0, 1, 1, 1]
    assert routes.owner.tolist() == [0, 2]
    rows = [len(routes.rows_of(rank)[0]) for rank in range(4)]
    assert rows == [*np.bincount(routes.chosen.ravel(), minlength=2).repeat(2) * [1, 0, 1, 0]]


def test_weights_differ_and_add_up_to_one_in_any_order():
    """Two equal weights could be exchanged unseen."""
    for top_k in range(1, MOST_CHOICES + 1):
        weights = weights_of(top_k)
        assert len(set(weights.tolist())) == top_k
        assert weights.min() > 0
        for order in (weights, weights[::-1]):
            total = np.float32(0)
            for weight in order.astype(np.float32) * np.float32(31):
                total += weight
            assert total == 31


@pytest.mark.parametrize("datatype", ["float32", "float64"])
@pytest.mark.parametrize("top_k", [2, 3, 8, 16])
def test_a_chain_of_round_trips_returns_each_token(top_k, datatype):
    """Sums that round made MPICH and all our kernels look wrong: the reference rounds elsewhere."""
    routes = draw("uniform", 2, 16, 8, top_k, seed=0)
    trips = DATATYPES[datatype], "round_trip", CHAIN_ROUND_TRIPS
    for rank in range(2):
        sent, expected = source_and_target(routes, *trips, 0, rank)
        assert np.array_equal(sent, expected)
