"""What a run keeps of its steps: exact counts in bins of 1 %, which add up."""

from base64 import b64encode

import numpy as np
import pytest
from msgspec.structs import replace

from wiretax.record.histogram import add, counts_of, steps_of, tally
from wiretax.record.schema import Block


def block(steps_us, number=0):
    steps = steps_of(steps_us)
    return Block(case=0, block=number, round=number, n=len(steps_us), time_us=1.0, steps=steps)


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


@pytest.mark.parametrize("steps_us", [[0.0], [0.0, 1e-9, 12.5], [3.0], [1e14, 0.5]])
def test_any_times_are_counted(steps_us):
    steps = steps_of(np.array(steps_us))
    assert sum(counts_of(steps, len(steps_us))[1]) == len(steps_us)


HOSTILE = {
    "a count of 2^63": bytes([0xFF] * 9 + [0x01]),
    "counts that are too many": bytes([0x02, 0x08]),
    "bins without an end": bytes([0xFF, 0xFF, 0xFF, 0x7F, 0x02]),
    "an empty bin twice": bytes([0x00, 0x02]),
    "no count": b"",
    "only empty bins": bytes([0x03]),
    "half a number": bytes([0x02, 0x80]),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_damaged_counts_are_refused(content):
    damaged = replace(steps_of([3.0]), counts=b64encode(content).decode())
    with pytest.raises(ValueError, match="steps"):
        counts_of(damaged, 1)
    with pytest.raises(ValueError, match=r"base64|Incorrect padding|discontinuous"):
        counts_of(replace(damaged, counts="not base64!"), 1)


def test_runs_without_steps_have_no_tail():
    older = replace(block([3.0]), steps=None)
    assert tally([older, block([3.0])]) is None
    assert tally([]) is None
