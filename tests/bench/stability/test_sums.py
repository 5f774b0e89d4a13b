"""The order of a sum from its bits, its error, and the sizes at which it changes."""

import numpy as np
import pytest

from bench.stability import sums
from bench.stability.sums import difference, draw
from collectives.collective import DATATYPES

pytestmark = pytest.mark.unit

FLOAT, BFLOAT16 = DATATYPES["float32"], DATATYPES["bfloat16"]


def stored(datatype, ranks, count):
    """What each rank sends, (ranks, count)."""
    return np.stack([datatype.encode(draw((rank,), count)) for rank in range(ranks)])


def summed(datatype, tree, parts):
    return datatype.encode(sums.value(tree, datatype.decode(parts), datatype))


@pytest.mark.parametrize("ranks", [2, 3, 4, 5])
def test_every_tree_is_recognised(ranks):
    """With one element fewer than LEAST_ELEMENTS another tree could have the same bits."""
    parts, trees = stored(FLOAT, ranks, 96), sums.trees_over((1 << ranks) - 1)
    assert len({*map(sums.text, trees)}) == len(trees) == [1, 3, 15, 105][ranks - 2]
    for tree in trees:
        found = sums.Explainer(FLOAT).explain(parts, summed(FLOAT, tree, parts))
        assert found[0] == (0, sums.text(tree))
        assert len({order for _, order in found}) == 1


@pytest.mark.parametrize(
    ("tree", "text"),
    [
        ((((((((0, 1), 2), 3), 4), 5), 6), 7), "0+1+2+3+4+5+6+7"),
        ((0, ((((((1, 2), 3), 4), 5), 6), 7)), "1+2+3+4+5+6+7+0"),
        ((((0, 1), (2, 3)), ((4, 5), (6, 7))), "((0+1)+(2+3))+((4+5)+(6+7))"),
    ],
)
def test_trees_of_eight_ranks_are_found_among_135135(tree, text):
    parts = stored(FLOAT, 8, 96)
    assert sums.Explainer(FLOAT).explain(parts, summed(FLOAT, tree, parts))[0] == (0, text)


def test_a_result_in_parts_has_the_order_of_each_part():
    """As of a ring, whose parts each begin at another rank; no window lies within both."""
    parts, trees = stored(FLOAT, 3, 30_000), [((0, 1), 2), (0, (1, 2)), ((0, 2), 1)]
    thirds = np.split(parts, 3, axis=1)
    got = np.concatenate(
        [summed(FLOAT, tree, third) for tree, third in zip(trees, thirds, strict=True)]
    )
    first = dict[str, int]()
    for at, order in sums.Explainer(FLOAT).explain(parts, got):
        first.setdefault(order, at)
    assert [*first] == ["0+1+2", "1+2+0", "0+2+1"]
    assert all(abs(at - 10_000 * third) < 700 for third, at in enumerate(first.values()))


def test_half_types_round_once_or_at_each_sum_and_nothing_explains_another_result():
    parts = stored(BFLOAT16, 4, 3000)
    exact = BFLOAT16.encode(BFLOAT16.decode(parts).sum(axis=0))
    each = summed(BFLOAT16, (((0, 1), 2), 3), parts)
    explain = sums.Explainer(BFLOAT16).explain
    for got, name in ((exact, "rounded once"), (each, "0+1+2+3"), (each ^ 1, "no order explains")):
        assert {order for _, order in explain(parts, got)} == {name}
    assert explain(parts[:, :9], each[:9]) == []  # other orders may have these bits too


def test_bisection_finds_the_first_count_of_each_order():
    def order_of(count):
        unknown: dict[int, list[str] | None] = {999: None, 1999: []}
        return unknown.get(count, ["abcd"[sum(count >= at for at in (37, 1000, 2000))]])

    found = sums.changes([2**n for n in range(12)], order_of)
    assert found == [(37, ["a"], ["b"]), (1000, ["b"], ["c"])]


def test_a_difference_counts_elements_and_ulps_across_zero():
    one = np.array([1.0, -0.0, 1e-45, 3.0], np.float32)
    other = np.array([np.nextafter(np.float32(1), np.float32(2)), 0.0, -1e-45, 3.0], np.float32)
    found = difference(one, other, FLOAT, 1.0)
    assert (found.elements, found.differ, found.wrong, found.ulp) == (4, 3, 0, 2)
    other[:2] = 2.5, np.nan
    assert difference(one, other, FLOAT, 1.0).wrong == 2


def test_no_release_of_numpy_changes_the_data():
    """Baselines of bits live for years."""
    numbers = draw((0, 1, 0), 3)
    assert numbers.tobytes().hex() == "2516ac85e2eb25c0ccdb31fe6899f0bfbee98d4df84f18c0"
    sizes = np.abs(draw((7,), 1000))
    assert 1 <= sizes.min() < 2 < 8 < sizes.max() < 16
    assert np.array_equal(draw((7,), 1000)[:10], draw((7,), 10))
