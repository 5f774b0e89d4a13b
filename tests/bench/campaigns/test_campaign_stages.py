"""The order of a campaign's launches and its stages, over launches that are only noted."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.campaigns import stages

pytestmark = pytest.mark.unit


@settings(deadline=None)
@given(names=st.integers(2, 6), rounds=st.integers(1, 60), seed=st.integers(0, 1000))
def test_a_machine_that_drifts_favours_no_variant(names, rounds, seed):
    """A variant that always ran first would pay for the cold machine and look slower."""
    names = [f"v{number}" for number in range(names)]
    drawn = stages.orders(names, rounds, str(seed))
    assert drawn == stages.orders(names, rounds, str(seed))
    assert [sorted(order) for order in drawn] == [names] * rounds
    whole = drawn[: rounds // 2 * 2]
    for name in names:
        assert sum(order.index(name) for order in whole) * 2 == len(whole) * (
            len(names) - 1
        )  # the mean place
        before = sum(order.index(names[0]) < order.index(name) for order in whole)
        assert before * 2 == (len(whole) if name != names[0] else 0)
