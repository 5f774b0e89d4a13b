"""What a run keeps of its steps: exact counts in bins of 1 %, which add up."""

from base64 import b64encode

import numpy as np
import pytest
from msgspec import convert, to_builtins
from msgspec.structs import replace

from wiretax.record.histogram import MOST_BINS, add, placed_steps, steps_of, tally
from wiretax.record.schema import Block, Steps


def block(steps_us, number=0):
    steps = steps_of(steps_us)
    return Block(
        case=0,
        block=number,
        round=number,
        n=len(steps_us),
        time_us=1.0,
        steps=steps,
    )


def tallied(*blocks):
    found = tally(blocks)
    assert found
    return found


def drawn(seed=1, n=5000):
    draw = np.random.default_rng(seed)
    return np.round(np.exp(draw.normal(3, 0.1, n)) * np.where(draw.random(n) < 0.02, 5, 1), 3)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99, 0.999, 1.0])
def test_percentiles_are_those_of_the_steps_themselves(share):
    steps_us = drawn()
    found_us = tallied(*(block(part, at) for at, part in enumerate(np.split(steps_us, 50))))
    true_us = np.quantile(steps_us, share, method="inverted_cdf")
    assert found_us.quantile_us(share) == pytest.approx(true_us, rel=0.01)
    assert (found_us.least_us, found_us.most_us, found_us.n) == (
        steps_us.min(),
        steps_us.max(),
        5000,
    )


def test_steps_of_launches_add_up_to_those_of_one():
    first, second = drawn(1), 3 * drawn(2)
    both = add([tallied(block(first)), tallied(block(second))])
    whole = tallied(block(np.concatenate([first, second])))
    assert both.counts.sum(axis=0).tolist() == whole.counts[0].tolist()
    assert both.launches.tolist() == [0, 1]
    limit_us = 100.0
    assert both.above(limit_us).sum() == pytest.approx(
        (np.concatenate([first, second]) > limit_us).sum(), abs=4
    )


def test_no_step_is_above_the_longest_and_all_are_above_less_than_the_shortest():
    """Of a timer that ticks in 3 us, every step was in part above 3 us, which none exceeds."""
    equal = tallied(block([3.0] * 100))
    assert [*equal.above(3.0), *equal.above(2.9999)] == [0, 100]
    both = tallied(block([3.0] * 90 + [6.0] * 10), block([6.0] * 10, 1))
    assert both.above(6.0).tolist() == [0, 0]
    assert both.above(4.0).tolist() == [10, 10]
    assert both.above(2.999).tolist() == [100, 10]
    assert tallied(block([0.0] * 9)).above(0.0).tolist() == [0]


def test_a_thousand_launches_are_those_of_their_blocks():
    parts = np.split(drawn(n=10_000), 1000)
    parts[7] *= 1e4  # far from the bins of all others
    each = [tallied(block(part[:5]), block(part[5:], 1)) for part in parts]
    whole = add([add(each[:400]), add(each[400:])])
    assert whole.launches.tolist() == np.repeat(np.arange(1000), 2).tolist()
    assert whole.counts.sum(axis=1).tolist() == [5] * 2000
    steps_us = np.concatenate(parts)
    assert (whole.least_us, whole.most_us) == pytest.approx((steps_us.min(), steps_us.max()))
    for limit_us in (15.0, 60.0, 1e4, 1e9):
        found = whole.above(limit_us).reshape(1000, 2).sum(axis=1)
        exact = [(part > limit_us).sum() for part in parts]
        assert np.abs(found - exact).max() <= 3
        assert found.sum() == pytest.approx(sum(exact), abs=100)


def test_a_clock_that_is_set_back_leaves_a_record_that_can_be_read():
    """One such step made a file that no report read."""
    steps = convert(to_builtins(steps_of([-0.25, 3.0])), Steps)
    assert (steps.least_us, steps.most_us) == (0.0, 3.0)


@pytest.mark.parametrize(
    "steps_us",
    [
        [0.0],
        [0.0, 1e-9, 12.5],
        [3.0],
        [1e14, 0.5],
    ],
)
def test_any_times_are_counted(steps_us):
    assert tallied(block(np.array(steps_us))).n == len(steps_us)


def in_base64(*content):
    return b64encode(bytes(content)).decode()


# The counts of a block of one step of 3 us are -808, 1: 808 empty bins, and one step.
OF_3_US = in_base64(0xCF, 0x0C, 0x02)
HOSTILE = {
    "a count of 2^63": {"counts": in_base64(*[0xFE] + [0xFF] * 8 + [0x03])},
    "a count of 2^63 in ten bytes": {"counts": in_base64(*[0x80] * 9 + [0x02])},
    "a number without an end": {"counts": in_base64(*[0xFF] * 100)},
    "counts that are too many": {"counts": in_base64(0xCF, 0x0C, 0x08)},
    "bins without an end": {"counts": in_base64(0xFF, 0xFF, 0xFF, 0x7F, 0x02)},
    "more bins than there are": {"counts": in_base64(*[0xCF, 0x0C] * 6, 0x02)},
    "an empty bin twice": {"counts": in_base64(0x00, 0xCF, 0x0C, 0x02)},
    "no count": {"counts": ""},
    "only empty bins": {"counts": in_base64(0xCF, 0x0C)},
    "empty bins behind the last step": {"counts": in_base64(0xCF, 0x0C, 0x02, 0x01)},
    "half a number": {"counts": in_base64(0xCF, 0x0C, 0x02, 0x80)},
    "no base64": {"counts": "not base64!"},
    "other letters": {"counts": "\u20ac" * 8},
    "bins of other times": {"counts": in_base64(0xCF, 0x0D, 0x02)},
    "the shortest step above the longest": {"least_us": 3.02},
    "a longest step that no bin has": {"most_us": 300.0},
    "a shortest step that no bin has": {"least_us": 0.0},
}


def test_the_counts_of_the_hostile_blocks_would_be_right():
    assert steps_of([3.0]).counts == OF_3_US


@pytest.mark.parametrize("damage", HOSTILE.values(), ids=HOSTILE)
def test_damaged_steps_are_refused(damage):
    right = block([3.0])
    damaged = replace(right, steps=replace(right.steps, **damage))
    for blocks in (
        [damaged],
        [right, damaged],
        [damaged, right],
    ):
        with pytest.raises(ValueError, match=r"steps?|base64|padding|ASCII"):
            list(placed_steps(blocks))


def test_many_blocks_far_apart_take_little_memory(monkeypatch):
    """Blocks that follow each other share a row, and no step is lost."""
    blocks = [block([1e-3, 1e12]) for _ in range(100)]
    monkeypatch.setattr("wiretax.record.histogram.MOST_CELLS", 20 * MOST_BINS)
    found = tallied(*blocks)
    assert len(found.counts) == len(found.launches) == 20
    assert set(found.counts.sum(axis=1)) == {2 * 5}  # five blocks a row


def test_runs_without_steps_have_no_tail():
    older = replace(block([3.0]), steps=None)
    assert tally([older, block([3.0])]) is None
    assert tally([]) is None
