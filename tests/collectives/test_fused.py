"""Tests the fused kernels: correct, equal on all ranks, and bit-identical to compute followed by a
collective."""

import pytest

from tests.launch import assert_right, count, few


@pytest.mark.parametrize(("ranks", "examples"), few([(2, 60), (3, 30), (1, 20)], 2))
def test_every_element_is_correct_and_bit_identical_to_two_launches(ranks, examples):
    assert_right(ranks, "fused", count(examples), str(ranks))
