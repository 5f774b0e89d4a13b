"""The intervals of `fit` hold over simulated launches, and the simulation notices broken ones."""

from functools import partial

import numpy as np
import pytest

from reports.trends import alpha_beta, crossovers
from tests.calibration import selfcheck
from tests.calibration.calibrated_fits import LAUNCHES, invented, line_coverage, overtaken

N = 800  # 400 pairs of algorithms
TEN_HEAVY = LAUNCHES[2]


def failing(claim):
    """The figures of a claim that miss their limits, widened for so few replications."""
    figures = claim(np.random.default_rng(82), N)
    scale = N / selfcheck.REPLICATIONS
    return [figure.name.rpartition(": ")[2] for figure in figures if not figure.judge(scale)[0]]


def narrow_intervals(monkeypatch):
    monkeypatch.setattr(alpha_beta, "INTERVAL_P", 0.15)


def interval_of_alpha_alone(monkeypatch):
    """As if beta were known, and 2 % less than it is."""
    half_bytes = alpha_beta.half_bytes
    monkeypatch.setattr(
        alpha_beta, "half_bytes", lambda alphas, slopes: half_bytes(alphas, slopes * 0 + 1.02e-4)
    )


def ends_of_the_neighbouring_sizes(monkeypatch):
    monkeypatch.setattr(crossovers, "FINE_STEPS", 2)


@pytest.mark.parametrize(
    ("claim", "breaks", "noticed"),
    [
        (partial(line_coverage, TEN_HEAVY), narrow_intervals, ["n_1/2"]),
        (partial(line_coverage, TEN_HEAVY), interval_of_alpha_alone, ["n_1/2"]),
        (partial(overtaken, TEN_HEAVY), ends_of_the_neighbouring_sizes, ["inside"]),
    ],
)
def test_broken_intervals_of_a_fit_miss_their_limits(claim, breaks, noticed, monkeypatch):
    assert failing(claim) == []
    breaks(monkeypatch)
    assert failing(claim) == noticed


def test_equal_algorithms_get_no_crossover_because_their_lines_must_differ_too(monkeypatch):
    """At some of many sizes equal algorithms seem to differ, one way and the other."""
    [figure] = invented(TEN_HEAVY, 0.0, np.random.default_rng(82), N)
    assert np.mean(figure.values) <= 0.01
    monkeypatch.setattr(crossovers, "_by_lines_us", crossovers._times_us)
    [figure] = invented(TEN_HEAVY, 0.0, np.random.default_rng(82), N)
    assert np.mean(figure.values) > 0.02
