"""The experts that tokens choose, and the load of experts and ranks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collectives.experts.routing import MOST_CHOICES, draw

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
