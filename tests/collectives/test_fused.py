"""Tests the fused kernels: correct, equal on all ranks, and bit-identical to compute followed by a
collective."""

import pytest

from tests.launch import assert_right, count, few, printed


@pytest.mark.parametrize(("ranks", "examples"), few([(2, 60), (3, 30), (1, 20)], 2))
def test_every_element_is_correct_and_bit_identical_to_two_launches(ranks, examples):
    assert_right(ranks, "fused", count(examples), str(ranks))


def test_a_fused_norm_has_the_same_bits_up_to_four_ranks_in_any_form_batch_and_place():
    """A model then answers alike whether it runs on two GPUs or on four."""
    said = [printed(ranks, "-m", "tests.ranks.norm_ranks") for ranks in few((4, 2, 3), 2)]
    assert len(said[0].splitlines()) == 4
    assert set(said) == {said[0]}
