"""The parts of a step add up to it, and its interval holds the truth as often as it says."""

from itertools import pairwise

import numpy as np
import pytest

from reports.breakdown.calls import match
from reports.breakdown.cut_steps import Steps, steps_of_ranks
from reports.breakdown.step_parts import PARTS, mean_interval, parts_of
from reports.breakdown.timeline import Timeline
from tests.reports.breakdown.small_trace import CALL
from tests.reports.breakdown.timelines import Work, decode, timeline

STREAMS, CALLS, LENGTH_US = 3, 6, 400


def random_ranks(seed: int) -> tuple[list[Timeline], list[Steps]]:
    """Two to four ranks with works on three streams at whole microseconds, nested, of zero length,
    across the edges of steps; every rank makes the same number of calls a step on a stream."""
    rng = np.random.default_rng(seed)
    timelines, steps = [], []
    edges_us = np.sort(rng.choice(np.arange(20, LENGTH_US - 20), 4, replace=False)).astype(float)
    for rank in range(rng.integers(2, 5)):
        works: list[Work] = [
            ("gemm", start, start + rng.integers(0, 40), int(rng.integers(STREAMS)))
            for start in rng.integers(0, LENGTH_US, 30).tolist()
        ]
        for low, high in pairwise(edges_us):
            for start in rng.integers(int(low), int(high), CALLS).tolist():
                works.append((CALL, start, start + rng.integers(0, 30), 1))
        made = timeline(works, rank, ranks=4)
        of_work = np.searchsorted(edges_us, made.starts_us, side="right") - 1
        of_work[of_work == len(edges_us) - 1] = -1
        timelines.append(made)
        steps.append(Steps(["", "", ""], edges_us[:-1], edges_us[1:], of_work, "the test"))
    return timelines, steps


def parts_at(
    now: float,
    made: Timeline,
    moves_us: dict[int, float],
) -> str:
    """The part of half a microsecond after `now`, work by work."""
    now += 0.5
    runs = [
        place
        for place in range(len(made.name))
        if made.starts_us[place] <= now < made.ends_us[place]
    ]
    calls = [place for place in runs if made.is_call[place]]
    if len(runs) > len(calls):
        return "overlap" if calls else "compute"
    if not calls:
        return "idle"
    is_moving = any(now >= made.ends_us[place] - moves_us[place] for place in calls)
    return "transport" if is_moving else "waiting"


@pytest.mark.parametrize("seed", range(20))
def test_the_parts_are_those_of_each_microsecond(seed: int) -> None:
    timelines, steps = random_ranks(seed)
    matched = match(timelines, steps)
    (kind,) = matched.kinds

    parts = parts_of(timelines, matched.steps, matched.kinds)

    for rank, (made, own) in enumerate(zip(timelines, matched.steps, strict=True)):
        # Each call's least duration, reckoned here from all ranks' durations.
        lasts = [
            [t.ends_us[e] - t.starts_us[e] for e in es]
            for t, es in zip(timelines, kind.events, strict=True)
        ]
        moves_us = dict(zip(kind.events[rank].tolist(), map(min, *lasts), strict=True))
        moves_us |= {at: 1e9 for at in np.flatnonzero(made.is_call).tolist() if at not in moves_us}
        for step, (start, end) in enumerate(zip(own.starts_us, own.ends_us, strict=True)):
            seen = [parts_at(now, made, moves_us) for now in np.arange(start, end)]
            for part in PARTS:
                assert parts.us[part][rank, step] == seen.count(part), (part, rank, step)


def test_times_of_a_wall_clock_add_up() -> None:
    """Microseconds since 1970 have a quarter of a microsecond in a double."""
    timelines = [decode(rank, clock_us=1.7e15) for rank in range(2)]
    matched = match(timelines, steps_of_ranks(timelines))
    parts = parts_of(timelines, matched.steps, matched.kinds)

    whole_us = matched.steps[0].ends_us - matched.steps[0].starts_us

    assert np.sum([*parts.us.values()], axis=0) == pytest.approx(np.array([whole_us] * 2))
    assert all((us >= 0).all() for us in parts.us.values())


def test_what_hiding_saves_is_no_more_than_the_compute_after_a_call() -> None:
    """The first call of 10 us has 15 us of compute after it; the second, of 40, only 15."""
    works = [
        work
        for start in range(0, 700, 100)
        for work in [
            ("embed", start, start + 5, 7),
            (CALL, start + 10, start + 20, 7),
            ("gemm", start + 20, start + 35, 7),
            (CALL, start + 35, start + 75, 7),
            ("gemm", start + 75, start + 90, 7),
        ]
    ]
    timelines = [timeline(works)]
    steps = [
        Steps(
            [""] * 6,
            np.arange(0.0, 600, 100),
            np.arange(100.0, 700, 100),
            np.arange(35) // 5 % 7,
            "",
        )
    ]
    steps[0].of_work[30:] = -1
    matched = match(timelines, steps)

    hidden_us = parts_of(timelines, matched.steps, matched.kinds).hidden_us
    assert hidden_us is not None
    assert hidden_us.tolist() == [[10 + 15] * 6]


@pytest.mark.parametrize(
    ("n", "rho", "zeros", "least"),
    [
        (6, 0.0, False, 0.93),
        (20, 0.0, False, 0.93),
        (20, 0.3, False, 0.91),
        (200, 0.6, False, 0.92),
        (200, 0.3, True, 0.91),  # a step that waits for nobody has no logarithm
        (200, 0.6, True, 0.88),
    ],
)
def test_the_interval_holds_the_mean(
    n: int,
    rho: float,
    zeros: bool,
    least: float,
) -> None:
    rng = np.random.default_rng(1)
    values = rng.standard_normal((400, n))
    for at in range(1, n):
        values[:, at] = rho * values[:, at - 1] + np.sqrt(1 - rho**2) * values[:, at]
    truth = 1 / np.sqrt(2 * np.pi) if zeros else 0.0
    values = np.maximum(values, 0) if zeros else values

    held = 0
    for series in values:
        _, low, high = mean_interval(series)
        assert low is not None
        assert high is not None
        held += low <= truth <= high

    assert least <= held / len(values) <= 0.99


def test_few_steps_have_no_interval() -> None:
    assert mean_interval(np.arange(4.0)) == (1.5, None, None)


def test_a_trend_of_six_steps_does_not_make_an_interval_of_everything() -> None:
    _, low, high = mean_interval(np.array([75.5, 76.9, 76.3, 76.8, 78.4, 79.5]))

    assert low is not None
    assert high is not None
    assert 4 < high - low < 8
