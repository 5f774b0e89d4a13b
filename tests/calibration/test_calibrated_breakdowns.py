"""A step's bill holds over simulated traces, and the simulation notices broken rules."""

import numpy as np
import pytest

from reports.breakdown import verdicts
from reports.breakdown.calls import Kind
from tests.calibration import calibrated_breakdowns, selfcheck
from tests.calibration.calibrated_breakdowns import NOISES, breakdowns, too_few
from wiretax.record import stats

N = 96  # 24 traces


def failing(claim):
    """The figures of a claim that miss their limits, widened for so few replications."""
    figures = claim(np.random.default_rng(82), N)
    scale = N / selfcheck.REPLICATIONS
    return [figure.name.rpartition(": ")[2] for figure in figures if not figure.judge(scale)[0]]


def plain(rng, n):
    return breakdowns(*NOISES[0], rng, n)


def the_longest_kernel_is_transport(monkeypatch):
    longest = property(lambda self: self.duration_us.max(axis=0))
    monkeypatch.setattr(Kind, "transport_us", longest)


def intervals_of_half_the_width(monkeypatch):
    quantile = stats.student_quantile
    half = "reports.breakdown.step_parts.student_quantile"
    monkeypatch.setattr(half, lambda *freedom: quantile(*freedom) / 2)


def every_call_waits(monkeypatch):
    monkeypatch.setattr(verdicts, "verdict_of", lambda *_: "waiting")


@pytest.fixture(autouse=True)
def short_traces(monkeypatch):
    monkeypatch.setattr(calibrated_breakdowns, "STEPS", (25,))
    monkeypatch.setattr(calibrated_breakdowns, "LONG", 1000)


def test_bills_of_simulated_traces_meet_their_limits():
    assert failing(plain) == []
    assert failing(too_few) == []


@pytest.mark.parametrize(
    ("breaks", "noticed"),
    [
        (the_longest_kernel_is_transport, {"intervals"}),
        (intervals_of_half_the_width, {"intervals"}),
        (every_call_waits, {"clear verdicts", "no wrong one"}),
    ],
)
def test_a_broken_rule_misses_its_limits(breaks, noticed, monkeypatch):
    breaks(monkeypatch)
    assert noticed <= {*failing(plain)}
