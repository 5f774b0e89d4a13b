"""How a run divides its time among groups of iterations that differ in length."""

import pytest

from bench.harness.schedule import LEAST_GROUP_ROUNDS, fit_rounds, set_block_lengths
from tests.bench.harness.test_measure import iteration_of

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("budget_s", "turns"),
    [
        (1000.0, {"short": 256, "middle": 256, "long": 256}),  # all fit
        (60.0, {"short": 256, "middle": 85, "long": 23}),
        (20.0, {"short": 16, "middle": 16, "long": 16}),  # not even the minimum fits
    ],
)
def test_slow_groups_run_in_fewer_rounds(budget_s, turns):
    """When 64 MiB ran in as many rounds as 32 KiB, no difference at 32 KiB had an interval."""
    seconds = {"short": 2e-5, "middle": 0.015, "long": 0.2, "": 1e-6}
    iterations = [iteration_of() for _ in range(2) for _ in seconds]
    for iteration, (group, each_s) in zip(iterations, [*seconds.items()] * 2, strict=True):
        iteration.group, iteration.duration_s = group, each_s
    rounds = fit_rounds(iterations, 1, budget_s, 256)
    every = {iteration.group: iteration.every for iteration in iterations}
    assert all(number % 2 for number in every.values()), "odd and even rounds of each group"
    assert every.pop("") == 1
    assert {group: rounds // number for group, number in every.items()} == turns
    assert min(turns.values()) >= LEAST_GROUP_ROUNDS
    set_block_lengths(iterations, 1, budget_s, rounds, 0)
    short, _, long, *_ = iterations
    assert short.count >= 3 > long.count
