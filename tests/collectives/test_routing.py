"""The experts that tokens choose, and the load of experts and ranks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collectives.experts.routing import MOST_CHOICES, choose, draw, expert_counts

pytestmark = pytest.mark.unit

HEADER = (
    b"{'descr': '<i8', 'fortran_order': False, 'shape': (10000000000000,), }".ljust(117) + b"\n"
)
MUST = r"counts\.npy must have 4 integers from 0 to 5 \(tokens\) that add up to 10 \(choices\)"
IMPOSSIBLE = [[[5] * 4] * 2, [5, 3, 2], [2.5] * 4, [6, -1, 3, 2], [5] * 4, [6, 2, 1, 1]]
HUGE = b"\x93NUMPY\x01\x00" + len(HEADER).to_bytes(2, "little") + HEADER  # the header claims 73 TiB


@settings(deadline=None, max_examples=60, database=None, derandomize=True)
@given(st.integers(1, 70), st.integers(1, MOST_CHOICES), st.integers(1, 90), st.data())
def test_every_expert_has_its_count_and_no_token_chooses_an_expert_twice(
    experts, top_k, tokens, data
):
    top_k = min(top_k, experts)
    hot = data.draw(st.integers(1, experts))
    skew = data.draw(st.sampled_from(["uniform", "zipf:0", "zipf:1.2", "zipf:9.5", f"hot:{hot}"]))
    counts = expert_counts(skew, experts, tokens, top_k)
    assert counts.sum() == tokens * top_k
    assert counts.min() >= 0
    assert counts.max() <= tokens
    chosen = choose(counts, tokens, top_k, seed=data.draw(st.integers(0, 99)))
    assert np.array_equal(np.bincount(chosen.ravel(), minlength=experts), counts)
    assert all(len(set(of_token)) == top_k for of_token in chosen.tolist())


def test_skews_give_their_documented_counts():
    assert expert_counts("uniform", 8, 1024, 2).tolist() == [256] * 8
    assert expert_counts("hot:2", 8, 1024, 2).tolist() == [1024, 1024, 0, 0, 0, 0, 0, 0]
    assert expert_counts("hot:1", 4, 30, 2).tolist() == [30, 10, 10, 10]
    zipf = expert_counts("zipf:1", 4, 1000, 1)
    assert zipf.tolist() == [480, 240, 160, 120]


def test_a_file_gives_the_count_of_each_expert(tmp_path):
    path = tmp_path / "counts.npy"
    np.save(path, np.array([5, 0, 3, 2]))
    routes = draw(f"file:{path}", 2, 4, 5, 2, seed=1)
    assert np.bincount(routes.chosen.ravel(), minlength=4).tolist() == [5, 0, 3, 2]
    assert str(tmp_path) not in routes.skew, "the run must not store a path"
    np.save(path, np.array([5, 1, 2, 2]))
    assert draw(f"file:{path}", 2, 4, 5, 2, seed=1).skew != routes.skew, (
        "other counts must have another name"
    )


@pytest.mark.parametrize(
    ("saved", "sentence"),
    [
        *((np.array(counts), MUST) for counts in IMPOSSIBLE),
        *((saved, "cannot be read as an .npy file") for saved in (np.array([{}]), b"PK", HUGE)),
        (None, "cannot be read as an .npy file: No such file"),
    ],
)
def test_impossible_counts_are_refused(tmp_path, saved, sentence):
    path = tmp_path / "counts.npy"
    if isinstance(saved, bytes):
        path.write_bytes(saved)
    elif saved is not None:
        np.save(path, saved, allow_pickle=True)
    with pytest.raises(ValueError, match=sentence):
        expert_counts(f"file:{path}", 4, 5, 2)


@pytest.mark.parametrize("skew", ["", "zipf:x", "zipf:nan", "hot:0", "hot:9", "uniform:2", "w"])
def test_an_invalid_skew_is_refused(skew):
    with pytest.raises(ValueError, match=r"is not a skew|can be hot"):
        expert_counts(skew, 8, 64, 2)


def test_imbalance_and_traffic_follow_from_the_routes():
    routes = draw("hot:2", 2, 8, 1024, 2, seed=0)
    assert list(routes.imbalance().values()) == pytest.approx([4.0, 3**0.5, 2.0, 1.0])
    # Rank 0 has both experts of each token, so each token of rank 1 goes to rank 0 once.
    assert routes.between.tolist() == [[0, 0], [512, 0]]


def test_tokens_and_experts_are_split_in_order_and_some_ranks_may_have_none():
    routes = draw("uniform", 4, 2, 3, 1, seed=0)
    assert routes.tokens_of.tolist() == [0, 1, 1, 1]
    assert routes.owner.tolist() == [0, 2]
    assert [len(routes.rows_of(rank)[0]) for rank in range(4)] == [2, 0, 1, 0]


def test_weights_add_up_to_one_and_differ():
    weights = draw("uniform", 2, 8, 64, 3, seed=0).weights
    assert (weights.sum(axis=1) == 1).all()
    assert len({tuple(of_token) for of_token in weights.tolist()}) == 3
