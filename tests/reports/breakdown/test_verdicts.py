"""Where the time of a kind of call goes: never a confident wrong answer, and who is late."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from reports.breakdown.alone import to_measure
from reports.breakdown.calls import Kind
from reports.breakdown.from_traces import where_waited
from reports.breakdown.idle_beside import idle_beside
from reports.breakdown.kernel_names import Names
from reports.breakdown.step_parts import StepParts
from reports.breakdown.timeline import Timeline
from tests.reports.breakdown.made_calls import made_call
from tests.reports.breakdown.small_trace import CALL

TRUTHS = "transfer", "slower than alone", "waiting", "by turns", "launch", "mixed"


def call_of(truth, rng, n_calls=161):
    """Two, four or eight ranks with noise, and what the truth adds. Also the rank that is late."""
    ranks, us = int(rng.choice([2, 4, 8])), rng.uniform(8, 60)
    transport_us = us * rng.lognormal(0, 0.1, n_calls)
    late_us, idle_us = rng.exponential(0.03 * us, (2, ranks, n_calls))
    alone_us, culprit = us, int(rng.integers(ranks))
    if truth == "slower than alone":
        alone_us /= rng.uniform(1.5, 3)
    if truth == "waiting":
        late_us[culprit] += us * rng.uniform(4, 8) * rng.lognormal(0, 0.3, n_calls)
    if truth == "by turns":
        late_us = rng.exponential(us * rng.uniform(6, 9), (ranks, n_calls))
    if truth == "launch":
        idle_us += us * rng.uniform(4, 8)
    if truth == "mixed":
        late_us[culprit] += us * rng.uniform(0.85, 1.05)
    return made_call(late_us, transport_us, idle_us, alone_us), culprit


@pytest.mark.parametrize("truth", TRUTHS)
def test_the_verdict_is_right_in_95_percent(truth):
    rng, right = np.random.default_rng(37), 0
    for _ in range(60):
        call, culprit = call_of(truth, rng)
        late = [culprit] if truth in ("waiting", "mixed") else []
        expected = "waiting" if truth == "by turns" else truth
        right += (call.verdict, call.late_ranks) == (expected, late)
    assert right >= 57


@pytest.mark.parametrize(
    ("times", "allowed"),
    [
        (1.0, {"mixed"}),
        (1.2, {"mixed", "inconclusive"}),
        (1.25, {"mixed", "inconclusive"}),
        (1.35, {"waiting", "inconclusive"}),
        (1.7, {"waiting"}),
    ],
)
def test_near_a_boundary_no_verdict_is_confidently_wrong(times, allowed):
    """The late rank comes so many times the transport late."""
    rng, found = np.random.default_rng(1), Counter[str]()
    for _ in range(40):
        late_us = np.zeros((2, 161))
        late_us[1] = 20 * times * rng.lognormal(-0.125, 0.5, 161)
        found[made_call(late_us, 20 * rng.lognormal(-0.01, 0.14, 161)).verdict] += 1
    assert sum(found[verdict] for verdict in allowed) >= 38, found


def test_ranks_that_are_equally_late_are_not_blamed():
    """Not even if lateness comes in spells of several calls."""
    rng, blamed = np.random.default_rng(5), 0
    for _ in range(60):
        noise = rng.standard_normal((2, 400))
        for place in range(1, 400):
            noise[:, place] = 0.8 * noise[:, place - 1] + 0.6 * noise[:, place]
        call = made_call(60 * np.exp(noise), np.full(400, 5.0))
        assert call.verdict == "waiting"
        blamed += bool(call.late_ranks)
    assert blamed <= 3
    assert "by turns" in call.why
    assert "no rank is to blame" in call.next_step


def test_the_late_rank_is_named_with_its_lateness():
    late_us = np.zeros((4, 40))
    late_us[2] = 90.0
    call = made_call(late_us, np.full(40, 10.0))
    assert call.why.endswith(
        "rank 2 is last in 100 %, by 90 us, and computes 90.0 us a step more than the others"
    )
    assert "find out why rank 2 is late" in call.next_step
    assert "--arrival-skew 90us" in call.next_step


def test_a_late_rank_without_a_cause_in_its_steps_gets_none():
    """Its steps began later: it neither computes nor idles longer."""
    late_us = np.zeros((2, 40))
    late_us[1] = 90.0
    parts = StepParts(dict.fromkeys(("compute", "idle"), 50 - late_us / 10))
    call = made_call(late_us, np.full(40, 10.0), parts=parts)
    assert call.why.endswith("rank 1 is last in 100 %, by 90 us")


def test_two_ranks_may_be_late_together():
    late_us = np.zeros((4, 40))
    late_us[2:] = 90.0
    late_us[2, ::2] += 1.0
    assert made_call(late_us, np.full(40, 10.0)).late_ranks == [2, 3]


def test_a_rank_that_comes_early_has_less_to_do():
    """Without a late rank nobody would be to blame, though the ranks' work is not alike."""
    late_us = np.full((3, 40), 90.0)
    late_us[0] = 0.0
    late_us[1, ::2] += 1.0
    call = made_call(late_us, np.full(40, 10.0))
    assert (call.verdict, call.late_ranks) == ("waiting", [])
    assert call.why.endswith("rank 0 comes 90.2 us before the others")
    assert "a trace shows which kernels rank 0 has not" in call.next_step


def test_a_wait_once_a_step_is_told_apart_from_one_at_each_call():
    """Behind a host that launches its graph late only the first call waits."""
    kind = Kind(
        "all_reduce",
        "vLLM",
        0,
        "",
        7,
        events=np.zeros((2, 40), int),
        duration_us=np.array([np.tile([808.0, 10, 10, 10, 12], 8), np.full(40, 8.0)]),
        step=np.repeat(np.arange(8), 5),
        group_size=2,
    )
    assert where_waited(kind) == "; 99 % of it at call 1 of 5 of a step"
    assert not where_waited(replace(kind, duration_us=np.array([[20.0] * 40, [8.0] * 40])))
    assert not where_waited(replace(kind, duration_us=np.full((2, 40), 8.0)))


def test_a_rank_whose_device_is_idle_has_a_late_host():
    late_us = np.zeros((2, 40))
    late_us[1] = 90.0
    computes = made_call(late_us, np.full(40, 10.0))
    idles = made_call(late_us, np.full(40, 10.0), idle_us=late_us)
    assert "bench.doctor" in computes.next_step
    assert "host" not in computes.next_step
    assert idles.verdict == "waiting"
    assert idles.why.endswith("and idles 90.0 us a step more than the others")
    assert "what else runs on its host's cores" in idles.next_step


@pytest.mark.parametrize(
    ("alone_us", "verdict"),
    [(None, "inconclusive"), (40.0, "transfer"), (15.0, "inconclusive")],
)
def test_one_rank_of_two_never_proves_a_slow_call(alone_us, verdict):
    """Its kernel may have waited in each call."""
    call = made_call(np.zeros((1, 40)), np.full(40, 40.0), alone_us=alone_us, gpus=2)
    assert call.verdict == verdict
    if verdict == "inconclusive":
        assert call.next_step.startswith("trace all ranks")


def test_one_rank_shows_waiting_and_launches():
    duration_us = np.where(np.arange(100) % 5, 100.0, 5.0)
    waits = made_call(np.zeros((1, 100)), duration_us, gpus=2)
    idles = made_call(
        np.zeros((1, 100)),
        np.full(100, 5.0),
        idle_us=np.full((1, 100), 40.0),
        gpus=2,
    )
    assert (waits.verdict, waits.late_ranks) == ("waiting", [])
    assert waits.next_step.startswith("trace all ranks")
    assert idles.verdict == "launch"


def test_two_ranks_of_128_are_a_bound_too():
    call = made_call(np.zeros((2, 40)), np.full(40, 40.0), alone_us=10.0, gpus=128)
    assert call.verdict == "inconclusive"


def test_few_calls_have_no_verdict():
    call = made_call(np.zeros((2, 19)), np.full(19, 40.0))
    assert (call.verdict, call.next_step) == ("inconclusive", "profile more steps")
    assert call.why.startswith("19 calls, and a verdict needs 20")
    one_rank = made_call(np.zeros((1, 19)), np.full(19, 40.0), gpus=2)
    assert one_rank.next_step == "profile more steps, of all ranks"


def test_a_call_without_its_time_alone_is_to_be_measured():
    call = made_call(np.zeros((2, 40)), np.full(40, 40.0), size_bytes=10240)
    assert call.verdict == "transfer"
    assert "-b 10K -e 10K --out alone" in call.next_step


@pytest.mark.parametrize(
    ("size_bytes", "typed"),
    [(3 << 20, "3M"), (5760, "5760"), (17 << 10, "17K")],
)
def test_the_size_to_measure_is_exact(size_bytes, typed):
    """5.62K would be 5754 B, and between it and the call lies no measured size."""
    assert f"allgather -b {typed} -e {typed}" in to_measure("all_gather", size_bytes, 2)


def timeline(*events):
    """Of (start, end, text), in us."""
    texts = [CALL, "gemm"]
    n = len(events)
    starts_us, ends_us, names = zip(*events, strict=True)
    return Timeline(
        "made",
        Names(),
        texts,
        np.array([texts.index(name) for name in names]),
        np.array(starts_us, float),
        np.array(ends_us, float),
        np.zeros(n, int),
        np.zeros(n, int),
        np.zeros(n, int),
    )


def test_work_beside_a_call_does_not_take_its_idle_time():
    """A kernel that begins during the call and ends after it."""
    device = timeline((0, 10, CALL), (5, 12, "gemm"), (40, 50, "gemm"))
    assert idle_beside(device).tolist() == [28, 0, 0]


def test_idle_belongs_to_the_call_beside_it():
    """A gap between two calls counts once."""
    device = timeline(
        (0, 10, "gemm"),
        (15, 25, CALL),  # 5 before, 3 behind
        (28, 40, "gemm"),
        (30, 60, "gemm"),  # another stream works until 60
        (45, 50, "gemm"),
        (62, 70, CALL),  # 2 before
        (74, 80, CALL),  # 4 before
        (80, 90, "gemm"),
        (180, 190, "gemm"),  # a gap between two products is no call's
    )
    assert idle_beside(device).tolist() == [0, 8, 0, 0, 0, 2, 4, 0, 0]
