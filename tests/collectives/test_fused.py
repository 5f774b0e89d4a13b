"""Tests the fused kernels: correct, equal on all ranks, and bit-identical to compute followed by a
collective."""

import pytest

from tests.launch import assert_right, count, few, printed


@pytest.mark.parametrize(("ranks", "examples"), few([(2, 60), (3, 30), (1, 20)], 2))
def test_every_element_is_correct_and_bit_identical_to_two_launches(ranks, examples):
    assert_right(ranks, "fused", count(examples), str(ranks))


def test_a_norm_has_the_same_bits_up_to_four_ranks_in_any_form_batch_and_place():
    """A model then answers alike whether it runs on three GPUs or on four."""
    types = few(("float32", "bfloat16"), 1)
    command = "tests/ranks/fused_ranks.py", "norms", *types
    [digests] = {printed(ranks, *command) for ranks in few((3, 4, 2), 2)}
    assert len(digests.split()) == 3 * len(types)
